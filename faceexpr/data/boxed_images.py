"""What every set of images with boxes shares: records, splits and their batches, and augmentation."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.augment import seed_of
from faceexpr.data.base import SPLITS, FaceDataModule, Stage, require_at_least
from faceexpr.data.box_augment import BoxAugmentation, augment_sample
from faceexpr.data.image_reading import find_broken, map_in_threads, warn_of_broken
from faceexpr.data.loading import PADDING, Batch, BatchLoader, BatchRequest, gather
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError
from faceexpr.utils.text import counted, some

LISTED = 10
"""Broken images that a message names."""

WHOLE = "expected whole images, or reading.missing leave_out"

_NOTHING = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
"""An image without a face in the place of one that is not there."""


class DetectionDataModule(FaceDataModule):
    """Images with a box around each face.

    A subclass implements `load_records`, and `read_pixels` where its images are not files. Training images are
    augmented with draws that depend on the seed, the epoch and the image only, so that a resumed run, and any
    number of processes and workers, sees the same ones. Faces to be ignored are painted over in training, so that
    nothing learns that they are no faces.

    Args:
        batch_size: images in a batch of one process.
        num_workers: processes that prepare batches, for each process that trains; 0 prepares them in that process. By
            default none where the images are in memory, and the CPU cores that training leaves, 16 at most, where
            they are not.
        augment: random crops and changes of the training images; without it they are taken whole.
        memory_gib: the decoded images of a split are kept in memory where they need no more than this. More are
            decoded anew each time they are needed, and only their headers are looked at before training.
    """

    suits = "detections"
    leaves_out_broken = False

    def __init__(
        self,
        batch_size: int = 16,
        num_workers: int | None = None,
        augment: BoxAugmentation | None = None,
        memory_gib: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        require_at_least(0, "num_workers", num_workers)
        require_at_least(0, "memory_gib", memory_gib)
        self.num_workers = num_workers
        self.augment = augment
        self.memory_gib = memory_gib
        self.splits: dict[Stage, BoxSplit] = {}

    def load_records(self, stage: Stage) -> list[AnnotatedImage]:
        """Read the annotations of one split.

        Args:
            stage: ``train``, ``val``, ``test``, or ``predict`` (the faces are not needed).

        Raises:
            FaceExprError: the split does not exist, or a file is not what it should be.
        """
        raise NotImplementedError

    def read_pixels(self, record: AnnotatedImage) -> NDArray[np.uint8]:
        """Return the image of a record, upright, RGB uint8 (H, W, 3)."""
        raise NotImplementedError

    def check(self, record: AnnotatedImage) -> None:
        """Look at the image of a record without decoding it; one that is no file is always whole.

        Raises:
            ImageError: it is seen to be broken.
        """

    def split(self, stage: Stage) -> BoxSplit:
        """Return a split, read once."""
        if stage not in self.splits:
            records = self.load_records(stage)
            if not records:
                raise FaceExprError(f"{type(self).__name__}: the {stage} split holds no image")
            self.splits[stage] = BoxSplit(self, records)
        return self.splits[stage]

    def source(self, stage: Stage, index: int) -> str:
        """Return what to call an image of a split: its path."""
        return str(self.split(stage).records[index].path)

    def setup(self, stage: str) -> None:
        for name in SPLITS[stage]:
            records = self.split(name).records
            faces, empty = sum(len(record.boxes) for record in records), sum(not len(one.boxes) for one in records)
            rank_zero_info(
                f"{type(self).__name__}: {counted(len(records), 'image')} in the {name} split with "
                f"{counted(faces, 'face')}" + (f", {empty:,} of them without a face" if empty else "")
            )
        if stage == "fit" and not self.has_faces("train"):
            raise FaceExprError(
                f"{type(self).__name__}: no image of the train split has a face; there is nothing to learn"
            )

    def has_faces(self, stage: Stage) -> bool:
        """Tell whether a split has a face that is not to be ignored, without which no average precision is defined."""
        return any(not record.ignored.all() for record in self.split(stage).records)

    def split_loader(self, stage: Stage) -> BatchLoader:
        split = self.split(stage)
        split.prepare(self.memory_gib)
        num_workers = 0 if self.num_workers is None and split.kept is not None else self.num_workers
        return self.make_loader(stage, split, len(split), num_workers, training=stage == "train")

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        for name in SPLITS[stage]:
            if (split := self.splits.get(name)) is None:
                continue
            for broken in gather(split.broken):
                split.broken.update(broken)
            warn_of_broken(name, [str(record.path) for record in split.records], split.broken)


class BoxSplit:
    """The images of a split with their boxes, and the batches of them that a `BatchLoader` asks for.

    Attributes:
        kept: the decoded images where they are in memory.
        broken: reasons by position, for images that turned out to be unreadable when they were needed.

    Args:
        module: the data set, which reads the images.
        records: one for each image.
    """

    def __init__(self, module: DetectionDataModule, records: list[AnnotatedImage]) -> None:
        self.records = records
        self.kept: list[Tensor] | None = None
        self.broken: dict[int, str] = {}
        self._module = module
        self._ready = False

    def __getstate__(self) -> dict[str, Any]:
        # Processes that prepare batches get a copy where they are not forked, and a run cannot be sent along.
        alone = copy.copy(self._module)
        alone.trainer = None
        return {**self.__dict__, "_module": alone}

    def __len__(self) -> int:
        return len(self.records)

    def tensor(self, index: int) -> Tensor:
        """Return an image, uint8 (3, H, W)."""
        if self.kept is not None:
            return self.kept[index]
        return torch.from_numpy(self._module.read_pixels(self.records[index])).permute(2, 0, 1).contiguous()

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Return an image, RGB uint8 (H, W, 3)."""
        return self.tensor(index).permute(1, 2, 0).numpy()

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
            self._leave_out(find_broken(lambda place: self._module.check(self.records[place]), len(self)))
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
        account = f"{len(listed)} of {len(self)} images cannot be read: {some(listed, LISTED)}"
        if not self._module.leaves_out_broken or len(listed) == len(self):
            raise FaceExprError(f"{account}; {WHOLE}")
        rank_zero_warn(f"{account}; they are left out")
        self.records = [record for place, record in enumerate(self.records) if place not in reasons]

    def read(self, request: BatchRequest) -> tuple[Batch, dict[int, str]]:
        """Return a batch, and the reasons by position of images that turned out to be broken.

        The batch has ``image``: list of uint8 (3, H, W); ``boxes``: list of float32 (F, 4), left, top, right, bottom in
        pixels of its image; ``ignored``: list of bool (F,); ``index``: int64 (B,), position in the split or `PADDING`,
        which an image that turned out to be broken becomes; ``share``: float, see `BatchRequest`.
        """
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
            if not self._module.leaves_out_broken:
                raise FaceExprError(f"{self.records[place].path} cannot be read: {reason}; {WHOLE}")
            self.broken[place] = reason
        return batch

    def _sample(self, index: int, request: BatchRequest, broken: dict[int, str]) -> tuple[Tensor, Tensor, Tensor]:
        if index == PADDING:
            return _NOTHING
        if not request.training:
            return self._whole(index, broken)
        read = partial(self._without_ignored, broken=broken)
        augment = self._module.augment
        if augment is None:
            image, boxes = read(index)
        else:
            # torchvision's transforms draw from torch's global generator, which is put back afterwards.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self._module.seed, request.epoch, index))
                image, boxes = augment_sample(index, read, len(self), augment)
        return image, boxes, torch.zeros(len(boxes), dtype=torch.bool)

    def _whole(self, index: int, broken: dict[int, str]) -> tuple[Tensor, Tensor, Tensor]:
        record = self.records[index]
        try:
            return self.tensor(index), torch.from_numpy(record.boxes), torch.from_numpy(record.ignored)
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
