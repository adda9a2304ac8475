"""What is measured for every face detector, computed from its detections in all pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth, stack
from faceexpr.metrics.average_precision import OVERLAPS, SIZES, Curve, Ties, average_precision
from faceexpr.utils.errors import FaceExprError

NAMES = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "recall",
    "precision_at_score", "recall_at_score", "f1_at_score",
    "best_f1", "best_f1_threshold", "best_f1_precision", "best_f1_recall",
)  # fmt: skip
"""All metrics in the order of reports; logged, they follow ``val/`` or ``test/``. Higher is better for each but the
threshold, which has no direction."""

NEED_FACES_ONLY = ("ap", "ap50", "ap75", "recall", "recall_at_score", "f1_at_score", "best_f1")
"""Metrics that have a value whatever a detector finds, if there is a face in any picture."""

NO_FACE = "no face in any picture"


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """The metrics of one pass over a split.

    Attributes:
        values: metric by name, all of `NAMES`; None where it is not defined.
        undefined: the reason for each None.
        images: number of pictures.
        faces: number of faces that count.
        ignored: number of faces that do not.
        detections: number of detections that were looked at.
        limited: number of pictures in which more was found than the detector may return or the metrics look at.
        score: the chosen score: a detection that is less sure does not count in ``*_at_score``.
        iou: overlap from which on a detection has found its face, in ``recall``, ``*_at_score`` and ``best_f1*``.
        max_detections: detections of a picture that were looked at, the surest.
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
    truths: Sequence[Truth],
    found: Sequence[Detections],
    score: float = 0.5,
    iou: float = 0.5,
    max_detections: int = 300,
    ties: Ties = "together",
) -> DetectionScores:
    """Compute every metric.

    - ``ap``, ``ap50``, ``ap75``: COCO's average precision, the mean over overlaps from 0.5 to 0.95, and at 0.5 and
      0.75; ``ap_small``, ``ap_medium``, ``ap_large``: ``ap`` of faces of up to 32 x 32 pixels, up to 96 x 96, larger.
    - ``recall``: share of the faces that are found, whatever the score.
    - ``precision_at_score``, ``recall_at_score``, ``f1_at_score``: of the detections that have the chosen score.
    - ``best_f1``: the highest F1 that any threshold gives, with ``best_f1_threshold``, ``best_f1_precision`` and
      ``best_f1_recall``.

    F1 is 2 TP / (2 TP + FP + FN).

    Args:
        truths: the faces of each picture.
        found: the detections in each picture, in the same order.
        score: the chosen score, in 0 to 1.
        iou: overlap from which on a detection has found its face, in 0 to 1.
        max_detections: detections of a picture that are looked at, the surest.
        ties: see `average_precision`.

    Raises:
        FaceExprError: a box or a score is not finite, so that no number computed from it would mean anything.
    """
    if len(truths) != len(found):
        raise FaceExprError(f"{len(found)} pictures with detections; expected one for each of {len(truths)} truths")
    _check_finite(found)
    stacked = stack(truths, found, max_detections)
    overlaps = np.append(OVERLAPS, iou)
    precisions = average_precision(stacked, overlaps, ties)
    # The last overlap is that of the counts at a score.
    means = {size: None if values is None else float(values[:-1].mean()) for size, values in precisions.average.items()}
    every = precisions.average["all"]
    curve = precisions.curves[-1]
    values: dict[str, float | None] = {
        "ap": means["all"],
        "ap50": None if every is None else float(every[0]),
        "ap75": None if every is None else float(every[5]),
        **{f"ap_{size}": means[size] for size in SIZES if size != "all"},
        **_at_scores(curve, score),
    }
    undefined = {name: _reason(name, curve.faces, score) for name, value in values.items() if value is None}
    return DetectionScores(
        values={name: values[name] for name in NAMES},
        undefined={name: undefined[name] for name in NAMES if name in undefined},
        images=len(truths),
        faces=curve.faces,
        ignored=int(stacked.ignored.sum()),
        detections=len(stacked.scores),
        limited=sum(detections.limited or len(detections) > max_detections for detections in found),
        score=score,
        iou=iou,
        max_detections=max_detections,
        curves={0.5: precisions.curves[0], 0.75: precisions.curves[5], iou: curve},
    )


def _at_scores(curve: Curve, score: float) -> dict[str, float | None]:
    true, false = curve.at(score)
    found_all = int(curve.true[-1]) if len(curve.true) else 0
    values = {
        "recall": _ratio(found_all, curve.faces),
        "precision_at_score": _ratio(true, true + false),
        "recall_at_score": _ratio(true, curve.faces),
        # Without a face every detection is wrong, and F1 would be 0 whatever the detector does.
        "f1_at_score": _ratio(2 * true, true + false + curve.faces) if curve.faces else None,
        "best_f1": None,
        "best_f1_threshold": None,
        "best_f1_precision": None,
        "best_f1_recall": None,
    }
    if not curve.faces:
        return values
    if not found_all:
        # All thresholds are equally bad: none of them is to be recommended.
        return values | {"best_f1": 0.0}
    best = int(curve.f1.argmax())
    return values | {
        "best_f1": float(curve.f1[best]),
        "best_f1_threshold": float(curve.scores[best]),
        "best_f1_precision": float(curve.precision[best]),
        "best_f1_recall": float(curve.recall[best]),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _reason(name: str, faces: int, score: float) -> str:
    if name == "precision_at_score":
        return f"no detection with a score of {score:g} or more"
    if not faces:
        return NO_FACE
    if name.startswith("best_f1"):
        return "no face is found"
    return f"no {name.removeprefix('ap_')} face in any picture"


def _check_finite(found: Sequence[Detections]) -> None:
    broken = sum(
        not (bool(detections.boxes.isfinite().all()) and bool(detections.scores.isfinite().all()))
        for detections in found
    )
    if broken:
        raise FaceExprError(
            f"the detections in {broken:,} of {len(found):,} pictures are not finite: the network diverged in "
            "training; train it again with a lower learning rate or with --trainer.gradient_clip_val 1"
        )
