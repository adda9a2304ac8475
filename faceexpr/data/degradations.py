"""Spoil the images of training batches as cameras, files and small faces do, each sample by draws of its own.

FER-2013's faces are of one kind: 48 pixels, sharp, from the web. What a network meets later is blurred, noisy,
compressed, enlarged from a few pixels, too dark or too bright. All of it is done on the device, on whole batches, with
the random numbers of `faceexpr.data.augment`; ``python benchmarks/augmentation.py`` prints what it costs. JPEG is what
a file does to the pixels (block transform, quantisation and back; the coding after that loses nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import cos, log, pi, sqrt

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from faceexpr.data.augment import uniform
from faceexpr.utils.errors import require
from faceexpr.utils.images import resize

_DEGRADING = 2  # tells these random numbers from those that change images otherwise, which have the same key
_RADIUS = 6  # of the blur's kernel, in pixels: at twice the largest sigma it has fallen to a seventh
_BLOCK = 8  # side of the squares that JPEG transforms

_QUANTA = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
"""Steps of luminance at quality 50 (ITU-T T.81, table K.1)."""


@dataclass(frozen=True)
class Degradations:
    """How training images are spoiled, each by draws of its own, in the order of the arguments; all off by default.

    Args:
        grey: probability that a colour image becomes grey, its channels weighed at random; 0 to 1. Grey images have
            one channel and stay as they are.
        gamma: probability of another gamma, between 1 / 2.5 and 2.5; 0 to 1.
        blur: probability of a blur, 0 to 1: a Gaussian with a sigma of 0.3 to 3 pixels along one axis of any
            direction and of a tenth of that to as much along the other, so that it reaches from a wrong focus to a
            moving camera.
        low_resolution: probability of a reduction to between ``least_side`` and the whole, and back; 0 to 1.
        least_side: smallest share of the sides that is left, above 0 and up to 1.
        noise: probability of Gaussian noise, 0 to 1.
        most_noise: largest standard deviation of the noise, in grey levels, 0 to 255.
        jpeg: probability of JPEG's losses, 0 to 1.
        least_quality: lowest JPEG quality, 1 to 95; the highest is 95.
    """

    grey: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    low_resolution: float = 0.0
    least_side: float = 0.2
    noise: float = 0.0
    most_noise: float = 35.0
    jpeg: float = 0.0
    least_quality: float = 8.0

    def __post_init__(self) -> None:
        limits = {"least_side": (1e-3, 1.0), "most_noise": (0.0, 255.0), "least_quality": (1.0, 95.0)}
        for name in (field.name for field in fields(self)):
            low, high = limits.get(name, (0.0, 1.0))
            value = getattr(self, name)
            require(low <= value <= high, f"degrade.{name}", value, f"{low:g} to {high:g}")

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return max(self.grey, self.gamma, self.blur, self.low_resolution, self.noise, self.jpeg) > 0


def degrade_batch(image: Tensor, index: Tensor, settings: Degradations, key: tuple[int, ...]) -> Tensor:
    """Spoil the images of a training batch at random.

    Args:
        image: uint8, shape (N, 1 or 3, H, W).
        index: int64 (N,), on the host: each image's position in its split.
        settings: what happens, and how often.
        key: what the random numbers depend on beside the index, such as the seed and the epoch.

    Returns:
        uint8 of the same shape and device; with everything off, the very tensor given.
    """
    if not settings.active:
        return image
    key = (*key, _DEGRADING)
    numbers = torch.from_numpy(uniform(index, 17, key)).to(image.device, non_blocking=True)
    often, far = numbers[:, :6], numbers[:, 6:]
    pixels = image.float()
    if settings.grey and pixels.shape[1] == 3:
        weights = -(far[:, 8:] + 2**-25).log()  # exponential, so that their shares are uniform over the triangle
        grey = (pixels * (weights / weights.sum(1, keepdim=True))[:, :, None, None]).sum(1, keepdim=True)
        pixels = _where(often[:, 0] < settings.grey, grey.expand_as(pixels), pixels)
    if settings.gamma:
        exponent = ((2 * far[:, 0] - 1) * log(2.5)).exp()
        pixels = _where(often[:, 1] < settings.gamma, 255 * (pixels / 255) ** _wide(exponent), pixels)
    if settings.blur:
        pixels = _where(often[:, 2] < settings.blur, _blur(pixels, far[:, 1], far[:, 2], far[:, 3]), pixels)
    if settings.low_resolution:
        share = settings.least_side ** far[:, 4]
        pixels = _where(often[:, 3] < settings.low_resolution, reduce_and_enlarge(pixels, share), pixels)
    if settings.noise:
        grain = torch.from_numpy(uniform(index, image[0].numel(), (*key, 1))).to(image.device, non_blocking=True)
        # From uniform to normal; at 0 it would be infinite.
        grain = torch.erfinv(2 * grain.clamp(min=2**-25) - 1).view(image.shape) * sqrt(2)
        pixels = torch.addcmul(pixels, grain, _wide(far[:, 6] * settings.most_noise * (often[:, 4] < settings.noise)))
    if settings.jpeg:
        quality = settings.least_quality + far[:, 7] * (95 - settings.least_quality)
        pixels = _where(often[:, 5] < settings.jpeg, compress(pixels.round().clamp(0, 255), quality), pixels)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _where(chosen: Tensor, changed: Tensor, pixels: Tensor) -> Tensor:
    return torch.where(_wide(chosen), changed, pixels)


def _blur(pixels: Tensor, along: Tensor, across: Tensor, direction: Tensor) -> Tensor:
    """Blur each image by a Gaussian of its own, sigmas and direction given by uniform draws (N,)."""
    longer = 0.3 * 10**along
    shorter = (longer * 10 ** (across - 1)).clamp(min=0.25)
    places = torch.arange(-_RADIUS, _RADIUS + 1, device=pixels.device, dtype=torch.float32)
    down, right = (place[None] for place in torch.meshgrid(places, places, indexing="ij"))
    cosine, sine = (direction * pi).cos()[:, None, None], (direction * pi).sin()[:, None, None]
    u = (right * cosine + down * sine) / longer.view(-1, 1, 1)
    v = (down * cosine - right * sine) / shorter.view(-1, 1, 1)
    kernel = (-(u**2 + v**2) / 2).exp()
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    # A convolution with a kernel for each image: all of them as the channels of one.
    padded = pad(pixels, [_RADIUS] * 4, mode="replicate").flatten(0, 1)[None]
    kernels = kernel.repeat_interleave(pixels.shape[1], 0)[:, None]
    return conv2d(padded, kernels, groups=len(kernels)).view(pixels.shape)


def reduce_and_enlarge(pixels: Tensor, share: Tensor) -> Tensor:
    """Reduce each image to a share (N,) of its sides and enlarge it again: a product of matrices for each axis."""
    height, width = pixels.shape[-2:]
    down = _there_and_back(height, pixels.device)[(share * height).round().clamp(1, height).long() - 1]
    right = _there_and_back(width, pixels.device)[(share * width).round().clamp(1, width).long() - 1]
    return down[:, None] @ pixels @ right[:, None].mT


@cache
def _there_and_back(side: int, device: torch.device) -> Tensor:
    """Return what reduction to 1, 2, ... pixels and enlargement do to a line of ``side``: (side, side, side)."""
    lines = torch.eye(side)[None, None]  # one bright pixel in each column
    spread = [resize(resize(lines, (number, side)), side) for number in range(1, side + 1)]
    return torch.cat(spread)[:, 0].to(device)


def compress(pixels: Tensor, quality: Tensor) -> Tensor:
    """Return what JPEG leaves of each channel as if it were luminance, before the last rounding.

    Args:
        pixels: whole numbers 0 to 255 as float32 (N, C, H, W).
        quality: of each image, 1 to 100, as the Independent JPEG Group scales it: float32 (N,).
    """
    height, width = pixels.shape[-2:]
    whole = pad(pixels, [0, -width % _BLOCK, 0, -height % _BLOCK], mode="replicate") - 128
    blocks = whole.unflatten(3, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK)).transpose(3, 4)  # (N, C, rows, columns, 8, 8)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(-1, 1, 1, 1, 1, 1)
    quanta = pixels.new_tensor(_QUANTA).view(_BLOCK, _BLOCK)
    steps = (quanta * scale + 0.5).floor().clamp(1, 255)
    cosines = pixels.new_tensor(_cosines())
    kept = (cosines @ blocks @ cosines.T / steps).round() * steps
    restored: Tensor = (cosines.T @ kept @ cosines).transpose(3, 4).flatten(4).flatten(2, 3) + 128
    return restored[..., :height, :width]


def _cosines() -> Sequence[Sequence[float]]:
    """Return the matrix of the discrete cosine transform of 8 values, orthonormal."""
    places = range(_BLOCK)
    rows = [[cos(pi * row * (2 * column + 1) / (2 * _BLOCK)) for column in places] for row in places]
    return [[value * sqrt((2 if number else 1) / _BLOCK) for value in row] for number, row in enumerate(rows)]
