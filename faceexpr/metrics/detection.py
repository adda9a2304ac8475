"""Measure a face detector: average precision, counts at a score, boxes beyond one for a face, over all images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchvision.ops import box_iou

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Stacked, Truth, area, match, stack
from faceexpr.boxes.suppression import Method, Suppression, suppress
from faceexpr.data.loading import PADDING
from faceexpr.utils.errors import FaceExprError

NAMES = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "recall",
    "precision_at_score", "recall_at_score", "f1_at_score",
    "best_f1", "best_f1_threshold", "best_f1_precision", "best_f1_recall",
)  # fmt: skip
"""All metrics in the order of reports; logged, they follow ``val/`` or ``test/``. Higher is better for each but the
threshold, which has no direction."""

NEED_FACES_ONLY = ("ap", "ap50", "ap75", "recall", "recall_at_score", "f1_at_score", "best_f1")
"""Metrics that have a value whatever a detector finds, if there is a face in any image."""

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
"""Smallest and largest area of a face in square pixels of its image."""

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


def average_precision(
    stacked: Stacked, overlaps: NDArray[np.float64] = OVERLAPS, ties: Ties = "together"
) -> tuple[dict[str, NDArray[np.float64] | None], list[Curve]]:
    """Compute average precisions: the mean over `RECALLS` of the best precision at that recall or a higher one.

    The same as ``pycocotools`` to rounding, ignored faces taken for crowds, but for detections of equal score: there
    ``pycocotools`` takes one image after the other, so that the order of the images changes the value.

    Args:
        stacked: the images.
        overlaps: T smallest overlaps of a detection with its face.
        ties: detections of equal score are taken ``together``, since no threshold can part them, or ``in_order`` of
            the images, as ``pycocotools`` does.

    Returns:
        For each size the average precision at each overlap, float64 (T,), None where no face has that size; and the
        curves of faces of all sizes, one an overlap.
    """
    order = np.argsort(-stacked.scores, kind="stable")
    scores = stacked.scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.zeros(0, np.int64)
    group = np.searchsorted(last, np.arange(len(scores)))
    areas, truth_areas = area(stacked.boxes), area(stacked.truth)
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
            curves = [Curve(scores[last], *row, faces) for row in zip(true[:, last], false[:, last], strict=True)]
        if ties == "together":
            true, false = true[:, last][:, group], false[:, last][:, group]
        each = [_average(*row, faces) for row in zip(true, false, strict=True)] if faces else None
        average[size] = None if each is None else np.array(each)
    return average, curves


def _average(true: NDArray[np.int64], false: NDArray[np.int64], faces: int) -> float:
    if not len(true):
        return 0.0
    precision = true / np.maximum(true + false, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / faces, RECALLS, side="left")
    return float(np.append(best, 0.0)[places].mean())


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """The metrics of one pass over a split.

    Attributes:
        values: metric by name, all of `NAMES`; None where it is not defined.
        undefined: the reason for each None.
        images: number of images; ``faces`` is that of faces that count, ``ignored`` of those that do not, and
            ``detections`` of detections that were looked at.
        limited: number of images in which more was found than the detector may return or the metrics look at.
        score: see `score_detections`, like ``iou`` and ``max_detections``.
        curves: precision and recall by overlap: 0.5, 0.75 and ``iou``.
    """

    values: dict[str, float | None]
    undefined: dict[str, str]
    images: int
    faces: int
    ignored: int
    detections: int
    limited: int
    score: float
    iou: float
    max_detections: int
    curves: dict[float, Curve]


def score_detections(
    truths: Sequence[Truth], found: Sequence[Detections], score: float = 0.5, iou: float = 0.5,
    max_detections: int = 300, ties: Ties = "together",
) -> DetectionScores:  # fmt: skip
    """Compute every metric.

    - ``ap``, ``ap50``, ``ap75``: COCO's average precision, the mean over overlaps from 0.5 to 0.95, and at 0.5 and
      0.75; ``ap_small``, ``ap_medium``, ``ap_large``: ``ap`` of faces of up to 32 x 32 pixels, up to 96 x 96, larger.
    - ``recall``: share of the faces that are found, whatever the score.
    - ``precision_at_score``, ``recall_at_score``, ``f1_at_score``: of the detections that have the chosen score.
    - ``best_f1``: the highest F1 that any threshold gives, with ``best_f1_threshold``, ``best_f1_precision`` and
      ``best_f1_recall``.

    F1 is 2 TP / (2 TP + FP + FN).

    Args:
        truths: the faces of each image.
        found: the detections in each image, in the same order.
        score: the chosen score, in 0 to 1.
        iou: overlap from which on a detection has found its face, in 0 to 1.
        max_detections: detections of an image that are looked at, the surest.
        ties: see `average_precision`.

    Raises:
        FaceExprError: a box or a score is not finite, so that no number computed from it would mean anything.
    """
    if len(truths) != len(found):
        raise FaceExprError(f"{len(found)} images with detections; expected one for each of {len(truths)} truths")
    broken = sum(not (bool(one.boxes.isfinite().all()) and bool(one.scores.isfinite().all())) for one in found)
    if broken:
        raise FaceExprError(
            f"the detections in {broken:,} of {len(found):,} images are not finite: the network diverged in training; "
            "train it again with a lower learning rate or with gradient_clip_val 1"
        )
    stacked = stack(truths, found, max_detections)
    # The last overlap is that of the counts at a score.
    average, curves = average_precision(stacked, np.append(OVERLAPS, iou), ties)
    every, curve = average["all"], curves[-1]
    true, false = curve.at(score)
    values: dict[str, float | None] = dict.fromkeys(NAMES)
    reasons = dict.fromkeys(NAMES, "no face in any image")
    reasons["precision_at_score"] = f"no detection with a score of {score:g} or more"
    if true + false:
        values["precision_at_score"] = true / (true + false)
    if every is not None:
        found_all = int(curve.true[-1]) if len(curve.true) else 0
        values |= {
            "ap": float(every[:-1].mean()),
            "ap50": float(every[0]),
            "ap75": float(every[5]),
            "recall": found_all / curve.faces,
            "recall_at_score": true / curve.faces,
            "f1_at_score": 2 * true / (true + false + curve.faces),
            "best_f1": 0.0,
        }
        for size, row in average.items():
            if size != "all":
                values[f"ap_{size}"] = None if row is None else float(row[:-1].mean())
                reasons[f"ap_{size}"] = f"no {size} face in any image"
        # Where nothing is found all thresholds are equally bad: none of them is to be recommended.
        names, place = NAMES[NAMES.index("best_f1") :], int(curve.f1.argmax()) if found_all else None
        columns: list[NDArray[Any]] = [curve.f1, curve.scores, curve.precision, curve.recall]
        for name, column in zip(names, columns, strict=True):
            reasons[name] = "no face is found"
            if place is not None:
                values[name] = float(column[place])
    return DetectionScores(
        values=values,
        undefined={name: reasons[name] for name in NAMES if values[name] is None},
        images=len(truths),
        faces=curve.faces,
        ignored=int(stacked.ignored.sum()),
        detections=len(stacked.scores),
        limited=sum(detections.limited or len(detections) > max_detections for detections in found),
        score=score,
        iou=iou,
        max_detections=max_detections,
        curves={0.5: curves[0], 0.75: curves[5], iou: curve},
    )


IMAGE_METRICS = ("ap50", "ap", "ap75", "recall", "precision_at_score", "recall_at_score", "f1_at_score")
FACE_METRICS = ("recall_at_score", "recall")
"""What `measure_images` and `measure_faces` return, of `NAMES`."""

Measure = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Returns metrics of some images or faces, given by their places; NaN where one is not defined."""


