"""One way to every detector: from the file or the run folder that a user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from faceexpr.pipeline.detectors import Detector, NetDetector
from faceexpr.pipeline.ground_truth import GroundTruth
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.checkpoints import find_checkpoint, newest
from faceexpr.weights.model_file import is_model_file, shipped_models

RUNS = Path("lightning_logs")


def load_detector(
    source: str | Path,
    device: str | torch.device = "cpu",
    suppression: Mapping[str, float | int | str] | None = None,
    batch_size: int = 8,
    images: Path | None = None,
) -> Detector | GroundTruth:
    """Load a detector.

    Args:
        source: a checkpoint of ``faceexpr fit`` or of ``faceexpr detectron2 fit``, the folder of such a run (its best
            checkpoint), a model file, the name of a model that comes with the package, or a file of annotations, whose
            boxes then stand in the place of a detector's.
        device: where it shall run.
        suppression: options of `Suppression` that differ from those of its training, such as ``{"min_score": 0.5}``.
        batch_size: pictures in a batch of the network.
        images: folder of the pictures, for a file of annotations.

    Raises:
        FaceExprError: nothing of these is there, or it cannot be loaded.
    """
    path = detector_file(source)
    kind = _kind(path)
    if kind == "annotations":
        from faceexpr.data.annotations.reading import read_annotations

        return GroundTruth(read_annotations(path, images), str(path))
    if kind == "detectron2":
        from faceexpr.detectron2.detector import Detectron2Detector
        from faceexpr.detectron2.installed import require_detectron2
        from faceexpr.detectron2.runs import read_suppression, run_folder_of

        require_detectron2()
        options = replace(read_suppression(run_folder_of(path)), **(suppression or {}))  # type: ignore[arg-type]
        return Detectron2Detector(path, options, str(device), batch_size)
    from faceexpr.tasks.base import load_task
    from faceexpr.tasks.detect import FaceDetector

    task = load_task(path, [FaceDetector], "a detector", "a FaceDetector")
    task.net.set_suppression(**(suppression or {}))
    return NetDetector(task.net, device, batch_size)


def detector_file(source: str | Path) -> Path:
    """Return the file that a detector is loaded from.

    Raises:
        FaceExprError: there is none.
    """
    path = Path(source)
    if path.is_dir() and source not in shipped_models():
        of_detectron2 = newest(path, "best*.pth") or newest(path, "*.pth")
        if of_detectron2 is not None and newest(path, "*.ckpt") is None:
            return of_detectron2
    return find_checkpoint(source, RUNS, "detector")


def _kind(path: Path) -> str:
    if is_model_file(path):
        return "lightning"
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise FaceExprError(f"--detector: {path} cannot be read: {error.strerror}") from error
    if head[:2] != b"PK":  # torch writes zip archives, and annotations are text
        return "annotations" if head[:1] != b"\x80" else "lightning"
    # Detectron2 calls the weights "model", Lightning calls them "state_dict"; an ending tells as much, without reading.
    return "detectron2" if path.suffix == ".pth" else "lightning"
