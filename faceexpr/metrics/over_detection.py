"""Several boxes on one face (the paper's Figure 17): how many there are, before and after suppression."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from faceexpr.boxes.matching import Truth
from faceexpr.boxes.suppression import Method, Suppression, suppress

METHODS: dict[Method, str] = {"none": "before suppression", "nms": "NMS", "soft_nms": "Soft-NMS", "wbf": "fusion (WBF)"}
"""The ways of suppression that are compared, by their names for people."""


COUNTS = (4, 4)
"""Shape of the counts of a picture: methods, fields of `BoxCounts`."""


@dataclass(frozen=True)
class BoxCounts:
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
    """Count the boxes in one picture, each for the face that it overlaps most.

    Args:
        boxes: (N, 4), on any device.
        truth: the faces.
        iou: smallest overlap of a box with its face; an ignored face takes what lies inside it by this share.
    """
    # On the host, where every count is read at once.
    found, faces = boxes.detach().cpu().float(), torch.from_numpy(truth.boxes)
    overlap = box_iou(found, faces[torch.from_numpy(~truth.ignored)])
    on_face = np.zeros(0, np.int64)
    free = torch.ones(len(found), dtype=torch.bool)
    if overlap.numel():
        most, face = overlap.max(dim=1)
        free = most < iou
        on_face = face[~free].numpy()
    faces_found = len(np.unique(on_face))
    ignored = _inside(found[free], faces[torch.from_numpy(truth.ignored)], iou)
    return BoxCounts(
        boxes=len(found), found=faces_found, extra=len(on_face) - faces_found, false=int(free.sum()) - ignored
    )


def _inside(boxes: Tensor, regions: Tensor, share: float) -> int:
    """Return how many boxes lie inside one of the regions by this share of their area."""
    if not len(boxes) or not len(regions):
        return 0
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1, keepdim=True)
    return int((shared >= share * own).any(dim=1).sum())


def count_by_method(
    boxes: Tensor, scores: Tensor, truth: Truth, suppression: Suppression, score: float, iou: float
) -> NDArray[np.int64]:
    """Count the boxes of one picture's candidates before and after each way of suppression.

    Args:
        boxes: candidates (N, 4).
        scores: (N,).
        truth: the faces.
        suppression: its limits and widths; its method is replaced by each of `METHODS`, its ``max_faces`` lifted.
        score: only boxes with this score or a higher one are counted.
        iou: see `count_boxes`.

    Returns:
        The fields of `BoxCounts` for each of `METHODS`, shape `COUNTS`.
    """
    rows = []
    for method in METHODS:
        options = replace(suppression, method=method, max_faces=max(len(scores), 1))
        kept = suppress(boxes, scores, options)
        counts = count_boxes(kept.boxes[kept.scores >= score], truth, iou)
        rows.append([counts.boxes, counts.found, counts.extra, counts.false])
    return np.array(rows, dtype=np.int64)


def by_method(counts: NDArray[np.int64]) -> dict[Method, BoxCounts]:
    """Add up the counts of all pictures, (N, *COUNTS)."""
    return {method: BoxCounts(*row) for method, row in zip(METHODS, counts.sum(axis=0).tolist(), strict=True)}
