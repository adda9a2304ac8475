"""Change the images of training batches at random, on the training device, each sample by draws of its own.

Why not a library: ``python benchmarks/augmentation.py`` prints what this costs beside a training step of `SimpleCNN`,
and what the same changes cost in kornia and torchvision. The limit for taking a library was 5 % of the step.
torchvision's transforms draw once a call and would have to be called for each image, which costs far more than that.
kornia stays below the limit of a float32 step on a CPU, but not of a bfloat16 step there. Its fixed cost of a call is
several times ours, which counts on a GPU, where the step takes a few milliseconds; and it draws from torch's global
random state, so that what happens to an image depends on its place in the batch and on the process that the batch is
in. So the draws are our own and all else is torch: the geometry is one ``grid_sample``, the photometry one
multiply-add.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import log1p, pi
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, one_hot

from faceexpr.data.loading import PADDING
from faceexpr.utils.errors import FaceExprError

ERASED = 0.5
"""What an erased square is filled with: mid-grey, zero for a network that maps pixels to (-1, 1)."""


# The increment and the multipliers of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
# generators", 2014; the multipliers are Stafford's variant 13).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_BITS = 24
"""As many as a float32 between 0.5 and 1 can tell apart, so that no number is rounded up to 1."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes to the training images, drawn for each image of a batch on its own; all are off by default.

    Args:
        flip: probability of a horizontal flip, 0 to 1.
        rotation: largest rotation in degrees, either way, 0 to 180.
        scale: largest change of size, as a fraction: 0.15 draws factors from 0.85 to 1.15; 0 to below 1.
        shift: largest shift along each axis, as a fraction of the image's side, 0 to 1.
        aspect: largest stretch of the width against the height or the other way round, as a fraction at the same area:
            0.3 draws ratios from 1 / 1.3 to 1.3, as of faces that others have squeezed into a square; 0 or more.
        brightness: largest change of brightness, as a fraction: 0.25 multiplies pixels by 0.75 to 1.25; 0 to 1.
        contrast: largest change of contrast about the image's mean, as a fraction like brightness; 0 to 1.
        erasing: probability of covering a square with mid-grey, 0 to 1.
        erasing_size: side of that square, as a fraction of the image's shorter side; above 0, up to 1.
        mixup: alpha of the Beta(alpha, alpha) distribution that the weights come from when each image and its label
            are mixed with another's of the same process's batch, so that partners depend on the number of processes,
            as nothing else does; 0 mixes nothing.
    """

    flip: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    aspect: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    erasing: float = 0.0
    erasing_size: float = 0.3
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "shift", "brightness", "contrast", "erasing"):
            self._require(name, 0 <= getattr(self, name) <= 1, "0 to 1")
        self._require("rotation", 0 <= self.rotation <= 180, "0 to 180 degrees")
        self._require("scale", 0 <= self.scale < 1, "0 or more and below 1")
        self._require("aspect", 0 <= self.aspect < float("inf"), "0 (off) or a positive number")
        self._require("erasing_size", 0 < self.erasing_size <= 1, "above 0 and up to 1")
        self._require("mixup", 0 <= self.mixup < float("inf"), "0 (off) or a positive number")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise FaceExprError(f"augment.{name} is {getattr(self, name)}; expected {expected}")

    @property
    def warps(self) -> bool:
        """Whether images are resampled, rather than at most flipped."""
        return max(self.rotation, self.scale, self.shift, self.aspect) > 0

    @property
    def active(self) -> bool:
        """Whether anything is on."""
        return self.warps or max(self.flip, self.brightness, self.contrast, self.erasing, self.mixup) > 0


class _Draws(NamedTuple):
    """One random number a sample for everything that can change, shape (N,) each, uniform in [0, 1).

    All are drawn whatever is on, so that switching one change on leaves the others as they were. Where mixup is on,
    ``partner`` is a place in the batch, and ``mixup`` the weight itself, Beta-distributed.
    """

    flip: Tensor
    rotation: Tensor
    scale: Tensor
    shift_x: Tensor
    shift_y: Tensor
    brightness: Tensor
    contrast: Tensor
    erasing: Tensor
    erased_x: Tensor
    erased_y: Tensor
    partner: Tensor
    mixup: Tensor
    aspect: Tensor


def augment_batch(
    image: Tensor, target: Tensor, index: Tensor, settings: Augmentation, key: tuple[int, ...], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Change the images of a training batch at random.

    The random numbers depend on the key and on each image's own index only. They are drawn on the CPU and reach the
    device in one transfer, so they are the same on every device.

    Args:
        image: uint8, shape (N, C, H, W).
        target: int64 class indices (N,), or class distributions (N, num_classes).
        index: int64 (N,), on the host: each image's position in its split, or `PADDING`, which is nobody's partner.
        settings: what to change, and how far.
        key: what else the random numbers depend on, such as the seed and the epoch.
        num_classes: number of classes.

    Returns:
        The images, float32 in 0 to 1 of the same shape and device, and the targets: class distributions, float32
        (N, num_classes), with mixup, otherwise the ones given. With everything off, the very tensors given.
    """
    if not settings.active:
        return image, target
    draws = _draw(index, settings, key, image.device)
    pixels = image.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if settings.warps:
        pixels = _warp(pixels, settings, draws)
    elif settings.flip:
        pixels = torch.where((draws.flip < settings.flip).view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if settings.brightness or settings.contrast:
        pixels = _relight(pixels, settings, draws)
    if settings.erasing:
        pixels = _erase(pixels, settings, draws)
    if settings.mixup:
        return _mix(pixels, target, draws, num_classes)
    return pixels, target


def _draw(index: Tensor, settings: Augmentation, key: tuple[int, ...], device: torch.device) -> _Draws:
    numbers = uniform(index, len(_Draws.__annotations__), key)
    if settings.mixup:
        from scipy.special import betaincinv  # the Beta sampler of torch takes no numbers drawn before

        real = (index != PADDING).numpy()
        partner, weight = map([*_Draws.__annotations__].index, ("partner", "mixup"))
        # Places in a batch are small enough to be exact as float32.
        numbers[real, partner] = real.nonzero()[0][numbers[real, partner].argsort(kind="stable")]
        numbers[~real, partner] = (~real).nonzero()[0]
        numbers[:, weight] = betaincinv(settings.mixup, settings.mixup, numbers[:, weight].astype("float64"))
    drawn = torch.from_numpy(numbers)
    if device.type == "cuda":
        drawn = drawn.pin_memory()  # or the transfer would wait for the work queued before it
    return _Draws(*drawn.to(device, non_blocking=True).unbind(1))


def _between(low: float, high: float, draw: Tensor) -> Tensor:
    return draw * (high - low) + low


def _warp(pixels: Tensor, settings: Augmentation, draws: _Draws) -> Tensor:
    """Flip, rotate, scale, stretch and shift in one resampling; what comes in from outside repeats the border."""
    height, width = pixels.shape[-2:]
    angle = _between(-settings.rotation, settings.rotation, draws.rotation) * (pi / 180)
    size = _between(1 - settings.scale, 1 + settings.scale, draws.scale)
    mirror = 1 - 2 * (draws.flip < settings.flip).float()
    stretch = (draws.aspect * 2 - 1).mul(log1p(settings.aspect) / 2).exp()  # of the width; the height shrinks by it
    cosine, sine = angle.cos() / size, angle.sin() / size
    # From output to input, in coordinates that span -1 to 1 on both axes: a shift by a whole side is 2, and where the
    # sides differ, so do the units that a rotation exchanges.
    shift_x = _between(-2 * settings.shift, 2 * settings.shift, draws.shift_x)
    shift_y = _between(-2 * settings.shift, 2 * settings.shift, draws.shift_y)
    across = torch.stack([cosine / stretch, -sine * stretch * (height / width), shift_x], dim=1) * mirror[:, None]
    down = torch.stack([sine / stretch * (width / height), cosine * stretch, shift_y], dim=1)
    grid = affine_grid(torch.stack([across, down], dim=1), list(pixels.shape), align_corners=False)
    warped = grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.clamp_(0, 1)  # the four weights of a pixel add up to 1 only within rounding


def _relight(pixels: Tensor, settings: Augmentation, draws: _Draws) -> Tensor:
    """Multiply by the brightness, then stretch by the contrast about the mean, in one multiply-add."""
    brightness = _between(1 - settings.brightness, 1 + settings.brightness, draws.brightness)
    contrast = _between(1 - settings.contrast, 1 + settings.contrast, draws.contrast)
    mean = pixels.flatten(1).mean(1)
    gain, offset = brightness * contrast, brightness * (1 - contrast) * mean
    return torch.addcmul(offset.view(-1, 1, 1, 1), pixels, gain.view(-1, 1, 1, 1)).clamp_(0, 1)


def _erase(pixels: Tensor, settings: Augmentation, draws: _Draws) -> Tensor:
    """Cover a square that lies wholly inside the image."""
    height, width = pixels.shape[-2:]
    side = max(1, round(settings.erasing_size * min(height, width)))
    rows = _span(height, side, draws.erased_y) & (draws.erasing < settings.erasing)[:, None]
    columns = _span(width, side, draws.erased_x)
    return pixels.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], ERASED)


