"""A light one-stage face detector for real use: anchor-free, three levels, under one million parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, pad
from torch.nn.utils.rnn import pad_sequence

from faceexpr.models.detector import DetectionNet, as_unit, group_equal
from faceexpr.utils.errors import require
from faceexpr.utils.images import resize

STRIDES = (8, 16, 32)
"""Pixels from one cell to the next on each level."""

PRIOR = 0.01
"""Score of every cell before training, so that the many cells without a face do not swamp the first steps."""

MEAN, STD = 0.5, 0.25
"""Of the input, on the scale 0 to 1."""

MOST_CANDIDATES = 1000

FILLS = 0.4
"""Boxes of the second look whose longer side is a smaller part of the image's are left to the first."""

CELLS_PER_FACE = 10
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""How much a cell's score and its box's overlap count when the cells of a face are chosen; YOLOv8's values."""

BOX_WEIGHT = 5.0

ONE_WAY = (1.0, 1.0, 1.0)
"""The extent of boxes that are given as they are learnt."""


class LightDetector(DetectionNet):
    """A small residual network with a feature pyramid; each cell gives a score and a box, no anchors.

    Trained with task-aligned assignment (Feng et al., TOOD, 2021). An image of 640 x 480 takes about 2.4 billion
    multiplications with the default widths.

    Args:
        widths: channels at strides 2, 4, 8, 16 and 32.
        neck: channels of the feature pyramid and the heads.
        test_side: images whose longer side has more pixels are reduced to it before detection; smaller ones stay as
            they are. More finds smaller faces and takes longer.
        min_face: faces whose longer side is below this, in pixels of what the network sees, are neither learnt nor
            counted as background in training.
        box_power: power of a box's misfit in the loss. Where some annotators draw tight boxes and some loose ones, 1
            follows the most of them; above 1, such as 4, all faces count alike, and boxes come to lie between.
        second_side: larger images are looked at again, reduced to this longer side, for the faces that fill them,
            which are larger than any that training shows; 0 for one look only.
        extents: where annotators differ in how much of a head they draw: for each way of drawing, factors of a box's
            width and height, and how likely it is beside the first, above 0 and up to 1. Every box is given once for
            each way, its score times how likely that is; training fits the first. With ``suppression.inside`` only
            the surest box of a face is left.
    """

    loss_names = ("score", "box")

    def __init__(
        self,
        widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 96),
        neck: int = 64,
        test_side: int = 640,
        min_face: float = 8.0,
        box_power: float = 1.0,
        second_side: int = 0,
        extents: tuple[tuple[float, float, float], ...] = (ONE_WAY,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require(len(widths) == 5 and min(widths) >= 1, "widths", list(widths), "five positive numbers")
        require(neck >= 1, "neck", neck, "1 or more")
        require(test_side >= 32, "test_side", test_side, "32 or more pixels")
        require(box_power >= 1, "box_power", box_power, "1 or more")
        require(second_side == 0 or second_side >= 32, "second_side", second_side, "0 for none, or 32 or more pixels")
        usable = len(extents) > 0 and all(min(extent) > 0 and extent[2] <= 1 for extent in extents)
        spoken = "one or more of three numbers above 0, the last up to 1"
        require(usable, "extents", [list(extent) for extent in extents], spoken)
        self.test_side = test_side
        self.min_face = min_face
        self.box_power = box_power
        self.second_side = second_side
        self.extents = extents
        first, second = widths[:2]
        halvings = _convolution(3, first, 2), _convolution(first, second, 2)
        self.stem = nn.Sequential(*halvings, _Block(second, second))
        self.stages = nn.ModuleList(
            nn.Sequential(_Block(before, after, 2), _Block(after, after)) for before, after in pairwise(widths[1:])
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in widths[2:])
        outputs = [nn.Conv2d(neck, 5, 1) for _ in STRIDES]
        self.heads = nn.ModuleList(nn.Sequential(_convolution(neck, neck), output) for output in outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for last in outputs:
            nn.init.normal_(last.weight, std=0.01)
            # Boxes start about three cells wide.
            last.bias = nn.Parameter(torch.tensor([math.log(PRIOR / (1 - PRIOR)), 0.0, 0.0, 1.0, 1.0]))

    def features(self, batch: Tensor) -> Tensor:
        """Return the raw outputs of all cells.

        Args:
            batch: floating point in 0 to 1, (N, 3, H, W), H and W multiples of 32.

        Returns:
            float32 (N, cells, 5): score logit, offsets of the centre, logarithms of width and height, in strides.
        """
        x = self.stem((batch - MEAN) / STD)
        levels = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for below in (1, 0):
            levels[below] = levels[below] + interpolate(levels[below + 1], scale_factor=2.0)
        outputs = [head(level) for head, level in zip(self.heads, levels, strict=True)]
        return torch.cat([output.flatten(2).transpose(1, 2).float() for output in outputs], dim=1)

    def losses(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> dict[str, Tensor]:
        scales = [_scale(image, self.test_side) for image in images]
        fitted = [_fit(image, image, scale) for image, scale in zip(images, scales, strict=True)]
        batch = _stack([as_unit(image) for image in fitted])
        scaled = [box.float() * scale for box, scale in zip(boxes, scales, strict=True)]
        outputs = self.features(batch)
        centres, strides = grid(batch.shape[-2], batch.shape[-1], batch.device)
        decoded = drawn(decode(outputs, centres, strides), self.extents[0])
        return detection_losses(outputs[..., 0], decoded, centres, strides, scaled, self.min_face, self.box_power)

    def candidates(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        found, seen = self._look(images, images, self.test_side)
        larger = [place for place, image in enumerate(images) if 0 < self.second_side < max(image.shape[-2:])]
        again, _ = self._look([images[at] for at in larger], [seen[at] for at in larger], self.second_side)
        for place, (boxes, scores) in zip(larger, again, strict=True):
            least = FILLS * max(images[place].shape[-2:])
            filling = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) >= least
            first_boxes, first_scores = found[place]
            found[place] = torch.cat([first_boxes, boxes[filling]]), torch.cat([first_scores, scores[filling]])
        return found

    def _found(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, K, 4) in pixels of the batch and scores (N, K), every box in each of its extents."""
        outputs = self.features(batch)
        boxes = decode(outputs, *grid(batch.shape[-2], batch.shape[-1], batch.device))
        scores = outputs[..., 0].sigmoid()
        every_box = torch.cat([drawn(boxes, extent) for extent in self.extents], dim=1)
        return every_box, torch.cat([scores * likely for _, _, likely in self.extents], dim=1)

    def _look(
        self, images: Sequence[Tensor], seen: Sequence[Tensor], side: int
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Look at images with a longer side of at most so many pixels.

        Args:
            images: of which the boxes shall be.
            seen: the same, or reduced already: what is reduced further is read sooner.
            side: in pixels.

        Returns:
            Boxes in pixels of each image with their scores, and the images as they were looked at.
        """
        found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(images)
        scales = [_scale(image, side) for image in images]
        fitted = [_fit(*each) for each in zip(seen, images, scales, strict=True)]
        for members in group_equal([(*image.shape[-2:], image.dtype) for image in fitted]):
            batch = as_unit(_stack([fitted[place] for place in members]))  # bytes are moved sooner than numbers
            boxes, scores = self._found(batch)
            for place, own_boxes, own_scores in zip(members, boxes, scores, strict=True):
                height, width = images[place].shape[-2:]
                own_scores, kept = own_scores.topk(min(MOST_CANDIDATES, len(own_scores)))
                sure = own_scores >= self.suppression.min_score
                own_boxes = own_boxes[kept][sure] / scales[place]
                own_boxes = _clip(own_boxes, height, width)
                real = (own_boxes[:, 2:] > own_boxes[:, :2]).all(dim=1)
                found[place] = own_boxes[real], own_scores[sure][real]
        return found, fitted

    def dense_candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores, seen = self._dense_look(images, images, self.test_side)
        if not self.second_side:
            return boxes, scores
        again, filling, _ = self._dense_look(images, seen, self.second_side)
        longer = boxes.new_ones(()) * torch.sym_max(*images.shape[-2:])
        large = ((again[..., 2:] - again[..., :2]).amax(dim=-1) >= FILLS * longer) & (longer > self.second_side)
        return torch.cat([boxes, again], dim=1), torch.cat([scores, torch.where(large, filling, -1.0)], dim=1)

    def _dense_look(self, images: Tensor, seen: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `_look` does as `dense_candidates`."""
        height, width = images.shape[-2:]
        longer: Any = torch.sym_max(height, width)
        scale = (side * torch.ones((), dtype=torch.float64, device=images.device) / longer).clamp(max=1)
        step = STRIDES[-1]
        lengths: Any = [(scale * length).round().long().clamp(min=1) for length in (height, width)]
        # As numbers of which nothing else is known: what torch derives from formulas takes it minutes.
        rows, columns = (torch.sym_max(length.item(), 1) for length in lengths)
        down, across = (torch.sym_max(((length + step - 1) // step).item(), 1) * step for length in lengths)
        seen = resize(seen, (rows, columns))
        batch = pad(as_unit(seen), (0, across - columns, 0, down - rows))
        boxes, scores = self._found(batch)
        scores, kept = scores.topk(torch.sym_min(MOST_CANDIDATES, scores.shape[1]), dim=1)
        boxes = boxes.gather(1, kept[..., None].expand(-1, -1, 4)) / scale.float()
        boxes = _clip(boxes, height, width)
        return boxes, torch.where((boxes[..., 2:] > boxes[..., :2]).all(dim=-1), scores, -1.0), seen


def _convolution(before: int, after: int, stride: int = 1, last: bool = False) -> nn.Sequential:
    """Return a convolution of 3 x 3, batch normalisation and, unless it is the last of its block, a ReLU."""
    layers = [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, *[nn.ReLU(inplace=True)] * (not last))


class _Block(nn.Module):
    """Two convolutions and a shortcut (He et al., 2016); the shortcut averages where it halves the size."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _convolution(before, after, stride)
        self.second = _convolution(after, after, last=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            channels = nn.Conv2d(before, after, 1, bias=False)
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), channels, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the centre (cells, 2) in pixels, x first, and the stride (cells,) of every cell of all levels."""
    centres, strides = [], []
    for stride in STRIDES:
        rows, columns = height // stride, width // stride
        y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        centres.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((rows * columns,), float(stride), device=device))
    return torch.cat(centres), torch.cat(strides)


def decode(outputs: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Return boxes (N, cells, 4) as left, top, right, bottom in pixels."""
    middle = centres + outputs[..., 1:3] * strides[:, None]
    half = outputs[..., 3:5].clamp(-4, 6).exp() * strides[:, None] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def drawn(boxes: Tensor, extent: tuple[float, float, float]) -> Tensor:
    """Return boxes (..., 4) with width and height times the extent's, about the same centres."""
    if tuple(extent) == ONE_WAY:
        return boxes
    middle, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    half = half * half.new_tensor(extent[:2])
    return torch.cat([middle - half, middle + half], dim=-1)


def _clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return boxes (..., 4) within an image; torchvision does the same, but takes seconds to import."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    sides = left.clamp(0, width), top.clamp(0, height), right.clamp(0, width), bottom.clamp(0, height)
    return torch.stack(sides, dim=-1)


def _scale(image: Tensor, side: int) -> float:
    """Return the factor that reduces an image to a longer side of this many pixels, 1 for one that is no larger."""
    return min(1.0, side / max(image.shape[-2:]))


def _fit(seen: Tensor, image: Tensor, scale: float) -> Tensor:
    """Return pixels of an image, reduced already or not, in the image's size times a factor."""
    if scale == 1.0:
        return seen
    height, width = (max(round(length * scale), 1) for length in image.shape[-2:])
    # On the host, bytes are resized several times faster than floating-point numbers.
    pixels = seen if seen.dtype == torch.uint8 and seen.device.type == "cpu" else as_unit(seen)
    return resize(pixels[None], (height, width))[0]


def _stack(images: Sequence[Tensor]) -> Tensor:
    """Return images as one batch, padded with black at the right and the bottom to a multiple of the largest stride."""
    step = STRIDES[-1]
    height = math.ceil(max(image.shape[-2] for image in images) / step) * step
    width = math.ceil(max(image.shape[-1] for image in images) / step) * step
    padded = [pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images]
    return torch.stack(padded).contiguous(memory_format=torch.channels_last)


def detection_losses(
    logits: Tensor,
    predicted: Tensor,
    centres: Tensor,
    strides: Tensor,
    boxes: Sequence[Tensor],
    min_face: float,
    box_power: float = 1.0,
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
        box_power: power of each box's misfit; above 1 a face's cells count in the same way however well they fit it.
    """
    truth = pad_sequence(list(boxes), batch_first=True).to(logits)
    counts = torch.tensor([len(own) for own in boxes], device=logits.device)
    real = torch.arange(truth.shape[1], device=logits.device) < counts[:, None]
    sides = (truth[..., 2:] - truth[..., :2]).amax(dim=-1)
    learnt = real & (sides >= min_face)
    with torch.no_grad():
        inside = _inside(truth, centres, strides)
        overlap = _overlaps(truth, predicted) * (inside & learnt[..., None])
        face, target, part = _assign(overlap, logits.sigmoid())
        weight = 1.0 - ((inside & (real & ~learnt)[..., None]).any(dim=1) & (target == 0)).to(logits.dtype)
    total = target.sum().clamp(min=1.0)
    scores = binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / total
    positive = target > 0
    own = truth.gather(1, face[..., None].expand(-1, -1, 4))[positive] if truth.shape[1] else predicted[positive]
    from torchvision.ops import complete_box_iou_loss  # which takes seconds, for trainings alone

    misfit = complete_box_iou_loss(predicted[positive], own, reduction="none")
    share = (target if box_power == 1 else part)[positive]
    misfit = misfit.clamp(min=0) ** box_power
    return {"score": scores, "box": BOX_WEIGHT * (misfit * share).sum() / share.sum().clamp(min=1.0)}


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


def _assign(overlap: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the face (N, A) that each cell learns, an index, its target score, 0 for none, and its part, up to 1."""
    count, faces, cells = overlap.shape
    if faces == 0:
        return scores.new_zeros(count, cells, dtype=torch.int64), torch.zeros_like(scores), torch.zeros_like(scores)
    alignment = scores[:, None] ** SCORE_POWER * overlap**OVERLAP_POWER
    best = alignment.topk(min(CELLS_PER_FACE, cells), dim=-1)
    chosen = torch.zeros_like(alignment).scatter(-1, best.indices, (best.values > 0).to(alignment.dtype))
    # A cell that several faces have chosen goes to the one that it overlaps most.
    face = (chosen * overlap).argmax(dim=1)
    mine = torch.zeros_like(chosen).scatter(1, face[:, None], 1.0) * chosen
    alignment, overlap = alignment * mine, overlap * mine
    part = alignment / alignment.amax(dim=-1, keepdim=True).clamp(min=1e-12)
    return face, (part * overlap.amax(dim=-1, keepdim=True)).amax(dim=1), part.amax(dim=1)
