"""Batches of pictures with their boxes, prepared by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from faceexpr.data.box_augment import BoxAugmentation, augment_sample
from faceexpr.data.draws import seed_of
from faceexpr.data.loading import PADDING, BatchSampler
from faceexpr.data.pictures import Pictures
from faceexpr.data.resumable import ResumableLoader
from faceexpr.data.workers import PreparedBatches, Workers
from faceexpr.utils.images import ImageError

Batch = dict[str, Any]
"""``image``: list of uint8 (3, H, W); ``boxes``: list of float32 (F, 4), left, top, right, bottom in pixels of its
image; ``ignored``: list of bool (F,); ``index``: int64 (B,), position in the split or `PADDING`; ``share``: float, what
the mean over the batch's pictures counts in the mean over the step of all processes (`BatchSampler.weighted`)."""

_NOTHING = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
"""A picture without a face in the place of one that is not there."""

Asked = tuple[int, list[int], float]
"""An epoch, positions in the split or `PADDING`, and a share: all that whoever prepares a batch has to know."""


class Batches:
    """Prepares batches of a split.

    Args:
        pictures: of the split.
        seed: of the augmentation; None for pictures as they are.
        augment: what training changes.
    """

    def __init__(self, pictures: Pictures, seed: int | None, augment: BoxAugmentation | None) -> None:
        self.pictures = pictures
        self.seed = seed
        self.augment = augment
        self._broken: dict[int, str] = {}

    def prepare(self, asked: Asked) -> tuple[Batch, dict[int, str]]:
        """Return a batch, and the reasons by position of pictures that turned out to be broken: they are `PADDING`."""
        epoch, indices, share = asked
        self._broken.clear()
        samples = [self._sample(index, epoch) for index in indices]
        images, boxes, ignored = (list(column) for column in zip(*samples, strict=True))
        index = torch.tensor([PADDING if place in self._broken else place for place in indices], dtype=torch.int64)
        return {"image": images, "boxes": boxes, "ignored": ignored, "index": index, "share": share}, {**self._broken}

    def _sample(self, index: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        if index == PADDING:
            return _NOTHING
        if self.seed is None:
            try:
                return (self.pictures.tensor(index), *self.pictures.boxes(index))
            except ImageError as error:
                self._broken[index] = error.reason
                return _NOTHING
        if self.augment is None:
            image, boxes = self._without_ignored(index)
        else:
            # torchvision's transforms draw from torch's global generator, which is put back afterwards.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.seed, epoch, index))
                image, boxes = augment_sample(index, self._without_ignored, len(self.pictures), self.augment)
        return image, boxes, torch.zeros(len(boxes), dtype=torch.bool)

    def _without_ignored(self, index: int) -> tuple[Tensor, Tensor]:
        try:
            image, (boxes, ignored) = self.pictures.tensor(index), self.pictures.boxes(index)
        except ImageError as error:  # of a mosaic, one part stays empty
            self._broken[index] = error.reason
            return _NOTHING[0], _NOTHING[1]
        if not ignored.any():
            return image, boxes
        image = image.clone()
        for left, top, right, bottom in boxes[ignored].round().long().tolist():
            image[:, top:bottom, left:right] = 128
        return image, boxes[~ignored]


class PictureLoader(ResumableLoader):
    """Iterate over a split of pictures in whole batches, and keep account of pictures that turn out to be broken.

    Args:
        batches: prepares them.
        sampler: which pictures make up each batch.
        workers: who prepares them.
    """

    # What Lightning looks at, as in a ``DataLoader(batch_size=None)``: the sampler gives whole batches.
    batch_sampler = None

    def __init__(self, batches: Batches, sampler: BatchSampler, workers: Workers) -> None:
        self.sampler: BatchSampler = sampler
        self.workers = workers
        self._pictures = batches.pictures
        self._prepared: PreparedBatches[Asked, tuple[Batch, dict[int, str]]] = PreparedBatches(batches, workers)

    def __len__(self) -> int:
        return len(self.sampler)

    def close(self) -> None:
        """End the workers."""
        self._prepared.close()

    def __iter__(self) -> Iterator[Batch]:
        asked = ((self.sampler.epoch, indices, share) for indices, share in self.sampler.weighted())
        for batch, broken in self.counted(self._prepared.batches(asked)):
            self._pictures.found_broken(broken)
            yield batch
