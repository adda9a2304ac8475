"""What every detector is to the pipeline, and the networks of this package as detectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections
from faceexpr.models.detector import DetectionNet
from faceexpr.utils.errors import FaceExprError


class Detector(Protocol):
    """Finds the faces in pictures."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find faces.

        Args:
            images: upright pictures of any sizes, RGB, each uint8 (H, W, 3).

        Returns:
            For each picture its faces on the host, in pixels of that picture.
        """


class NetDetector:
    """A detection network as a detector.

    Only pictures of one size share a batch. A network would fill the others up to the largest, and what it finds in a
    picture would then depend, at the edges, on the pictures that happen to stand beside it.

    Args:
        net: the network; it is moved to the device and set to evaluation.
        device: such as ``cpu`` or ``cuda``.
        batch_size: pictures in a batch.
    """

    def __init__(self, net: DetectionNet, device: str | torch.device = "cpu", batch_size: int = 8) -> None:
        if batch_size < 1:
            raise FaceExprError(f"batch_size is {batch_size}; expected 1 or more")
        self.device = torch.device(device)
        self.net = net.to(self.device).eval()
        self.batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find faces; see `Detector`."""
        found: dict[int, Detections] = {}
        in_groups = sorted(range(len(images)), key=lambda index: images[index].shape)
        for _, group in groupby(in_groups, key=lambda index: images[index].shape):
            indices = list(group)
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                tensors = [_as_tensor(images[index]).to(self.device) for index in batch]
                found.update(zip(batch, (result.cpu() for result in self.net(tensors)), strict=True))
        return [found[index] for index in range(len(images))]


def _as_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    # A picture from Pillow may be read-only, which torch warns about.
    return torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