def measure_images(stacked: Stacked, score: float, iou: float) -> Measure:
    """Return what computes `IMAGE_METRICS` of any images, also of the same ones several times, as in a bootstrap.

    The values are those of `score_detections`, but detections are matched once for all.
    """
    order, number = np.argsort(-stacked.scores, kind="stable"), len(stacked.starts) - 1
    face, scores = match(stacked, [*OVERLAPS, iou])[:, order], stacked.scores[order]
    true, false = (face >= 0) & ~np.append(stacked.ignored, True)[face], face < 0
    image = np.repeat(np.arange(number), np.diff(stacked.starts))[order]
    faces = np.bincount(np.repeat(np.arange(number), np.diff(stacked.truth_starts)), ~stacked.ignored, number)
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)[: len(scores)]) + 1  # of each score
    sure = int((scores >= np.float32(score)).sum())

    def measure(places: NDArray[np.int64]) -> NDArray[np.float64]:
        times = np.bincount(places, minlength=number)
        right, wrong = (np.cumsum(np.pad(kind * times[image], ((0, 0), (1, 0))), axis=1) for kind in (true, false))
        count, hits, errors = int(times @ faces), right[-1, sure], wrong[-1, sure]
        if not count:
            return np.full(len(IMAGE_METRICS), np.nan)
        each = [_average(*row, count) for row in zip(right[:-1, last], wrong[:-1, last], strict=True)]
        precision = hits / (hits + errors) if hits + errors else np.nan
        found = right[-1, -1] / count, precision, hits / count, 2 * hits / (hits + errors + count)
        return np.array([each[0], np.mean(each), each[5], *found])

    return measure


