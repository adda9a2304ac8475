"""The loss of the light detector: which cells learn which face, and what they learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import complete_box_iou_loss

CELLS_PER_FACE = 10
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""How much a cell's score and its box's overlap count when the cells of a face are chosen; YOLOv8's values."""

BOX_WEIGHT = 5.0


def detection_losses(
    logits: Tensor, predicted: Tensor, centres: Tensor, strides: Tensor, boxes: Sequence[Tensor], min_face: float
) -> dict[str, Tensor]:
    """Return the score loss and the box loss with task-aligned assignment (Feng et al., TOOD, 2021).

    Each face is learnt by the few cells inside it that already see it best. Their target score is how well they see
    it, so that a high score comes to mean a box that fits; all other cells learn 0.

    Args:
        logits: float32 (N, A), a score for each of A cells.
        predicted: float32 (N, A, 4), their boxes in pixels.
        centres: float32 (A, 2), in pixels.
        strides: float32 (A,), pixels between cells.
        boxes: N tensors (F, 4), the faces of each image; F may be 0.
        min_face: cells in faces whose longer side is below this learn nothing.
    """
    truth, real = _padded(boxes, logits)
    sides = (truth[..., 2:] - truth[..., :2]).amax(dim=-1)
    learnt = real & (sides >= min_face)
    with torch.no_grad():
        inside = _inside(truth, centres, strides)
        overlap = _overlaps(truth, predicted) * (inside & learnt[..., None])
        face, target = _assign(overlap, logits.sigmoid())
        weight = 1.0 - ((inside & (real & ~learnt)[..., None]).any(dim=1) & (target == 0)).to(logits.dtype)
    total = target.sum().clamp(min=1.0)
    scores = binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / total
    positive = target > 0
    own = truth.gather(1, face[..., None].expand(-1, -1, 4))[positive] if truth.shape[1] else predicted[positive]
    misfit = complete_box_iou_loss(predicted[positive], own, reduction="none")
    return {"score": scores, "box": BOX_WEIGHT * (misfit * target[positive]).sum() / total}


def _padded(boxes: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return faces (N, M, 4), M the largest number in an image, and which of them are real (N, M)."""
    most = max((len(own) for own in boxes), default=0)
    truth = like.new_zeros(len(boxes), most, 4)
    real = torch.zeros(len(boxes), most, dtype=torch.bool, device=like.device)
    for place, own in enumerate(boxes):
        truth[place, : len(own)] = own
        real[place, : len(own)] = True
    return truth, real


def _inside(truth: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Tell which cells lie in which face (N, M, A); a face smaller than a cell has the cell that it lies in."""
    middle, half = (truth[..., :2] + truth[..., 2:]) / 2, (truth[..., 2:] - truth[..., :2]) / 2
    reach = torch.maximum(half[:, :, None], strides[:, None] / 2)
    return ((centres - middle[:, :, None]).abs() <= reach).all(dim=-1)


def _overlaps(truth: Tensor, predicted: Tensor) -> Tensor:
    """Return intersection over union (N, M, A)."""
    low = torch.maximum(truth[:, :, None, :2], predicted[:, None, :, :2])
    high = torch.minimum(truth[:, :, None, 2:], predicted[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (truth, predicted)]
    return shared / (areas[0][:, :, None] + areas[1][:, None] - shared).clamp(min=1e-6)


def _assign(overlap: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the face (N, A) that each cell learns, an index, and its target score (N, A), 0 for none."""
    count, faces, cells = overlap.shape
    if faces == 0:
        return scores.new_zeros(count, cells, dtype=torch.int64), torch.zeros_like(scores)
    alignment = scores[:, None] ** SCORE_POWER * overlap**OVERLAP_POWER
    best = alignment.topk(min(CELLS_PER_FACE, cells), dim=-1)
    chosen = torch.zeros_like(alignment).scatter(-1, best.indices, (best.values > 0).to(alignment.dtype))
    # A cell that several faces have chosen goes to the one that it overlaps most.
    face = (chosen * overlap).argmax(dim=1)
    mine = torch.zeros_like(chosen).scatter(1, face[:, None], 1.0) * chosen
    alignment, overlap = alignment * mine, overlap * mine
    scale = overlap.amax(dim=-1, keepdim=True) / alignment.amax(dim=-1, keepdim=True).clamp(min=1e-12)
    return face, (alignment * scale).amax(dim=1)
