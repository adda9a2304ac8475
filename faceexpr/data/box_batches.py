"""The images of a detection split and their batches: in memory where there is room, and which of them are broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.augment import seed_of
from faceexpr.data.box_augment import BoxAugmentation, augment_sample
from faceexpr.data.image_reading import find_broken, map_in_threads
from faceexpr.data.loading import PADDING, Batch, BatchRequest
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError

LISTED = 10
"""Broken images that a message names."""

WHOLE = "expected whole images, or reading.missing leave_out"

_NOTHING = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
"""An image without a face in the place of one that is not there."""


class BoxSplit:
    """The images of a split with their boxes.

    Attributes:
        kept: the decoded images where they are in memory.
        broken: reasons by position, for images that turned out to be unreadable when they were needed.

    Args:
        read: returns the pixels of a record, RGB uint8 (H, W, 3).
        check: raises an `ImageError` where it sees that a record's image is broken; it need not decode it.
        records: one for each image.
        leave_out_broken: go on without images that cannot be read.
    """

    def __init__(
        self,
        read: Callable[[AnnotatedImage], NDArray[np.uint8]],
        check: Callable[[AnnotatedImage], None],
        records: list[AnnotatedImage],
        leave_out_broken: bool = False,
    ) -> None:
        self._read = read
        self._check = check
        self._ready = False
        self.records = records
        self.leave_out_broken = leave_out_broken
        self.kept: list[Tensor] | None = None
        self.broken: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Processes that prepare batches get a copy where they are not forked.
        return {**self.__dict__, "_read": _without_run(self._read), "_check": _without_run(self._check)}

    def __len__(self) -> int:
        return len(self.records)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Return an image, RGB uint8 (H, W, 3)."""
        return self._read(self.records[index]) if self.kept is None else self.kept[index].permute(1, 2, 0).numpy()

    def tensor(self, index: int) -> Tensor:
        """Return an image, uint8 (3, H, W)."""
        if self.kept is not None:
            return self.kept[index]
        return torch.from_numpy(self._read(self.records[index])).permute(2, 0, 1).contiguous()

    def boxes(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the boxes of an image, float32 (F, 4), and which are to be ignored, bool (F,)."""
        record = self.records[index]
        return torch.from_numpy(record.boxes), torch.from_numpy(record.ignored)

    def prepare(self, memory_gib: float) -> None:
        """Find the broken images, once, and decode all where they need no more memory than this.

        Others are read when they are needed; of them, only what does not take decoding is found now.

        Raises:
            FaceExprError: images cannot be read; the message lists them.
        """
        if self._ready:
            return
        if sum(3 * record.size[0] * record.size[1] for record in self.records) <= memory_gib * 2**30:
            outcomes = list(map_in_threads(self._read_or_fail, range(len(self))))
            self._leave_out({place: one for place, one in enumerate(outcomes) if isinstance(one, str)})
            self.kept = [image for image in outcomes if isinstance(image, Tensor)]
        else:
            self._leave_out(find_broken(lambda place: self._check(self.records[place]), len(self)))
        self._ready = True

    def _read_or_fail(self, index: int) -> Tensor | str:
        try:
            return self.tensor(index)
        except ImageError as error:
            return error.reason

    def _leave_out(self, reasons: dict[int, str]) -> None:
        if not reasons:
            return
        listed = [f"{self.records[place].path}: {reason}" for place, reason in reasons.items()]
        account = f"{len(listed)} of {len(self)} images cannot be read: {'; '.join(listed[:LISTED])}"
        account += f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
        if not self.leave_out_broken or len(listed) == len(self):
            raise FaceExprError(f"{account}; {WHOLE}")
        rank_zero_warn(f"{account}; they are left out")
        self.records = [record for place, record in enumerate(self.records) if place not in reasons]


def _without_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of a data module as one of a copy that belongs to no run, which could not be sent along."""
    module = getattr(function, "__self__", None)
    if not isinstance(module, LightningDataModule):
        return function
    alone = copy.copy(module)
    alone.trainer = None
    return MethodType(function.__func__, alone)  # type: ignore[attr-defined]  # as methods have it


class BoxBatches:
    """Batches of a split, as a `BatchLoader` asks for them.

    A batch has ``image``: list of uint8 (3, H, W); ``boxes``: list of float32 (F, 4), left, top, right, bottom in
    pixels of its image; ``ignored``: list of bool (F,); ``index``: int64 (B,), position in the split or `PADDING`,
    which an image that turned out to be broken becomes; ``share``: float, see `BatchRequest`.

    Args:
        split: the images.
        seed: of the augmentation.
        augment: what training changes; None takes the images as they are.
    """

    def __init__(self, split: BoxSplit, seed: int, augment: BoxAugmentation | None) -> None:
        self.split = split
        self.seed = seed
        self.augment = augment

    def read(self, request: BatchRequest) -> tuple[Batch, dict[int, str]]:
        """Return a batch, and the reasons by position of images that turned out to be broken."""
        broken: dict[int, str] = {}
        samples = [self._sample(index, request, broken) for index in request.indices]
        images, boxes, ignored = (list(column) for column in zip(*samples, strict=True))
        index = torch.tensor([PADDING if place in broken else place for place in request.indices], dtype=torch.int64)
        batch = {"image": images, "boxes": boxes, "ignored": ignored, "index": index, "share": request.share}
        return batch, broken

    def finish(self, found: tuple[Batch, dict[int, str]]) -> Batch:
        """Return the batch, and keep account of broken images.

        Raises:
            FaceExprError: there is one, and it is not to be left out.
        """
        batch, broken = found
        for place, reason in broken.items():
            if not self.split.leave_out_broken:
                raise FaceExprError(f"{self.split.records[place].path} cannot be read: {reason}; {WHOLE}")
            self.split.broken[place] = reason
        return batch

    def _sample(self, index: int, request: BatchRequest, broken: dict[int, str]) -> tuple[Tensor, Tensor, Tensor]:
        if index == PADDING:
            return _NOTHING
        if not request.training:
            return self._whole(index, broken)
        read = partial(self._without_ignored, broken=broken)
        if self.augment is None:
            image, boxes = read(index)
        else:
            # torchvision's transforms draw from torch's global generator, which is put back afterwards.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.seed, request.epoch, index))
                image, boxes = augment_sample(index, read, len(self.split), self.augment)
        return image, boxes, torch.zeros(len(boxes), dtype=torch.bool)

    def _whole(self, index: int, broken: dict[int, str]) -> tuple[Tensor, Tensor, Tensor]:
        try:
            return (self.split.tensor(index), *self.split.boxes(index))
        except ImageError as error:
            broken[index] = error.reason
            return _NOTHING

    def _without_ignored(self, index: int, broken: dict[int, str]) -> tuple[Tensor, Tensor]:
        image, boxes, ignored = self._whole(index, broken)  # of a mosaic, a broken part stays empty
        if not ignored.any():
            return image, boxes
        image = image.clone()
        for left, top, right, bottom in boxes[ignored].round().long().tolist():
            image[:, top:bottom, left:right] = 128
        return image, boxes[~ignored]