def measure_faces(stacked: Stacked, score: float, iou: float) -> Measure:
    """Return what computes `FACE_METRICS` of any faces: the shares of those that are found."""
    face = match(stacked, [iou])[0]
    found = np.zeros((len(stacked.truth), 2), np.bool_)
    # The surest detections choose first, so that the less sure take no face from them.
    found[face[(face >= 0) & (stacked.scores >= np.float32(score))], 0] = True
    found[face[face >= 0], 1] = True
    return lambda places: np.asarray(found[places].mean(axis=0))


WIDER_LEVELS = {"easy": 50, "medium": 30, "hard": 10}
"""WIDER FACE's levels, and the height in pixels above which a face belongs to each.

The levels are lists of faces; the heights are what those of the 3,226 validation photographs come to. Every face above
them is in its list, and so is about half of those of just this height, which the annotations have rounded.
"""

Levelled = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""The faces of an image, (F, 4), left, top, right, bottom in pixels; and whether each counts at each level, (F, 3)."""


def read_wider_levels(folder: Path) -> dict[str, Levelled]:
    """Return the faces of WIDER FACE's photographs by event and name: ``0--Parade/0_Parade_marchingband_1_465``.

    Args:
        folder: has ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat`` of the benchmark's ``eval_tools``.

    Raises:
        FaceExprError: they are not there, or not what they should be.
    """
    from scipy.io import loadmat  # a tenth of a second

    photographs: dict[str, Levelled] = {}
    try:
        faces, *levels = (loadmat(str(folder / f"wider_{name}_val.mat")) for name in ("face", *WIDER_LEVELS))
        columns = [faces["event_list"], faces["file_list"], faces["face_bbx_list"], *(one["gt_list"] for one in levels)]
        for event, *lists in zip(*(column.flat for column in columns), strict=True):
            for name, boxes, *numbers in zip(*(one.flat for one in lists), strict=True):
                corners = boxes.reshape(-1, 4).astype(np.float64)
                corners[:, 2:] += corners[:, :2]
                counts = np.zeros((len(corners), len(WIDER_LEVELS)), np.bool_)
                for level, places in enumerate(numbers):
                    counts[places.ravel().astype(np.int64) - 1, level] = True
                photographs[f"{event.item()}/{name.item()}"] = corners, counts
    except Exception as error:  # scipy raises many types for a file that is not MATLAB's, and lists may be of any shape
        raise FaceExprError(
            f"wider: {folder} cannot be read as WIDER FACE's levels ({error}); expected a folder with "
            "wider_{face,easy,medium,hard}_val.mat"
        ) from error
    return photographs


def level_by_height(truth: Truth) -> Levelled:
    """Return the faces of an image with levels by `WIDER_LEVELS`; ignored ones count at none."""
    boxes = truth.boxes.astype(np.float64)
    heights = boxes[:, 3] - boxes[:, 1]
    return boxes, (heights[:, None] > np.array([*WIDER_LEVELS.values()])) & ~truth.ignored[:, None]


def wider_precision(found: Sequence[Detections], known: Sequence[Levelled]) -> dict[str, float | None]:
    """Compute average precision at each level by WIDER FACE's own protocol, its ``eval_tools``.

    It is not COCO's: overlaps are of boxes a pixel wider and higher; a detection is of the face that it overlaps most,
    by a half or more, also where that one does not count, and is then left out; one on a face that is found already
    is wrong; images without any face are left out; scores are spread over 0 to 1, and precision is read at 1,000 of
    them. Equal to it but for a set in which all scores are equal, where it divides by 0.

    Args:
        found: the detections in each image.
        known: its faces.

    Returns:
        By level; None where no face counts.
    """
    levels = len(WIDER_LEVELS)
    certainties = [detections.scores.numpy(force=True).astype(np.float64) for detections in found]
    certainty = np.concatenate([np.zeros(0), *certainties])
    # The benchmark's own limits.
    lowest, highest = certainty.min(initial=1.0), certainty.max(initial=0.0)
    faces = np.zeros(levels, np.int64)
    scores, counted, true = [np.zeros(0)], [np.zeros((0, levels), np.bool_)], [np.zeros((0, levels), np.bool_)]
    for detections, each, (boxes, counts) in zip(found, certainties, known, strict=True):
        faces += counts.sum(axis=0)
        if not len(boxes) or not len(each):
            continue
        order = np.argsort(-each, kind="stable")
        overlap = _wider_overlap(detections.boxes.numpy(force=True)[order].astype(np.float64), boxes)
        face = np.where(overlap.max(axis=1) >= 0.5, overlap.argmax(axis=1), -1)
        first = np.zeros((len(face), 1), np.bool_)
        first[np.unique(face, return_index=True)[1]] = True
        scores.append((each[order] - lowest) / ((highest - lowest) or 1.0))
        # The last row is of no face.
        counted.append(np.append(counts, np.ones((1, levels), np.bool_), axis=0)[face])
        true.append(np.append(counts, np.zeros((1, levels), np.bool_), axis=0)[face] & first)
    spread = np.concatenate(scores)
    order = np.argsort(-spread, kind="stable")
    places = np.searchsorted(-spread[order], np.arange(1, 1001) / 1000 - 1, side="right")
    all_counted, all_true = (
        np.append(np.zeros((1, levels), np.int64), np.cumsum(np.concatenate(rows)[order], axis=0), axis=0)[places]
        for rows in (counted, true)
    )
    precision = np.maximum.accumulate((all_true / np.maximum(all_counted, 1))[::-1])[::-1]
    areas = (np.diff(all_true, axis=0, prepend=0) * precision).sum(axis=0) / np.maximum(faces, 1)
    rows = zip(WIDER_LEVELS, areas.tolist(), faces.tolist(), strict=True)
    return {level: average if number else None for level, average, number in rows}


def _wider_overlap(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of each box with each other, (N, M), the last pixel of each inside."""
    nearer = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2]) + 1
    shared = nearer.clip(min=0).prod(axis=2)
    sizes = [(one[:, 2:] - one[:, :2] + 1).prod(axis=1) for one in (boxes, others)]
    return np.asarray(shared / (sizes[0][:, None] + sizes[1] - shared))