def _span(length: int, side: int, draw: Tensor) -> Tensor:
    """Which of ``length`` places lie in a stretch of ``side`` at a random start: bool (N, length)."""
    start = (draw * (length - side + 1)).floor()[:, None]
    places = torch.arange(length, device=draw.device)
    return (places >= start) & (places < start + side)


def _mix(pixels: Tensor, target: Tensor, draws: _Draws, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix each sample with its partner; every sample is a partner once."""
    labels = one_hot(target, num_classes).float() if target.ndim == 1 else target.float()
    partner = draws.partner.long()
    weight = draws.mixup
    mixed = torch.lerp(pixels[partner], pixels, weight.view(-1, 1, 1, 1))
    return mixed, torch.lerp(labels[partner], labels, weight.view(-1, 1))


def uniform(index: Tensor, columns: int, key: tuple[int, ...]) -> NDArray[np.float32]:
    """Return random numbers that depend on the key and on each sample's index, and on nothing else.

    A generator gives the n-th number to whoever asks n-th, so that a sample's numbers would depend on the batch that
    it is in. Here they are hashed: the numbers of a sample are those of a SplitMix64 generator whose seed is the hash
    of the key and the index. No state has to be kept.

    Args:
        index: int64 (N,), on the host.
        columns: numbers for each sample.
        key: what else they depend on, such as the seed and the epoch.

    Returns:
        float32 (N, columns), uniform in [0, 1).
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is what is wanted
        state = np.zeros(1, np.uint64)
        for part in key:
            state = _mixed(state + _GOLDEN + np.uint64(part % 2**64))
        state = _mixed(state + _GOLDEN + index.numpy().astype(np.uint64))
        counter = np.arange(1, columns + 1, dtype=np.uint64) * _GOLDEN
        bits = _mixed(state[:, None] + counter)
    return np.asarray((bits >> np.uint64(64 - _BITS)).astype(np.float32) / np.float32(2**_BITS))


def seed_of(*parts: int) -> int:
    """Return a seed of 63 bits that depends on all parts alike; sums of seeds would repeat from epoch to epoch."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's hash of each number."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return np.asarray(x ^ (x >> np.uint64(31)))
