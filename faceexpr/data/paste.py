"""Faces of one training picture pasted into another."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

from faceexpr.utils.images import resize

SURROUNDINGS = 0.35
"""What is taken along on each side of a face, as a part of its width and height: hair, chin, shoulders."""

SMALLEST, LARGEST = 10.0, 0.35
"""Longer side of a pasted face: pixels at least, and at most as a part of the picture's side."""

MOST_ENLARGED = 1.5
"""More than this, and a face would be told by its blur."""

TRIES = 5


def paste_face(image: Tensor, boxes: Tensor, source: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Paste one face of another picture where there is room, at a random size and place ("copy-paste").

    Few photographs hold few faces; pasted ones show each before many backgrounds (Ghiasi et al., "Simple copy-paste is
    a strong data augmentation method for instance segmentation", 2021). The edge is faded, so that nothing but the
    face tells it. Draws from torch's global generator.

    Args:
        image: uint8 (3, S, S); it is not changed.
        boxes: its faces, float32 (F, 4).
        source: the other picture, uint8 (3, H, W).
        faces: its faces, float32 (G, 4), G at least 1.

    Returns:
        A picture and its faces; the same ones where no free place was found in a few tries.
    """
    size = image.shape[-1]
    face = faces[int(torch.randint(len(faces), ()))]
    own = float((face[2:] - face[:2]).amax())
    largest = min(LARGEST * size, own * MOST_ENLARGED)
    draws = torch.rand(2 + 2 * TRIES).tolist()
    if own < SMALLEST or largest <= SMALLEST:
        return image, boxes
    longer = math.exp(math.log(SMALLEST) + draws[0] * (math.log(largest) - math.log(SMALLEST)))
    patch, inner = _cut(source, face, longer / own)
    if draws[1] < 0.5:
        patch = patch.flip(2)
        inner = torch.stack([patch.shape[2] - inner[2], inner[1], patch.shape[2] - inner[0], inner[3]])
    height, width = patch.shape[1:]
    for place in range(TRIES):
        left, top = (
            round(part * (size - length)) for part, length in zip(draws[2 + 2 * place :], (width, height), strict=False)
        )
        outer = torch.tensor([[left, top, left + width, top + height]], dtype=boxes.dtype)
        if left < 0 or top < 0 or (len(boxes) and float(box_iou(outer, boxes).amax()) > 0):
            continue
        mask = _faded(height, width)
        pasted = image.clone()
        below = pasted[:, top : top + height, left : left + width].float()
        pasted[:, top : top + height, left : left + width] = (patch * mask + below * (1 - mask)).round().byte()
        return pasted, torch.cat([boxes, (inner + inner.new_tensor([left, top] * 2))[None]])
    return image, boxes


def _cut(source: Tensor, face: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return a face with its surroundings, resized, float32 (3, h, w), and where the face is in it, (4,)."""
    around = SURROUNDINGS * (face[2:] - face[:2])
    height, width = source.shape[1:]
    left, top = (max(int(value), 0) for value in (face[:2] - around).tolist())
    right, bottom = (
        min(math.ceil(value), limit) for value, limit in zip((face[2:] + around).tolist(), (width, height), strict=True)
    )
    patch = source[:, top:bottom, left:right]
    size = max(round((bottom - top) * scale), 1), max(round((right - left) * scale), 1)
    factors = face.new_tensor([size[1] / (right - left), size[0] / (bottom - top)] * 2)
    return resize(patch[None], size)[0].float(), (face - face.new_tensor([left, top] * 2)) * factors


def _faded(height: int, width: int) -> Tensor:
    """Return how much of each pixel is the pasted one: 1 inside an ellipse, fading to 0 at the corners, (h, w)."""
    y, x = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    distance = (x[None].square() + y[:, None].square()).sqrt()
    return ((1.1 - distance) / 0.25).clamp(0, 1)