METHODS: dict[Method, str] = {"none": "before suppression", "nms": "NMS", "soft_nms": "Soft-NMS", "wbf": "fusion (WBF)"}
"""The ways of suppression that are compared, by their names for people."""

COUNTS = (4, 4)
"""Shape of the counts of an image: methods, fields of `BoxCounts`."""


class BoxCounts(NamedTuple):
    """What the boxes are on, at a chosen score and overlap; what is left of ``boxes`` is on ignored faces.

    Attributes:
        boxes: number of boxes.
        found: faces with a box or more.
        extra: boxes beyond one for the same face.
        false: boxes on no face.
    """

    boxes: int
    found: int
    extra: int
    false: int


def count_boxes(boxes: Tensor, truth: Truth, iou: float) -> BoxCounts:
    """Count the boxes in one image, each for the face that it overlaps most.

    Args:
        boxes: (N, 4), on any device.
        truth: the faces, of which an ignored one takes what lies inside it by a share of ``iou``.
        iou: smallest overlap of a box with its face.
    """
    # On the host, where every count is read at once.
    found, faces, ignored = boxes.detach().cpu().float(), torch.from_numpy(truth.boxes), torch.from_numpy(truth.ignored)
    # The last column is of no face, so that there is a largest overlap without any.
    most, face = functional.pad(box_iou(found, faces[~ignored]), (0, 1), value=-1.0).max(dim=1)
    free = most < iou
    faces_found = len(face[~free].unique())
    rest, regions = found[free], faces[ignored]
    shared = torch.minimum(rest[:, None, 2:], regions[:, 2:]) - torch.maximum(rest[:, None, :2], regions[:, :2])
    own = (rest[:, 2:] - rest[:, :2]).prod(dim=1, keepdim=True)
    inside = (shared.clamp(min=0).prod(dim=2) >= iou * own).any(dim=1)
    return BoxCounts(len(found), faces_found, int((~free).sum()) - faces_found, int((~inside).sum()))


