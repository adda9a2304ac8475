"""Precision, recall and average precision of detections, as COCO defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from faceexpr.boxes.matching import Stacked, match

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""The overlaps (intersection over union) that ``ap`` is the mean over."""

RECALLS = np.linspace(0, 1, 101)
"""Where precision is read off its curve."""

SIZES: dict[str, tuple[float, float]] = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
"""Smallest and largest area of a face in square pixels of its picture."""

Ties = Literal["together", "in_order"]


@dataclass(frozen=True, eq=False)
class Curve:
    """What is found as the score falls that a detection needs, at one overlap.

    Attributes:
        scores: float32 (K,), each score that a detection has, descending.
        true: int64 (K,), detections of this score or a higher one that are right.
        false: int64 (K,), those that are wrong.
        faces: number of faces that count, found or not.
    """

    scores: NDArray[np.float32]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    faces: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of detections that are right, (K,); 0 where there is none that counts."""
        return np.asarray(self.true / np.maximum(self.true + self.false, 1))

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of faces that are found, (K,); needs a face."""
        return np.asarray(self.true / self.faces)

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall, (K,): 2 TP / (2 TP + FP + FN)."""
        return np.asarray(2 * self.true / np.maximum(self.true + self.false + self.faces, 1))

    def at(self, score: float) -> tuple[int, int]:
        """Return the numbers of right and wrong detections with this score or a higher one."""
        place = int(np.searchsorted(-self.scores, -np.float32(score), side="right"))
        return (int(self.true[place - 1]), int(self.false[place - 1])) if place else (0, 0)


@dataclass(frozen=True, eq=False)
class Precisions:
    """Average precisions and the curves behind them.

    Attributes:
        average: for each size its average precision at each overlap, float64 (T,); None where no face has that size.
        curves: faces of all sizes, one curve an overlap.
    """

    average: dict[str, NDArray[np.float64] | None]
    curves: list[Curve]


def average_precision(
    stacked: Stacked, overlaps: NDArray[np.float64] = OVERLAPS, ties: Ties = "together"
) -> Precisions:
    """Compute average precisions: the mean over `RECALLS` of the best precision at that recall or a higher one.

    The same as ``pycocotools`` to rounding, ignored faces taken for crowds, but for detections of equal score: there
    ``pycocotools`` takes one picture after the other, so that the order of the pictures changes the value.

    Args:
        stacked: the pictures.
        overlaps: T smallest overlaps of a detection with its face.
        ties: detections of equal score are taken ``together``, since no threshold can part them, or ``in_order`` of
            the pictures, as ``pycocotools`` does.
    """
    order = np.argsort(-stacked.scores, kind="stable")
    scores = stacked.scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.zeros(0, np.int64)
    group = np.searchsorted(last, np.arange(len(scores)))
    areas, truth_areas = stacked.areas, stacked.truth_areas
    average: dict[str, NDArray[np.float64] | None] = {}
    curves: list[Curve] = []
    for size, (smallest, largest) in SIZES.items():
        left_out = stacked.ignored | (truth_areas < smallest) | (truth_areas > largest)
        faces = int((~left_out).sum())
        if not faces and size != "all":
            average[size] = None
            continue
        face = match(stacked, overlaps.tolist(), left_out)
        has_face = face >= 0
        # Detections of another size than is looked for are wrong only if they claim a face of that size.
        own_size = (areas >= smallest) & (areas <= largest)
        counts = ~np.append(left_out, True)[face]
        true = np.cumsum((has_face & counts)[:, order], axis=1)
        false = np.cumsum((~has_face & own_size)[:, order], axis=1)
        if size == "all":
            curves = [
                Curve(scores[last], hits[last], wrong[last], faces) for hits, wrong in zip(true, false, strict=True)
            ]
        if ties == "together":
            true, false = true[:, last][:, group], false[:, last][:, group]
        average[size] = (
            np.array([_average(hits, wrong, faces) for hits, wrong in zip(true, false, strict=True)]) if faces else None
        )
    return Precisions(average, curves)


def _average(true: NDArray[np.int64], false: NDArray[np.int64], faces: int) -> float:
    if not len(true):
        return 0.0
    precision = true / np.maximum(true + false, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / faces, RECALLS, side="left")
    return float(np.append(best, 0.0)[places].mean())
