r"""How fast, and how right, are the models in ONNX Runtime, in float32 and in int8, beside torch?

In one run, in turns, on the same inputs: the detector on decoded photographs, one at a time, and the classifier on
batches of FER-2013's PrivateTest.

    python benchmarks/runtime.py --annotations wider_face_val_bbx_gt.txt --photos WIDER_train \
        --fer2013 fer2013.csv.gz [--threads 1] [--files FOLDER]

The files are exported first, each compared with its model; int8 is fitted to the photographs of a folder and to faces
of FER-2013's training part, none of which is measured on. Without data drawn images stand in, and then only the times
mean anything. Needs the extra ``[onnx]``.

Prints accuracy and AP50, the largest difference of float32 from torch, milliseconds of the processor (median), which
other work on the machine changes less than those of the clock, and the median of torch's time by each one's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.scenes import drawn, photographs
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor

from faceexpr.boxes.detections import Detections
from faceexpr.data.fer2013 import read_table
from faceexpr.data.image_reading import face_tensor
from faceexpr.metrics.detection import score_detections
from faceexpr.pipeline import load_classifier, load_detector
from faceexpr.pipeline.programs import to_int8, write_program
from faceexpr.utils.crop import Crop, cut_face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image
from faceexpr.utils.labels import FER_NAMES
from faceexpr.weights.checkpoints import find_checkpoint
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR
from faceexpr.weights.onnx_file import require_package

WARM_UP = 3
"""Inputs that are looked at before the clock runs."""

FITTED = 600
"""Faces of the training part that int8 is fitted to and checked on."""

MIN_SCORE = 0.005
"""Less sure boxes count for average precision too."""

MIN_SURE = 0.5
"""Boxes that are as sure are compared."""

HALF = 0.5

EXACT = ("torch", "onnx float32")


def main(
    annotations: str | None = None,
    photos: Path | None = None,
    fer2013: Path | None = None,
    detector: str = DETECTOR,
    classifier: str = CLASSIFIER,
    threads: int = 1,
    batch_size: int = 64,
    most: int | None = None,
    files: Path | None = None,
) -> None:
    """Measure the runtimes.

    Args:
        annotations: file with the true boxes of the photographs to measure on.
        photos: folder of other photographs, to fit int8 to.
        fer2013: FER-2013's CSV file.
        detector: as of ``faceexpr analyze``.
        classifier: as of ``faceexpr analyze``.
        threads: of torch and of ONNX Runtime.
        batch_size: of the classifier.
        most: at most so many photographs and batches.
        files: folder in which the exported files are kept; those that are there are not written anew.
    """
    try:
        require_package("onnx", "onnxscript", "onnxruntime")
    except FaceExprError as error:
        print(f"nothing to compare with: {error}")
        return
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        kept = files or folder
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("scenes", "photos", "faces", "drawn"):
            (folder / name).mkdir()
        scenes = photographs(annotations, None) if annotations else drawn(folder / "scenes", 12, 0)
        if photos is None:
            drawn(folder / "photos", 12, 1)
        fitted, faces, targets = read_faces(fer2013, folder / "drawn")
        for number, face in enumerate(fitted[:: max(1, len(fitted) // FITTED), 0].numpy()):
            Image.fromarray(face).save(folder / f"faces/{number:05}.png")
        kinds = ("detector", detector, photos or folder / "photos"), ("classifier", classifier, folder / "faces")
        written: dict[str, dict[str, Path]] = {}
        for kind, name, images in kinds:
            source = find_checkpoint(name, Path("lightning_logs"), kind)
            exact, small = (kept / f"{kind}{ending}.onnx" for ending in ("", "-int8"))
            if not exact.is_file():
                print(f"{kind}: {write_program(source, exact, 3 if kind == 'detector' else 1, images)}", flush=True)
            if not small.is_file():
                print(f"{kind}: {to_int8(exact, small, images, max_loss=1)}", flush=True)
            written[kind] = {"torch": source, "onnx float32": exact, "onnx int8": small}
        scenes = scenes[:most]
        changes = {"min_score": MIN_SCORE}
        finders: dict[str, Any] = {
            name: load_detector(path, suppression=changes) for name, path in written["detector"].items()
        }
        found = measure(finders, [[read_image(scene.path).pixels] for scene in scenes])
        ap50 = {
            name: score_detections([s.truth for s in scenes], [one for (one,) in each]).values["ap50"]
            for name, (each, _) in found.items()
        }
        report(f"detector, {len(scenes)} photographs, {threads} threads: AP50", found, ap50)
        pairs = [(one, other) for (one,), (other,) in zip(*(found[name][0] for name in EXACT), strict=True)]
        away = torch.cat([find_distances(*pair) for one, other in pairs for pair in ((one, other), (other, one))])
        far = int((away > HALF).sum())
        near = away[away <= HALF].max()
        print(f"float32: {far} of {len(away)} boxes over {HALF} pixels from torch's, others {near:.1e} at most")
        tellers = {name: load_classifier(path) for name, path in written["classifier"].items()}
        found = measure(tellers, faces.split(batch_size)[:most])
        rows = {name: np.concatenate(each) for name, (each, _) in found.items()}
        targets = targets[: len(rows["torch"])]
        right = {name: float((each.argmax(1) == targets).mean()) for name, each in rows.items()}
        report(f"classifier, {len(targets)} faces, {threads} threads: accuracy", found, right)
        one, other = (rows[name] for name in EXACT)
        print(f"float32: largest difference from torch in a probability: {np.abs(one - other).max():.1e}")


def find_distances(one: Detections, other: Detections) -> Tensor:
    """Return how far each sure face of one is from the nearest of the other, in pixels.

    Where two boxes of a face are just as sure, a hair decides which is kept, and the other may have another one.
    """
    sure = one.above(MIN_SURE).boxes
    if not len(other):
        return torch.full((len(sure),), torch.inf)
    return (sure[:, None] - other.boxes[None]).abs().amax(2).amin(1)


def read_faces(fer2013: Path | None, folder: Path) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return grey faces to fit int8 to, and others with their labels to measure on; without a table drawn ones."""
    if fer2013 is not None:
        fer = read_table(fer2013, "skip", None)
        train, test = fer.split(fer.rows("train")), fer.split(fer.rows("test"))
        assert test.targets is not None
        return train.tensor, test.tensor, test.targets.numpy()
    scenes = drawn(folder, 24, 2)
    cut = [cut_face(read_image(scene.path).pixels, box, Crop()) for scene in scenes for box in scene.truth.boxes]
    faces = torch.stack([face_tensor(face, 48, 1) for face in cut])
    labels = np.array([FER_NAMES.index(name) for scene in scenes for name in scene.expressions])
    half = len(faces) // 2
    return faces[:half], faces[half:], labels[half:]


def measure(
    callers: Mapping[str, Callable[[Any], Any]], inputs: Sequence[Any]
) -> dict[str, tuple[list[Any], list[float]]]:
    """Let each look at each input in turns; return what each gives, and its seconds."""
    found: dict[str, tuple[list[Any], list[float]]] = {name: ([], []) for name in callers}
    for number, given in enumerate([*inputs[:WARM_UP], *inputs]):
        for name, caller in callers.items():
            start = time.process_time()
            result = caller(given)
            if number >= WARM_UP:
                found[name][1].append(time.process_time() - start)
                found[name][0].append(result)
    return found


def report(title: str, found: Mapping[str, tuple[list[Any], list[float]]], values: Mapping[str, Any]) -> None:
    """Print a table."""
    print(f"\n{title}")
    for name, (_, seconds) in found.items():
        ratio = statistics.median(own / this for own, this in zip(found["torch"][1], seconds, strict=True))
        print(f"{name:13} {values[name]:.4f}  {statistics.median(seconds) * 1e3:7.1f} ms  torch/this {ratio:.2f}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
