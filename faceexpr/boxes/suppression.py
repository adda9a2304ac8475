"""One box a face: what becomes of several boxes that a detector gives for the same one (the paper's Figure 17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.boxes.detections import Detections
from faceexpr.utils.errors import require

Method = Literal["nms", "soft_nms", "wbf", "none"]

SMALLEST_PART = 1 / 8
"""Of two boxes within one another: what is less than this part of the larger one's area is another face, in front of it
or behind. Of Dataset 1's faces, of which detectors find the tight and the loose box, 95% of the tight ones are more."""

FEW = 1000
"""Boxes up to which doubles are removed in NumPy: torchvision is faster with more, but takes seconds to import."""


@dataclass(frozen=True)
class Suppression:
    """How a detector's candidates become its detections.

    Args:
        method: ``nms`` keeps the surest of overlapping boxes, ``soft_nms`` lowers the scores of the others, ``wbf``
            averages them, weighted by score, and ``none`` keeps all.
        iou: overlap (intersection over union) above which two boxes are of the same face; ``soft_nms`` has no such
            threshold.
        min_score: candidates that are less sure are left out, and those that ``soft_nms`` has made less sure.
        max_faces: at most so many faces an image are returned, the surest.
        sigma: width of the Gaussian by which ``soft_nms`` lowers scores.
        inside: boxes within one another, such as a face's and a head's, are of the same face too, whatever ``iou``
            says: where they share more than this part of the smaller one (0.8 suits), and that is no smaller than
            an eighth of the larger one. None joins no such boxes.
    """

    method: Method = "nms"
    iou: float = 0.5
    min_score: float = 0.005
    max_faces: int = 300
    sigma: float = 0.5
    inside: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("iou", self.iou), ("min_score", self.min_score), ("inside", self.inside)):
            require(value is None or 0 <= value <= 1, name, value, "0 to 1")
        require(self.max_faces >= 1, "max_faces", self.max_faces, "1 or more")
        require(self.sigma > 0, "sigma", self.sigma, "more than 0")


def suppress(boxes: Tensor, scores: Tensor, options: Suppression) -> Detections:
    """Return one box a face.

    Args:
        boxes: float32 (N, 4), left, top, right, bottom.
        scores: float32 (N,), in 0 to 1.
        options: method and limits.

    Returns:
        On the device of the candidates; `Detections.limited` where ``max_faces`` has cut some off.
    """
    sure = scores >= options.min_score
    boxes, scores = boxes[sure], scores[sure]
    # The surest first, and those that are equally sure by their sides: no result depends on the order of the input.
    order = torch.arange(len(scores), device=scores.device)
    for key in (*boxes.flip(1).T, -scores):
        order = order[key[order].argsort(stable=True)]
    boxes, scores = boxes[order], scores[order]
    if options.method == "soft_nms":
        boxes, scores = _soft_nms(boxes, scores, options)
    elif options.method == "wbf":
        boxes, scores = _fused(boxes, scores, options)
    elif options.method == "nms":
        kept = _surest(boxes, scores, options)
        boxes, scores = boxes[kept], scores[kept]
    limited = len(scores) > options.max_faces
    return Detections(boxes[: options.max_faces], scores[: options.max_faces], limited)


def _surest(boxes: Tensor, scores: Tensor, options: Suppression) -> Tensor:
    """Return the places of the boxes that are left when each removes the less sure ones of its face, the surest first.

    The same as `torchvision.ops.nms`, to the bit, which knows no other measure than the overlap.
    """
    if options.inside is None and len(boxes) > FEW:
        from torchvision.ops import nms

        places: Tensor = nms(boxes, scores, options.iou)
        return places
    sides = _sides(boxes) if options.inside is not None else np.ascontiguousarray(boxes.numpy(force=True).T)
    kept, rest = [], np.arange(sides.shape[1])
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        rest = rest[_overlap(sides[:, best], sides[:, rest], options.inside).astype(np.float64) <= options.iou]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def _soft_nms(boxes: Tensor, scores: Tensor, options: Suppression) -> tuple[Tensor, Tensor]:
    """Lower the score of each box by its overlap with every surer one: s * exp(-IoU^2 / sigma).

    Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", 2017, equation 4. Stops at one box more
    than may be returned.
    """
    sides, left = _sides(boxes), scores.numpy(force=True).astype(np.float64)
    chosen: list[int] = []
    final: list[float] = []
    while len(chosen) < min(len(left), options.max_faces + 1):
        best = int(left.argmax())
        if left[best] < options.min_score:
            break
        chosen.append(best)
        final.append(float(left[best]))
        left *= np.exp(-np.square(_overlap(sides[:, best], sides, options.inside)) / options.sigma)
        left[chosen] = -1.0
    kept = torch.tensor(chosen, dtype=torch.int64, device=boxes.device)
    return boxes[kept], torch.tensor(final, dtype=scores.dtype, device=scores.device)


def _fused(boxes: Tensor, scores: Tensor, options: Suppression) -> tuple[Tensor, Tensor]:
    """Replace boxes of one face by their mean, weighted by score.

    Solovyev et al., "Weighted boxes fusion: Ensembling boxes from different object detection models", 2021, with one
    difference: the score is the surest box's. The article takes the mean over the models of an ensemble, each of which
    gives one box a face. A single detector gives many, the more the larger the face, and most of them unsure; their
    mean would say how many they are, not how sure the detector is.
    """
    sides, certainty = _sides(boxes), scores.tolist()
    means = np.empty_like(sides)
    weights: list[float] = []
    first: list[int] = []
    for place, score in enumerate(certainty):
        box = sides[:, place]
        overlap = _overlap(box, means[:, : len(first)], options.inside)
        face = int(overlap.argmax()) if first else -1
        if first and overlap[face] > options.iou:
            weights[face] += score
            # Scores of 0 weigh nothing, and after them come only zeros.
            means[:, face] += (box - means[:, face]) * (score / weights[face] if score else 0.0)
        else:
            means[:, len(first)] = box
            weights.append(score)
            first.append(place)
    kept = torch.tensor(first, dtype=torch.int64, device=scores.device)
    return torch.from_numpy(means[:, : len(first)].T.astype(np.float32)).to(boxes), scores[kept]


# All go from one box to the next: on an accelerator each step would wait for it, and torch's operators take longer to
# be called than such small arrays to be computed.


def _sides(boxes: Tensor) -> NDArray[np.float64]:
    """Return boxes (N, 4) on the host as (4, N)."""
    return np.ascontiguousarray(boxes.numpy(force=True).astype(np.float64).T)


def _overlap(box: NDArray[Any], others: NDArray[Any], inside: float | None) -> NDArray[Any]:
    """Return the intersection over union of a box (4,) with others (4, N); 1 for those of its face by ``inside``."""
    width = np.minimum(box[2], others[2]) - np.maximum(box[0], others[0])
    height = np.minimum(box[3], others[3]) - np.maximum(box[1], others[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (others[2] - others[0]) * (others[3] - others[1])
    own = (box[2] - box[0]) * (box[3] - box[1])
    overlap = shared / np.maximum(own + areas - shared, np.finfo(others.dtype).tiny)
    if inside is not None:
        smaller, larger = np.minimum(own, areas), np.maximum(own, areas)
        overlap[(shared > inside * smaller) & (smaller >= SMALLEST_PART * larger)] = 1.0
    return np.asarray(overlap)
