"""What every set of images with boxes shares: records, loaders, and augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.base import SPLITS, FaceDataModule, Stage, require_at_least
from faceexpr.data.box_augment import BoxAugmentation
from faceexpr.data.box_batches import BoxBatches, BoxSplit
from faceexpr.data.image_reading import warn_of_broken
from faceexpr.data.loading import BatchLoader, gather
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import counted


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
            self.splits[stage] = BoxSplit(self.read_pixels, self.check, records, self.leaves_out_broken)
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
        batches = BoxBatches(split, self.seed, self.augment)
        return self.make_loader(stage, batches, len(split), num_workers, training=stage == "train")

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        for name in SPLITS[stage]:
            if (split := self.splits.get(name)) is None:
                continue
            for broken in gather(split.broken):
                split.broken.update(broken)
            reasons = {self.source(name, index): reason for index, reason in sorted(split.broken.items())}
            warn_of_broken(name, len(split), reasons)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, dict):  # the example input of the model summary comes this way too
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        moved = {key: [item.to(device, non_blocking=True) for item in batch[key]] for key in ("image", "boxes")}
        # What only the host reads stays there: fetching it from a GPU would wait for the whole queue.
        return {**batch, **moved}
