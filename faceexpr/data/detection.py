"""What every set of pictures with boxes shares: records, loaders, and augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceexpr.data.box_augment import BoxAugmentation, augment_sample
from faceexpr.data.formats.record import FaceImage
from faceexpr.data.module import SPLITS, FaceDataModule, Stage
from faceexpr.data.split import PADDING, BatchSampler
from faceexpr.errors import FaceExprError
from faceexpr.images import ImageError

Batch = dict[str, Any]
"""``image``: list of uint8 (3, H, W); ``boxes``: list of float32 (F, 4), left, top, right, bottom in pixels of its
image; ``ignored``: list of bool (F,); ``index``: int64 (B,), position in the split or `PADDING`."""

READERS = 4
LISTED = 10
"""Broken pictures that a message names."""


class DetectionDataModule(FaceDataModule):
    """Pictures with a box around each face.

    A subclass implements `load_records`, and `read_pixels` where its pictures are not files. Training pictures are
    augmented with draws that depend on the seed, the epoch and the picture only, so that a resumed run, and any
    number of processes and workers, sees the same ones. Faces to be ignored are painted over in training, so that
    nothing learns that they are no faces.

    Args:
        batch_size: pictures in a batch of one process.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
        augment: random crops and changes of the training pictures; without it they are taken whole.
        drop_last: leave an incomplete last batch out of each training epoch.
        memory_gib: the decoded pictures of a split are kept in memory where they need no more than this.
    """

    suits = "detections"
    leaves_out_broken = False

    def __init__(
        self,
        batch_size: int = 16,
        num_workers: int = 0,
        augment: BoxAugmentation | None = None,
        drop_last: bool = False,
        memory_gib: float = 4.0,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise FaceExprError(f"data.{name} is {value}; expected {least} or more")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = augment
        self.drop_last = drop_last
        self.memory_gib = memory_gib
        self.splits: dict[Stage, Pictures] = {}

    def load_records(self, stage: Stage) -> list[FaceImage]:
        """Read the annotations of one split.

        Args:
            stage: ``train``, ``val``, ``test``, or ``predict`` (the faces are not needed).

        Raises:
            FaceExprError: the split does not exist, or a file is not what it should be.
        """
        raise NotImplementedError

    def read_pixels(self, record: FaceImage) -> NDArray[np.uint8]:
        """Return the picture of a record, upright, RGB uint8 (H, W, 3)."""
        raise NotImplementedError

    def split(self, stage: Stage) -> Pictures:
        """Return a split, read once."""
        if stage not in self.splits:
            records = self.load_records(stage)
            if not records:
                raise FaceExprError(f"{type(self).__name__}: the {stage} split holds no picture")
            self.splits[stage] = Pictures(self, records)
        return self.splits[stage]

    def picture(self, stage: Stage, index: int) -> NDArray[np.uint8]:
        """Return a picture of a split as it is, RGB uint8 (H, W, 3)."""
        return self.split(stage).read(index)

    def source(self, stage: Stage, index: int) -> str:
        """Return what to call a picture of a split: its path."""
        return str(self.split(stage).records[index].path)

    def setup(self, stage: str) -> None:
        for name in SPLITS[stage]:
            records = self.split(name).records
            faces, empty = (
                sum(len(record.boxes) for record in records),
                sum(not len(record.boxes) for record in records),
            )
            rank_zero_info(
                f"{type(self).__name__}: {len(records):,} pictures in the {name} split with {faces:,} faces"
                + (f", {empty:,} of them without a face" if empty else "")
            )
        if stage == "fit" and not self.has_faces("train"):
            raise FaceExprError(
                f"{type(self).__name__}: no picture of the train split has a face; there is nothing to learn"
            )

    def has_faces(self, stage: Stage) -> bool:
        """Tell whether a split has a face that is not to be ignored, without which no average precision is defined."""
        return any(not record.ignored.all() for record in self.split(stage).records)

    def _loader(self, stage: Stage) -> DataLoader[Batch]:
        trainer = self.trainer
        world_size, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        training = stage == "train"
        pictures = self.split(stage)
        pictures.keep(self.memory_gib, self.leaves_out_broken)
        sampler = EpochSampler(
            size=len(pictures),
            batch_size=self.batch_size,
            training=training,
            shuffle=trainer is None or not trainer.overfit_batches,  # type: ignore[attr-defined]  # set at run time
            drop_last=self.drop_last,
            seed=self.seed,
            num_replicas=world_size,
            rank=rank,
        )
        # Whole batches are asked for, so nothing is left to collate.
        return DataLoader(
            Batches(pictures, self.seed if training else None, self.augment),
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self._loader("predict")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, dict):  # the example input of the model summary comes this way too
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        moved = {key: [item.to(device, non_blocking=True) for item in batch[key]] for key in ("image", "boxes")}
        # What only the host reads stays there: fetching it from a GPU would wait for the whole queue.
        return {**batch, **moved}


class Pictures:
    """The pictures of a split.

    Args:
        module: reads their pixels.
        records: one for each.
    """

    def __init__(self, module: DetectionDataModule, records: list[FaceImage]) -> None:
        self._read = module.read_pixels
        self.records = records
        self.kept: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a picture, RGB uint8 (H, W, 3)."""
        return self._read(self.records[index]) if self.kept is None else self.kept[index].permute(1, 2, 0).numpy()

    def tensor(self, index: int) -> Tensor:
        """Return a picture, uint8 (3, H, W)."""
        if self.kept is not None:
            return self.kept[index]
        return torch.from_numpy(self._read(self.records[index])).permute(2, 0, 1).contiguous()

    def keep(self, memory_gib: float, leave_out_broken: bool = False) -> None:
        """Decode all pictures now where they need no more memory than this, and find the broken ones.

        Args:
            memory_gib: more than this is not kept, and pictures are read when they are needed.
            leave_out_broken: go on without pictures that cannot be read.

        Raises:
            FaceExprError: pictures cannot be read; the message lists them.
        """
        needed = sum(3 * record.size[0] * record.size[1] for record in self.records)
        if self.kept is not None or needed > memory_gib * 2**30:
            return
        with ThreadPoolExecutor(READERS) as readers:
            outcomes = list(readers.map(self._outcome, range(len(self))))
        broken = [str(outcome) for outcome in outcomes if isinstance(outcome, ImageError)]
        if broken:
            account = f"{len(broken)} of {len(self)} pictures cannot be read: {'; '.join(broken[:LISTED])}"
            account += f" and {len(broken) - LISTED} more" if len(broken) > LISTED else ""
            if not leave_out_broken or len(broken) == len(self):
                raise FaceExprError(f"{account}; expected whole pictures, or --data.reading.missing leave_out")
            rank_zero_warn(f"{account}; they are left out")
        pairs = [
            (record, outcome)
            for record, outcome in zip(self.records, outcomes, strict=True)
            if not isinstance(outcome, ImageError)
        ]
        self.records, self.kept = [record for record, _ in pairs], [picture for _, picture in pairs]

    def _outcome(self, index: int) -> Tensor | ImageError:
        try:
            return self.tensor(index)
        except ImageError as error:
            return error

    def boxes(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the boxes of a picture, float32 (F, 4), and which are to be ignored, bool (F,)."""
        record = self.records[index]
        return torch.from_numpy(record.boxes), torch.from_numpy(record.ignored)


class EpochSampler(BatchSampler):
    """Batches as (epoch, indices): with the epoch, whoever prepares a batch can draw for it."""

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:  # type: ignore[override]
        for indices in super().__iter__():
            yield self.epoch, indices


class Batches(Dataset[Batch]):
    """The batches that a sampler asks for.

    Args:
        pictures: of the split.
        seed: of the augmentation; None for pictures as they are.
        augment: what training changes.
    """

    def __init__(self, pictures: Pictures, seed: int | None, augment: BoxAugmentation | None) -> None:
        self.pictures = pictures
        self.seed = seed
        self.augment = augment

    def __getitem__(self, asked: tuple[int, list[int]]) -> Batch:
        epoch, indices = asked
        samples = [self._sample(index, epoch) for index in indices]
        images, boxes, ignored = (list(column) for column in zip(*samples, strict=True))
        return {"image": images, "boxes": boxes, "ignored": ignored, "index": torch.tensor(indices, dtype=torch.int64)}

    def _sample(self, index: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        if index == PADDING:
            return torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
        if self.seed is None:
            return (self.pictures.tensor(index), *self.pictures.boxes(index))
        if self.augment is None:
            image, boxes = self._without_ignored(index)
        else:
            # torchvision's transforms draw from torch's global generator, which is put back afterwards.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_number(self.seed, epoch, index))
                image, boxes = augment_sample(index, self._without_ignored, len(self.pictures), self.augment)
        return image, boxes, torch.zeros(len(boxes), dtype=torch.bool)

    def _without_ignored(self, index: int) -> tuple[Tensor, Tensor]:
        image, (boxes, ignored) = self.pictures.tensor(index), self.pictures.boxes(index)
        if not ignored.any():
            return image, boxes
        image = image.clone()
        for left, top, right, bottom in boxes[ignored].round().long().tolist():
            image[:, top:bottom, left:right] = 128
        return image, boxes[~ignored]


def _number(*parts: int) -> int:
    """Return a number of 63 bits that depends on all parts alike; sums of seeds would repeat from epoch to epoch."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
