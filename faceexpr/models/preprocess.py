"""From pixels as they come to what a network sees; a part of the network, saved and exported with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting

from faceexpr.utils.crop import Crop
from faceexpr.utils.images import resize

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601, as Pillow uses them)."""

FLAT = 1 / 255
"""Added to an image's standard deviation: in one that is all but flat, a grey level stays less than the whole."""


class Preprocess(nn.Module):
    """Grey or RGB images of any size to normalised images of the network's channels and size.

    Where ``crop`` says how the faces were made that the network was trained on, all others are made so first.

    Args:
        channels: 1 (grey) or 3 (grey images are repeated).
        size: side of the square output in pixels; images of another size are resized with anti-aliasing.
        mean: mean per channel, on the scale 0 to 1.
        std: standard deviation per channel. 0.5 and 0.5 map to (-1, 1), the paper's section 3.2.
        standardise: give each image the mean 0.5 and the standard deviation 0.25 before that, whatever its light and
            its contrast were.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(
        self,
        channels: int = 1,
        size: int = 48,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.size = size
        self.crop: Crop | None = None
        self.standardise = standardise
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).expand(channels).clone().view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).expand(channels).clone().view(1, -1, 1, 1))
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Convert images.

        Args:
            image: uint8 in 0 to 255 or floating point in 0 to 1, shape (N, 1 or 3, H, W).

        Returns:
            Shape (N, channels, size, size), in the precision of the network: float32 unless it was converted.
        """
        if self.crop is not None:
            image = as_trained(image, self.crop, self.size)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if image.shape[1] == 3 and self.channels == 1:
            image = (image * self.luma).sum(dim=1, keepdim=True)
        elif image.shape[1] == 1 and self.channels == 3:
            image = image.expand(-1, 3, -1, -1)
        image = resize(image, self.size)
        if self.standardise:
            centred = image - image.mean((1, 2, 3), keepdim=True)
            deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
            image = 0.5 + 0.25 * centred / (deviation + FLAT)
        return ((image - self.mean) / self.std).to(self.mean.dtype)


def as_trained(image: Tensor, crop: Crop, size: int) -> Tensor:
    """Make images as those were that a model was trained on, which come back as they are.

    Args:
        image: uint8 or floating point, shape (N, 1 or 3, H, W); uint8 stays uint8, rounded after each step.
        crop: how they were made.
        size: side in pixels where that says none.
    """
    image = as_grey(image) if crop.channels == 1 else image
    return as_sized(as_square(image) if crop.shape == "square" else image, crop.size or size)


def as_grey(image: Tensor) -> Tensor:
    """Return images of one channel, uint8 where they are; grey images come back as they are."""
    if image.shape[1] == 1:
        return image
    if image.is_floating_point():
        return (image * torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    weights = torch.tensor([19595, 38470, 7471], device=image.device).view(1, 3, 1, 1)  # the same, as Pillow rounds it
    return ((image * weights).sum(dim=1, keepdim=True) + 2**15 >> 16).to(torch.uint8)


def as_square(image: Tensor) -> Tensor:
    """Return images whose shorter side is made as long as the other by repeating the border, as `cut_face` does."""
    height, width = image.shape[-2:]
    if not is_exporting() and height == width:
        return image
    side = torch.sym_max(height, width)
    for dim, length in ((-2, height), (-1, width)):
        places = torch.arange(side, device=image.device) - (side - length) // 2
        image = image.index_select(dim, places.clamp(0, length - 1))
    return image


def as_sized(image: Tensor, size: int) -> Tensor:
    """Return images (N, C, size, size), uint8 where they are; those of that size come back as they are."""
    if image.is_floating_point() or (not is_exporting() and image.shape[-2:] == (size, size)):
        return resize(image, size)
    return resize(image.float(), size).round().clamp(0, 255).to(torch.uint8)