def count_by_method(
    boxes: Tensor, scores: Tensor, truth: Truth, suppression: Suppression, score: float, iou: float
) -> NDArray[np.int64]:
    """Count the boxes of one image's candidates, (N, 4) and (N,), before and after each way of suppression.

    Of the suppression, the method is replaced by each of `METHODS`, and the limit of faces is lifted. Boxes with a
    lower score are not counted.

    Returns:
        The fields of `BoxCounts` for each of `METHODS`, shape `COUNTS`.
    """
    rows = []
    for method in METHODS:
        options = replace(suppression, method=method, max_faces=max(len(scores), 1))
        kept = suppress(boxes, scores, options)
        rows.append(count_boxes(kept.boxes[kept.scores >= score], truth, iou))
    return np.array(rows, dtype=np.int64)


def by_method(counts: NDArray[np.int64]) -> dict[Method, BoxCounts]:
    """Add up the counts of all images, (N, *COUNTS)."""
    return {method: BoxCounts(*row) for method, row in zip(METHODS, counts.sum(axis=0).tolist(), strict=True)}


# Neither a tuple nor a dataclass: torchmetrics looks into those and makes a single score a scalar.
class DetectionTable:
    """Images in the order of their split.

    Args:
        indices: int64 (N,), position of each image in its split, ascending, each once.
        found: the detections in each.
        truths: the faces of each.
        counts: int64 (N, 4, 4), what `count_by_method` says of each; None where the candidates are not known.
    """

    def __init__(
        self, indices: NDArray[np.int64], found: list[Detections], truths: list[Truth],
        counts: NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        self.indices, self.found, self.truths, self.counts = indices, found, truths, counts

    def tensors(self) -> dict[str, Tensor]:
        """Return the table in a form that a checkpoint can hold; `from_tensors` reads it."""
        return as_tensors(self.indices.tolist(), self.found, self.truths, () if self.counts is None else self.counts)


def as_tensors(
    index: Sequence[int],
    found: Sequence[Detections],
    truths: Sequence[Truth],
    counts: Sequence[NDArray[np.int64]] | NDArray[np.int64] = (),
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Return images as tensors on a device that can be joined to those of others and gathered: all boxes in one list.

    ``index`` is the place of each image in its split, ``counts`` what `count_by_method` says of each, or nothing.
    """
    numbers = {
        "index": index,
        "limited": [detections.limited for detections in found],
        "found": [len(detections) for detections in found],
        "faces": [len(truth.boxes) for truth in truths],
    }
    # Of detections without any face, the shape may be another one.
    parts = {
        "boxes": [torch.zeros(0, 4), *(detections.boxes.detach().reshape(-1, 4) for detections in found)],
        "scores": [torch.zeros(0), *(detections.scores.detach() for detections in found)],
        "truth": [torch.zeros(0, 4), *(torch.from_numpy(truth.boxes) for truth in truths)],
        "ignored": [torch.zeros(0, dtype=torch.int64), *(torch.from_numpy(truth.ignored) for truth in truths)],
    }
    columns = {name: torch.tensor(values, dtype=torch.int64, device=device) for name, values in numbers.items()}
    for name, rows in parts.items():
        columns[name] = torch.cat([row.to(device, rows[0].dtype) for row in rows])
    columns["counts"] = torch.tensor(np.reshape(counts, (-1, *COUNTS)), dtype=torch.int64, device=device)
    return columns


def from_tensors(columns: Mapping[str, Tensor]) -> DetectionTable:
    """Return the table that tensors of `as_tensors`, joined in any number, stand for; an image counts once."""
    columns = {name: column.cpu() for name, column in columns.items()}
    indices, rows = np.unique(columns["index"].numpy(), return_index=True)
    found, faces = columns["found"].tolist(), columns["faces"].tolist()
    detections = zip(columns["boxes"].split(found), columns["scores"].split(found), columns["limited"], strict=True)
    truths = zip(columns["truth"].split(faces), columns["ignored"].bool().split(faces), strict=True)
    all_found = [Detections(boxes, scores, bool(limited)) for boxes, scores, limited in detections]
    all_truths = [Truth(boxes.numpy(), ignored.numpy()) for boxes, ignored in truths]
    counts = columns["counts"].numpy()
    return DetectionTable(
        indices,
        [all_found[row] for row in rows],
        [all_truths[row] for row in rows],
        counts[rows] if len(counts) else None,
    )


class DetectionCollector(Metric):
    """Keep what was found in every image, and what is there, and gather it from all processes.

    Metrics are computed from the gathered table, in every process alike. That is exact for any number of processes and
    any batch sizes; an image that was seen twice counts once. Images differ in their numbers of boxes, so all boxes
    are one list, with the number of each image beside it. A detection takes 20 bytes, a face 17, an image 33.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        # A process without an image gathers tensors of the same type and number of dimensions as the others.
        for name, column in as_tensors([], [], []).items():
            self.add_state(name, default=[], dist_reduce_fx="cat")
            getattr(self, name).append(column)

    def update(
        self, index: Tensor, found: Sequence[Detections], truths: Sequence[Truth], counts: Sequence[Any] = ()
    ) -> None:
        """Add a batch.

        Args:
            index: int64 (B,), `PADDING` for images to leave out.
            found: the detections in each image, on any device.
            truths: its faces.
            counts: what `count_by_method` says of each image, (B, 4, 4); for all batches or for none.
        """
        rows = [row for row, number in enumerate(index.tolist()) if number != PADDING]
        kept = ([found[row] for row in rows], [truths[row] for row in rows], [counts[row] for row in rows if counts])
        for name, column in as_tensors(index[rows].tolist(), *kept, self.device).items():
            getattr(self, name).append(column)

    def compute(self) -> DetectionTable:
        """Return the images of all processes, on the host."""
        return from_tensors({name: dim_zero_cat(getattr(self, name)) for name in self.metric_state})
