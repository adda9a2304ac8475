"""What can be wrong with a face that a camera or a detector hands over: nine corruptions in five strengths each."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, hypot

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, as_tensor
from torchvision.transforms.v2 import functional as change
from torchvision.transforms.v2.functional import InterpolationMode

from faceexpr.data.augment import uniform
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.images import as_faces
from faceexpr.utils.text import nearest

REFERENCE_SIDE = 48
"""Side in pixels of the face that lengths in the table are given for; with a larger image they grow."""

STRENGTHS = (1, 2, 3, 4, 5)

Draw = Callable[[int], NDArray[np.float32]]
"""Gives float32 (N, columns) in [0, 1), the same for a sample whatever batch it is in."""


@dataclass(frozen=True)
class Corruption:
    """One way of spoiling an image.

    Attributes:
        label: its name for people.
        unit: what its values are.
        values: the value of each strength, from weak to strong.
        spoil: takes images, uint8 (N, C, H, W), a value and a `Draw`, and returns images of the same shape.
    """

    label: str
    unit: str
    values: tuple[float, float, float, float, float]
    spoil: Callable[[Tensor, float, Draw], Tensor]


def corrupt(image: Tensor, index: Tensor, name: str, strength: int, seed: int = 0) -> Tensor:
    """Return images with one of `CORRUPTIONS`.

    What is drawn at random (noise, directions) depends on the seed, the corruption, the strength and each image's own
    index, and on nothing else: not on the batch or the process that an image is in. It is drawn on the host, and so
    the same on every device.

    Args:
        image: uint8 (N, C, H, W) with C = 1 or 3, any size; an array will do.
        index: int64 (N,), each image's position in its split; on the host.
        name: of the corruption.
        strength: one of `STRENGTHS`.
        seed: of the draws.

    Raises:
        FaceExprError: they are something else.
    """
    image, index = as_faces(image), torch.as_tensor(index)
    require(image.dtype == torch.uint8, "image", image.dtype, "uint8")
    require(index.shape == image.shape[:1], "index", f"of shape {(*index.shape,)}", f"{len(image)}, one for each image")
    if name not in CORRUPTIONS:
        raise FaceExprError(f"name is {name}; expected one of {', '.join(CORRUPTIONS)}{nearest(name, CORRUPTIONS)}")
    require(strength in STRENGTHS, "strength", strength, "1 to 5")
    corruption = CORRUPTIONS[name]
    # The name's letters, and not its place in the table, which may get further rows.
    draw = partial(uniform, index, key=(seed, *name.encode(), strength))
    # A whole number written without a point would be multiplied as one, and pixels beyond 255 begin again at 0.
    return corruption.spoil(image, float(corruption.values[strength - 1]), draw)


def _blur(image: Tensor, value: float, _: Draw) -> Tensor:
    sigma = value * min(image.shape[-2:]) / REFERENCE_SIDE
    # At 3 sigma the kernel has fallen to a hundredth.
    side = 2 * max(1, ceil(3 * sigma)) + 1
    # One axis after the other: the same result with 2 * side products a pixel in place of side * side.
    across = change.gaussian_blur(image.float(), [side, 1], [sigma, sigma])
    return _as_pixels(change.gaussian_blur(across, [1, side], [sigma, sigma]))


def _noise(image: Tensor, value: float, draw: Draw) -> Tensor:
    # torchvision's noise comes from the global generator, and would depend on the batch.
    numbers = torch.from_numpy(draw(image[0].numel())).to(image.device).view(image.shape)
    # From uniform to normal; at 0 it would be infinite.
    grain = torch.erfinv(2 * numbers.clamp(min=2**-25) - 1) * 2**0.5
    return _as_pixels(image + value * grain)


def _low_resolution(image: Tensor, value: float, _: Draw) -> Tensor:
    height, width = image.shape[-2:]
    small = change.resize(image, [max(1, round(height / value)), max(1, round(width / value))])
    return as_tensor(change.resize(small, [height, width]))


def _brightness(image: Tensor, value: float, _: Draw) -> Tensor:
    return as_tensor(change.adjust_brightness(image, value))


def _contrast(image: Tensor, value: float, _: Draw) -> Tensor:
    return as_tensor(change.adjust_contrast(image, value))


def _jpeg(image: Tensor, value: float, _: Draw) -> Tensor:
    # Pillow, since torchvision's encoder is to be removed from it.
    changed = np.empty_like(pixels := image.cpu().numpy())
    for row, one in enumerate(pixels.transpose(0, 2, 3, 1)):
        file = io.BytesIO()
        Image.fromarray(one.squeeze(2) if one.shape[2] == 1 else one).save(file, "JPEG", quality=int(value))
        with Image.open(file) as compressed:
            changed[row] = np.asarray(compressed).reshape(one.shape).transpose(2, 0, 1)
    return torch.from_numpy(changed).to(image.device)


def _rotation(image: Tensor, value: float, draw: Draw) -> Tensor:
    height, width = image.shape[-2:]
    # As much as the diagonal needs, so that the border is repeated where torchvision's rotation would fill with black.
    margin = ceil((hypot(height, width) - min(height, width)) / 2)

    def turned(degrees: float, group: Tensor) -> Tensor:
        padded = change.pad(group, [margin] * 4, padding_mode="edge")
        rotated = change.rotate(padded, degrees, interpolation=InterpolationMode.BILINEAR)
        return as_tensor(change.center_crop(rotated, [height, width]))

    return _in_groups(image, draw, [partial(turned, value), partial(turned, -value)])


def _shift(image: Tensor, value: float, draw: Draw) -> Tensor:
    height, width = image.shape[-2:]
    down, right = round(value * height), round(value * width)

    def moved(top: int, left: int, group: Tensor) -> Tensor:
        padded = change.pad(group, [right, down, right, down], padding_mode="edge")
        return as_tensor(change.crop(padded, top, left, height, width))

    return _in_groups(image, draw, [partial(moved, top, left) for top in (0, 2 * down) for left in (0, 2 * right)])


def _in_groups(image: Tensor, draw: Draw, ways: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Change each image in one of several ways, drawn at random."""
    chosen = (draw(1)[:, 0] * len(ways)).astype(np.int64)
    result = torch.empty_like(image)
    for number, way in enumerate(ways):
        rows = torch.from_numpy(np.flatnonzero(chosen == number)).to(image.device, non_blocking=True)
        if len(rows):
            result[rows] = way(image[rows])
    return result


def _as_pixels(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255).to(torch.uint8)


CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption("Blur", "sigma in pixels of a 48-pixel face", (0.5, 1, 1.5, 2, 3), _blur),
    "noise": Corruption("Noise", "standard deviation in grey levels", (5, 10, 20, 30, 45), _noise),
    "low_resolution": Corruption("Low resolution", "factor of reduction", (1.5, 2, 3, 4, 6), _low_resolution),
    "darker": Corruption("Darker", "factor of brightness", (0.8, 0.6, 0.4, 0.25, 0.15), _brightness),
    "brighter": Corruption("Brighter", "factor of brightness", (1.2, 1.4, 1.6, 2, 2.5), _brightness),
    "contrast": Corruption("Low contrast", "factor of contrast", (0.75, 0.5, 0.35, 0.2, 0.1), _contrast),
    "jpeg": Corruption("JPEG", "quality", (50, 30, 20, 10, 5), _jpeg),
    "rotation": Corruption("Rotation", "degrees, either way", (5, 10, 20, 30, 45), _rotation),
    "shift": Corruption("Shifted crop", "share of the side, along both axes", (0.04, 0.08, 0.12, 0.18, 0.25), _shift),
}
"""All corruptions by the names of ``robustness.corruptions``."""
