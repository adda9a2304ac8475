"""What every detection network is to the rest of the product."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.models.base import Net
from faceexpr.utils.errors import FaceExprError


class DetectionNet(Net):
    """Images in, faces out.

    A network owns all that lies between pixels and boxes: scaling, resizing and normalisation before, decoding and
    suppression after. It knows one kind of thing, the face; a background class, where it has one, is its own affair.
    Nothing else is needed for YAML and the command line to find it by name.

    Attributes:
        loss_names: the parts of the training loss; those that are not named here are averaged over the part of an
            epoch that has run since training was last resumed, the others over the whole epoch.

    Args:
        suppression: how candidates become detections; may be changed after training.
    """

    loss_names: tuple[str, ...] = ()

    def __init__(self, suppression: Suppression | None = None) -> None:
        super().__init__()
        self.suppression = suppression or Suppression()

    def losses(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the parts of the training loss, each a scalar; their sum is minimised.

        Args:
            images: each uint8 or floating point in 0 to 1, (3, H, W).
            boxes: the faces of each image, float32 (F, 4), left, top, right, bottom in its pixels; F may be 0.
        """
        raise NotImplementedError

    def candidates(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return what the network takes for faces, several boxes for one face included.

        Args:
            images: as for `losses`, of any sizes.

        Returns:
            For each image boxes, float32 (N, 4) in its pixels and inside it, and scores, float32 (N,).
        """
        raise NotImplementedError

    def dense_candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `candidates` of images of one size, uint8 (N, 3, H, W), by steps that depend on no value.

        That is what an exported program can hold: boxes (N, K, 4), and scores (N, K), -1 where there is no box.
        """
        raise FaceExprError(f"{type(self).__name__} cannot be a program; expected a network that has dense_candidates")

    def forward(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find the faces.

        Args:
            images: as for `losses`, of any sizes.

        Returns:
            For each image its faces, in its pixels.
        """
        return [suppress(boxes, scores, self.suppression) for boxes, scores in self.candidates(images)]

    def set_suppression(self, **changes: float | int | str) -> None:
        """Change options of the suppression, such as ``max_faces=1000``."""
        self.suppression = replace(self.suppression, **changes)  # type: ignore[arg-type]


def as_unit(image: Tensor) -> Tensor:
    """Return an image as floating point in 0 to 1.

    Args:
        image: uint8 in 0 to 255, or floating point in 0 to 1; (..., 3, H, W).

    Raises:
        FaceExprError: floating-point values above 1 or below 0, as of an image that was scaled to 0 to 255 or
            normalised before.
    """
    if image.dtype == torch.uint8:
        return image.float() / 255
    if image.numel() and (image.amin() < -1e-3 or image.amax() > 1 + 1e-3):
        raise FaceExprError(
            f"an image holds values from {image.amin().item():g} to {image.amax().item():g}; expected uint8, or "
            "floating point from 0 to 1: the detector normalises by itself"
        )
    return image.float()


def group_equal(sizes: Sequence[Hashable]) -> list[list[int]]:
    """Return for each different size, or size and type, the places of the images that have it.

    Images of one size can go through a network together. Padding to a common size would change what their borders see,
    and what is found in an image must not depend on the rest of the batch.
    """
    return [[place for place, own in enumerate(sizes) if own == size] for size in dict.fromkeys(sizes)]
