"""From pixels as they come to what a network sees; a part of the network, saved and exported with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from faceexpr.utils.images import resize

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601, as Pillow uses them)."""


class Preprocess(nn.Module):
    """Grey or RGB images of any size to normalised images of the network's channels and size.

    Args:
        channels: 1 (grey) or 3 (grey images are repeated).
        size: side of the square output in pixels; images of another size are resized with anti-aliasing.
        mean: mean per channel, on the scale 0 to 1.
        std: standard deviation per channel. 0.5 and 0.5 map to (-1, 1), the paper's section 3.2.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(
        self, channels: int = 1, size: int = 48, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)
    ) -> None:
        super().__init__()
        self.channels = channels
        self.size = size
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
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        if image.shape[1] == 3 and self.channels == 1:
            image = (image * self.luma).sum(dim=1, keepdim=True)
        elif image.shape[1] == 1 and self.channels == 3:
            image = image.expand(-1, 3, -1, -1)
        image = resize(image, self.size)
        return ((image - self.mean) / self.std).to(self.mean.dtype)
