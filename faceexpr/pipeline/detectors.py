"""The first step: what finds the faces in images, networks or annotations, and how it is loaded from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.data.annotations.reading import Annotations, read_annotations
from faceexpr.detectron2.detectron2_options import find_weights
from faceexpr.models.base import speed_up
from faceexpr.models.detector import DetectionNet
from faceexpr.models.light_detector import LightDetector
from faceexpr.models.trained import load_trained
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.images import EXTENSIONS
from faceexpr.utils.text import kind_of
from faceexpr.weights.checkpoints import find_checkpoint
from faceexpr.weights.model_file import is_model_file, shipped_models
from faceexpr.weights.onnx_file import EVERYTHING, ONNX, Runtime, open_onnx

RUNS = Path("lightning_logs")


class Detector(Protocol):
    """Finds the faces in images."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Return the faces, on the host, of each of some upright images of any sizes, RGB, uint8 (H, W, 3)."""


class NetDetector:
    """A detection network as a detector.

    Only images of one size share a batch. A network would fill the others up to the largest, and what it finds in an
    image would then depend, at the edges, on the images that happen to stand beside it.

    Args:
        net: the network; it is moved to the device and set to evaluation.
        device: such as ``cpu`` or ``cuda``.
        batch_size: images in a batch.
    """

    def __init__(self, net: DetectionNet, device: str | torch.device = "cpu", batch_size: int = 8) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        self.device = torch.device(device)
        self.net = net.to(self.device).eval()
        self.suppression = net.suppression
        self.batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find faces; see `Detector`."""
        if any(not isinstance(image, np.ndarray) or image.shape[2:] != (3,) for image in images):
            raise FaceExprError("images are of another kind; expected a list of arrays (height, width, 3), RGB, uint8")
        found: dict[int, Detections] = {}
        in_groups = sorted(range(len(images)), key=lambda index: images[index].shape)
        for _, group in groupby(in_groups, key=lambda index: images[index].shape):
            while batch := list(islice(group, self.batch_size)):
                # Copies where need be: an image from Pillow may be read-only, which torch warns about.
                pixels = [np.require(images[index], requirements=["C", "W"]) for index in batch]
                tensors = [torch.from_numpy(image).permute(2, 0, 1).to(self.device) for image in pixels]
                found.update(zip(batch, (result.cpu() for result in self.net(tensors)), strict=True))
        return [found[index] for index in range(len(images))]


class OnnxDetector:
    """A detector in an ONNX file, run by ONNX Runtime on the CPU; its candidates are suppressed as any others.

    Args:
        path: the file, of ``faceexpr export``; one that holds no detector is refused.
        changes: options of `Suppression` that differ from those in the file.
    """

    def __init__(self, path: Path, changes: Mapping[str, Any]) -> None:
        self.run, metadata = open_onnx(path, torch.get_num_threads())
        if "suppression" not in metadata:
            raise FaceExprError(f"{path} holds no detector; expected one")
        self.suppression = Suppression(**{**metadata["suppression"], **changes})

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find faces, in one image after the other; see `Detector`."""
        limits = {"min_score": self.suppression.min_score, **EVERYTHING}
        outputs = (self.run(image.transpose(2, 0, 1)[None], **limits) for image in images)
        found = (map(torch.from_numpy, boxes_and_scores) for *boxes_and_scores, _ in outputs)
        return [suppress(boxes, scores, self.suppression) for boxes, scores in found]


class GroundTruth:
    """Annotated boxes in the place of a detector's: what the second step does when the first makes no mistake.

    The faces of an image are looked up by its real path, through links and relative parts. Faces that are marked to be
    ignored are left out. Every score is 1.

    Args:
        annotations: the images and their faces.
        name: of the file that they come from, for messages.
    """

    def __init__(self, annotations: Annotations, name: str = "the annotations") -> None:
        self.name = name
        self._records = {os.path.realpath(record.path): record for record in annotations.images}

    def faces(self, path: str | os.PathLike[str], reduction: int = 1) -> Detections:
        """Return the faces of the image in a file, in pixels that are ``reduction`` of the file's wide and high.

        Raises:
            FaceExprError: nothing is known of the faces of this image.
        """
        record = self._records.get(os.path.realpath(path))
        if record is None or not record.labelled:
            raise FaceExprError(f"{Path(path)}: {self.name} does not say where its faces are")
        boxes = torch.from_numpy(record.boxes[~record.ignored]).float() / reduction
        return Detections(boxes, torch.ones(len(boxes)))


