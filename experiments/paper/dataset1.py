"""Dataset 1's division and its measurements: five test parts, and of the rest of each a tenth to choose by.

The lists hold links as they stand in the annotations, which name an image however its file is called. They are in
configs/paper/dataset1 and stay as they are. ``python -m experiments.paper.dataset1 DATA`` draws them again, with
DATA/face_detection.json and its images in DATA/images: of its 408 images the 404 that could still be had in 2026. Who
has one of the other four trains on it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth
from faceexpr.data.annotations.reading import ReadOptions, read_annotations
from faceexpr.metrics.detection import score_detections
from faceexpr.utils.files import write_file

FOLDS = 5
LISTS = Path("configs/paper/dataset1")
"""Folder of the lists; those of number 0 are what is meant where one division is asked for."""

CHOSEN_BY = 0.1
"""Part of what is not tested on that chooses the epoch."""


def divide(names: list[str], seed: int = 0) -> dict[str, list[str]]:
    """Return images' names by list: each is in one ``test_K``, and a tenth of those that are not also in ``val_K``.

    The same names in any order are divided in the same way.
    """
    names = sorted(names)
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(names)) % FOLDS
    lists = {}
    for number in range(FOLDS):
        rest = np.flatnonzero(fold != number)
        val = rng.choice(rest, round(CHOSEN_BY * len(rest)), replace=False)
        lists[f"test_{number}"] = [names[place] for place in np.flatnonzero(fold == number)]
        lists[f"val_{number}"] = [names[place] for place in sorted(val)]
    return lists


METRICS = ("ap50", "ap", "ap75", "recall", "best_f1_precision", "best_f1_recall")
BOXES = "detections_test.csv"
"""File of a measurement with every box, by the image that it is in."""

AIM = 0.78
"""AP50 that was to be reached."""

RESAMPLES = 200


def read_boxes(file: Path, least: float = 0.0) -> dict[str, Detections]:
    """Return what was found in each image, by its path, with a score of ``least`` or more; it may be nothing."""
    found: dict[str, list[list[float]]] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            boxes = found.setdefault(row["source"], [])
            if row["outcome"] != "missed" and float(row["score"]) >= least:
                boxes.append([float(row[name]) for name in ("left", "top", "right", "bottom", "score")])
    rows = {name: torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5) for name, boxes in found.items()}
    return {name: Detections(values[:, :4], values[:, 4]) for name, values in rows.items()}


def measure(files: Sequence[Path], truths: Mapping[str, Truth], resamples: int = RESAMPLES) -> dict[str, list[float]]:
    """Return each of `METRICS`, the mean over folds, with the ends of its 95% bootstrap interval.

    The images of each fold are drawn with replacement; what differs from one training to another is not in it.

    Args:
        files: `BOXES` of each fold; every image has a row, as it has a face or something found in it.
        truths: the faces of an image, by the name of its file.
        resamples: of the bootstrap.
    """
    folds = [[(truths[Path(name).name], found) for name, found in read_boxes(file).items()] for file in files]
    rng = np.random.default_rng(0)

    def mean(chosen: Sequence[NDArray[np.int64]]) -> list[float]:
        rows = []
        for fold, places in zip(folds, chosen, strict=True):
            values = score_detections([fold[place][0] for place in places], [fold[place][1] for place in places]).values
            rows.append([values[name] or 0.0 for name in METRICS])
        return [float(value) for value in np.mean(rows, axis=0)]

    drawn = [mean([rng.integers(len(fold), size=len(fold)) for fold in folds]) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0).tolist()
    whole = mean([np.arange(len(fold)) for fold in folds])
    return {name: list(row) for name, *row in zip(METRICS, whole, low, high, strict=True)}


def main(data: Path, folder: Path = LISTS) -> None:
    """Write the lists of the images that are there."""
    found = read_annotations(data / "face_detection.json", data / "images", options=ReadOptions(missing="leave_out"))
    for name, chosen in divide([str(image.url) for image in found.images]).items():
        write_file(folder / f"{name}.txt", "\n".join([*chosen, ""]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
