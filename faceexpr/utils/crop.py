"""How a face becomes pixels: grey or colour, and what is cut out of its image around its box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faceexpr.utils.errors import FaceExprError

Box: TypeAlias = "tuple[float, float, float, float]"
"""Left, top, right, bottom in pixels."""

FACE_SIZE = 48
"""Side in pixels of faces where neither data nor network say another: that of FER-2013."""


@dataclass(frozen=True)
class Crop:
    """How a face becomes pixels. A model keeps that of its training, and all that is done with it goes by it.

    Args:
        margin: what is added on each side, as a part of the box's width and height; less at the border of the image.
        shape: ``square`` lengthens the shorter side, so that a face keeps its proportions; the square is moved into
            the image where it would leave it, and where the image is too narrow its border pixels are repeated.
            ``stretched`` takes the box as it is, and its proportions change when it is resized.
        min_face: faces whose shorter side has fewer pixels are left out.
        channels: 1 makes a face grey before it is resized, whatever its image and its network are; 3 keeps colours, as
            None does, which says nothing.
        size: side in pixels to which a face is resized before its network looks at it; None is the network's own.
    """

    margin: float = 0.05
    shape: Literal["square", "stretched"] = "square"
    min_face: float = 8
    channels: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 2:
            raise FaceExprError(f"margin is {self.margin}; expected 0 to 2")
        if self.shape not in ("square", "stretched"):
            raise FaceExprError(f"shape is {self.shape!r}; expected square or stretched")
        if not self.min_face >= 1:
            raise FaceExprError(f"min_face is {self.min_face}; expected 1 or more")
        if self.channels not in (None, 1, 3):
            raise FaceExprError(f"channels is {self.channels}; expected 1 (grey) or 3 (RGB)")


def clip_box(box: Sequence[float], size: tuple[int, int], min_face: float) -> Box | str:
    """Return the part of a box, in pixels, that lies in an image of this width and height, or why it is left out."""
    if not all(isfinite(value) for value in box):
        return "not finite"
    if box[0] >= box[2] or box[1] >= box[3]:
        return "without area"
    left, top, right, bottom = max(box[0], 0.0), max(box[1], 0.0), min(box[2], size[0]), min(box[3], size[1])
    if left >= right or top >= bottom:
        return "outside the picture"  # as records have always said
    if min(right - left, bottom - top) < min_face:
        return f"smaller than {min_face:g} pixels"
    return left, top, right, bottom


def cut_face(pixels: NDArray[np.uint8], box: Sequence[float], options: Crop) -> NDArray[np.uint8]:
    """Return the pixels of a face, uint8 (h, w) or (h, w, 3), from those of its image, inside which its box lies."""
    height, width = pixels.shape[:2]
    across, down = options.margin * (box[2] - box[0]), options.margin * (box[3] - box[1])
    # Half a hundredth of a pixel is no reason to take in another row.
    left, right = max(floor(box[0] - across + 0.005), 0), min(ceil(box[2] + across - 0.005), width)
    top, bottom = max(floor(box[1] - down + 0.005), 0), min(ceil(box[3] + down - 0.005), height)
    if options.shape == "stretched":
        return pixels[top:bottom, left:right]
    side = max(right - left, bottom - top)
    return pixels[np.ix_(_lengthen(top, bottom, side, height), _lengthen(left, right, side, width))]


def _lengthen(low: int, high: int, side: int, limit: int) -> NDArray[np.int64]:
    """Return the rows or columns of an interval of this length, moved into the image, at whose border they repeat."""
    start = low - (side - (high - low)) // 2
    start = max(min(start, limit - side), 0) if side <= limit else -((side - limit) // 2)
    return np.arange(start, start + side).clip(0, limit - 1)
