"""What every expression data set shares: splits, loaders, and augmentation on the training device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.augment import Augmentation, augment_batch
from faceexpr.data.loading import BatchLoader, BatchSampler, FaceSplit
from faceexpr.data.module import SPLITS, FaceDataModule, Stage, require_at_least
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES
from faceexpr.utils.text import counted


class ExpressionDataModule(FaceDataModule):
    """Face images with one expression each.

    A subclass says what its classes are (`class_names`, known without reading anything) and implements `load_split`.
    Images stay uint8 until they have reached the training device; there `Augmentation` is applied to each sample of a
    training batch with draws that depend on the seed, the epoch and the sample only. Each process has other samples,
    so its draws differ from those of the others, and a run with several processes trains on the very pixels of a run
    with one.

    Args:
        batch_size: images in a batch of one process.
        augment: random changes to the training images; all are off by default.
        drop_last: leave an incomplete last batch out of each training epoch.
        class_names: names of the classes in index order.
        global_batch_size: images in a training step of all processes together; each takes its part. By default
            batch_size times the number of processes.
    """

    suits = "probabilities"

    def __init__(
        self,
        batch_size: int = 128,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        class_names: Sequence[str] = FER_NAMES,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, "batch_size", batch_size)
        require_at_least(1, "global_batch_size", global_batch_size)
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.augment = augment or Augmentation()
        self.drop_last = drop_last
        self.class_names = tuple(class_names)
        self.splits: dict[Stage, FaceSplit] = {}

    def load_split(self, stage: Stage) -> FaceSplit:
        """Read one split.

        Args:
            stage: ``train``, ``val``, ``test``, or ``predict`` (images whose labels are not needed).

        Raises:
            FaceExprError: the split does not exist, or a file is not what it should be.
        """
        raise NotImplementedError

    def split(self, stage: Stage) -> FaceSplit:
        """Return a split, read once."""
        if stage not in self.splits:
            split = self.load_split(stage)
            if len(split) == 0 and not split.failures:
                raise FaceExprError(f"{type(self).__name__}: the {stage} split holds no image")
            self._check_classes(stage, split)
            self.splits[stage] = split
        return self.splits[stage]

    def leaked(self, stage: Stage) -> npt.NDArray[np.bool_] | None:
        """Tell which images of a split are pixel-equal to one for training, bool (N,); None where it is not known."""
        return None

    def _check_classes(self, stage: Stage, split: FaceSplit) -> None:
        if split.targets is None:
            if stage != "predict":
                raise FaceExprError(
                    f"{type(self).__name__}: the {stage} split has no labels, so nothing can be measured on it; "
                    "expected a label for each image (unlabelled images are for `faceexpr predict`)"
                )
            return
        targets = split.targets
        if targets.ndim == 2 and stage != "train":
            targets = targets.argmax(1)  # as they are measured
        counts = targets.sum(0) if targets.ndim == 2 else torch.bincount(targets, minlength=1)
        present = {index for index, count in enumerate(counts.tolist()) if count > 0}
        absent = [name for index, name in enumerate(self.class_names) if index not in present]
        if absent and stage != "predict":
            rank_zero_warn(f"the {stage} split has no sample of {', '.join(absent)}")

    def setup(self, stage: str) -> None:
        for name in SPLITS[stage]:
            split = self.split(name)
            rank_zero_info(f"{type(self).__name__}: {counted(len(split), 'image')} in the {name} split")
        if stage == "fit" and len(self.split("train")) < 2:
            raise FaceExprError(
                f"{type(self).__name__}: the train split holds 1 image; training needs at least 2 images"
            )

    @property
    def _remembering(self) -> bool:
        """Whether the model remembers its training data: each sample once, as it is, and none left out."""
        return bool(getattr(getattr(self.trainer, "lightning_module", None), "remembers", False))

    def _loader(self, stage: Stage) -> BatchLoader:
        trainer = self.trainer
        world_size, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        split = self.split(stage)
        sampler = BatchSampler(
            size=len(split),
            batch_size=self.batch_size,
            training=stage == "train" and not self._remembering,
            shuffle=trainer is None or not trainer.overfit_batches,  # type: ignore[attr-defined]  # set at run time
            drop_last=self.drop_last,
            seed=self.seed,
            num_replicas=world_size,
            rank=rank,
            global_batch_size=self.step_size if stage == "train" else None,
        )
        return BatchLoader(split, sampler)

    @property
    def network_size(self) -> int:
        """Side in pixels of the images that the network of this run takes; 48 outside of a run."""
        model = getattr(self.trainer, "lightning_module", None)
        preprocess = getattr(getattr(model, "net", None), "preprocess", None)
        return int(getattr(preprocess, "size", 48))

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        return self._loader("predict")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, dict):  # the example input of the model summary comes this way too
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        # The index stays on the host, where it is read: fetching it from a GPU would wait for the whole queue. So does
        # the share, a number that a GPU takes as an argument.
        return {
            key: value if key in ("index", "share") else value.to(device, non_blocking=True)
            for key, value in batch.items()
        }

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer is None or not self.trainer.training or not isinstance(batch, dict) or self._remembering:
            return batch
        return self.augmented(batch, epoch=self.trainer.current_epoch)

    def augmented(self, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the batch as training sees it.

        The random numbers of a sample depend on (seed, epoch, sample) and on nothing else: not on the process or the
        batch that it is in, and a resumed run draws the same ones without any state to store.
        """
        image, target = augment_batch(
            batch["image"], batch["target"], batch["index"], self.augment, (self.seed, epoch), len(self.class_names)
        )
        return {**batch, "image": image, "target": target}