def load_detector(
    source: str | Path, device: str | torch.device = "cpu",
    suppression: Mapping[str, float | int | str] | None = None, batch_size: int = 8, images: Path | None = None,
    runtime: Runtime = "torch", test_side: int | None = None,
) -> Detector | GroundTruth:  # fmt: skip
    """Load a detector.

    Args:
        source: a checkpoint of ``faceexpr fit`` or of ``faceexpr detectron2 fit``, the folder of such a run (its best
            checkpoint), a model file, an ONNX file, the name of a model that comes with the package, or a file of
            annotations, whose boxes then stand in the place of a detector's.
        device: where it shall run.
        suppression: options of `Suppression` that differ from those of its training, such as ``{"min_score": 0.5}``.
        batch_size: images in a batch of the network.
        images: folder of the images, for a file of annotations.
        runtime: ``onnx`` has ONNX Runtime run it, on the CPU; a checkpoint is written as an ONNX file first.
        test_side: side to which a `LightDetector` in torch reduces larger images; by default as it was trained with.

    Raises:
        FaceExprError: nothing of these is there, or it cannot be loaded.
    """
    path = find_detector_file(source)
    is_image = path.suffix.lower() in EXTENSIONS
    require(not is_image, "detector", f"{path}, an image", "a model, or annotations; in Python, FacePipeline()(image)")
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise FaceExprError(f"detector: {path} cannot be read: {error.strerror}") from error
    # Annotations are text; torch writes zip archives, or pickles as it did long ago.
    if path.suffix != ONNX and not is_model_file(path) and not start.startswith((b"PK", b"\x80")):
        return GroundTruth(read_annotations(path, images), str(path))
    if runtime == "onnx" or path.suffix == ONNX:
        if path.suffix == ".pth":
            raise FaceExprError(f"runtime is onnx, and {path} is Detectron2's; expected torch")
        if test_side is not None:
            raise FaceExprError(f"test_side is {test_side}, and an ONNX file has its own; expected runtime torch")
        from faceexpr.pipeline.programs import converted

        return OnnxDetector(converted(path), suppression or {})
    if path.suffix == ".pth":
        from faceexpr.detectron2.detectron2_detector import Detectron2Detector

        return Detectron2Detector(path, suppression, str(device))
    net = load_trained(path)
    if not isinstance(net, DetectionNet):
        from faceexpr.tasks.base import load_task
        from faceexpr.tasks.detect import FaceDetector

        net = load_task(path, [FaceDetector], "a detector", "a FaceDetector").net
    return fast_detector(net, device, suppression or {}, batch_size, test_side)


def fast_detector(
    net: DetectionNet, device: str | torch.device, suppression: Mapping[str, Any], batch_size: int, side: int | None
) -> NetDetector:
    """Return a detector of a network, which is changed and will learn no more; see `load_detector`."""
    net.set_suppression(**suppression)
    if side is not None:
        if not isinstance(net, LightDetector):
            raise FaceExprError(f"test_side is {side}, and the detector is a {type(net).__name__}; expected none")
        require(side >= 32, "test_side", side, "32 or more pixels")
        net.test_side = side
    speed_up(net)
    return NetDetector(net, device, batch_size)


def find_detector_file(source: str | Path) -> Path:
    """Return the file that a detector is loaded from; a `FaceExprError` where there is none."""
    require(isinstance(source, str | Path), "detector", kind_of(source), "a name or a file")
    path = Path(source)
    of_detectron2 = any(path.rglob("*.pth")) and not any(path.rglob("*.ckpt"))
    if of_detectron2 and source not in shipped_models():
        return find_weights(path)[0]
    return find_checkpoint(source, RUNS, "detector")
