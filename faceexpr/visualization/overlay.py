"""Maps as pictures: laid over the face that they are of."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from faceexpr.models.preprocess import LUMA

COLOURS = "inferno"
"""Of matplotlib: lightness grows evenly with the value, also for who sees no red or green, or prints in grey."""

_OPACITY = 0.75
"""Of the largest value; smaller ones are as much more transparent, so that the face shows where nothing is."""


def overlay(face: NDArray[np.uint8], values: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """Lay a map over a face in grey.

    Args:
        face: (H, W) grey or (H, W, 3) RGB.
        values: the map, (h, w), from 0 to 1.
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        RGB, uint8 (height, width, 3).
    """
    from matplotlib import colormaps

    grey = enlarged(face @ np.array(LUMA) if face.ndim == 3 else face, height, width).clip(0, 255)[:, :, None]
    strength = enlarged(values, height, width).clip(0, 1)
    colours = colormaps[COLOURS](strength)[:, :, :3] * 255
    share = _OPACITY * strength[:, :, None]
    mixed: NDArray[np.uint8] = np.round((1 - share) * grey + share * colours).astype(np.uint8)
    return mixed


def side_by_side(face: NDArray[np.uint8], values: NDArray[np.float32], height: int, gap: int) -> NDArray[np.uint8]:
    """Return a face and, to the right of it, its map over it.

    Args:
        face: (H, W) grey or (H, W, 3) RGB.
        values: the map, (h, w), from 0 to 1.
        height: of the result, in pixels.
        gap: white pixels between both.

    Returns:
        RGB, uint8 (height, 2 w + gap, 3), where w keeps the proportions of the face.
    """
    width = max(1, round(height * face.shape[1] / face.shape[0]))
    channels = face[:, :, None].repeat(3, axis=2) if face.ndim == 2 else face
    plain = enlarged(channels, height, width).clip(0, 255).round().astype(np.uint8)
    between = np.full((height, gap, 3), 255, dtype=np.uint8)
    return np.concatenate([plain, between, overlay(face, values, height, width)], axis=1)


def enlarged(values: NDArray[np.generic], height: int, width: int) -> NDArray[np.float32]:
    """Return an image, (H, W) or (H, W, C), at another size, smoothly, in float32."""
    planes = torch.from_numpy(np.array(values, dtype=np.float32))
    planes = planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1)
    resized = functional.interpolate(planes[None], (height, width), mode="bicubic", antialias=True)[0]
    result: NDArray[np.float32] = (resized[0] if values.ndim == 2 else resized.permute(1, 2, 0)).numpy()
    return result
