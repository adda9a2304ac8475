"""What every data set shares: what a checkpoint keeps of it, the seed, the loaders, and augmentation on the device."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.augment import Augmentation, augment_batch
from faceexpr.data.corrections import Corrections
from faceexpr.data.degradations import Degradations, degrade_batch
from faceexpr.data.image_reading import Box, FaceReader, FileNames, read_faces, stream_faces
from faceexpr.data.loading import BatchLoader, BatchSampler, BatchSource, EveryInput, FaceSplit
from faceexpr.utils.crop import FACE_SIZE, Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DEFAULT_MAX_PIXELS
from faceexpr.utils.labels import FER_NAMES
from faceexpr.utils.specs import Described, class_path, describe
from faceexpr.utils.text import counted

Stage = Literal["train", "val", "test", "predict"]

SPLITS: dict[str, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
"""The splits that each of Lightning's verbs needs."""

ON_HOST = ("index", "share", "ignored", "source", "note")
"""What of a batch only the host reads."""

MOST_WORKERS = 16
"""Workers of one process where the user does not say how many."""


class FaceDataModule(Described, LightningDataModule):
    """A data set whose checkpoint keeps how to read it, and whose random numbers come from one seed.

    Attributes:
        suits: the kind of model that it is for, by what the model ``gives``: ``probabilities`` or ``detections``.
        trained_on: path of the data that the model at hand was trained on, where its checkpoint says so.

    Args:
        batch_size: images in a batch of one process.
        drop_last: leave an incomplete last batch out of each training epoch.
        global_batch_size: images in a training step of all processes together; each takes its part. By default
            batch_size times the number of processes.
    """

    suits: str
    trained_on: str | None = None

    def __init__(self, batch_size: int = 128, drop_last: bool = False, global_batch_size: int | None = None) -> None:
        super().__init__()
        require_at_least(1, "batch_size", batch_size)
        require_at_least(1, "global_batch_size", global_batch_size)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.global_batch_size = global_batch_size
        self._loaders: WeakSet[BatchLoader] = WeakSet()
        hyper_parameters = {name: describe(value, name) for name, value in self.init_args.items()}
        # A checkpoint keeps its data, so that it can be tested without the configuration being named again.
        self.save_hyperparameters({**hyper_parameters, "_class_path": class_path(type(self))}, logger=False)

    def __getstate__(self) -> dict[str, Any]:
        # Processes of a run that are not forked get a copy; the loaders stay here.
        return {name: value for name, value in self.__dict__.items() if name != "_loaders"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _loaders=WeakSet())

    def __str__(self) -> str:
        # Lightning's makes the loaders, for which the data are read.
        return type(self).__name__

    def make_loader(
        self, stage: Stage, source: BatchSource, size: int, num_workers: int | None, training: bool
    ) -> BatchLoader:
        """Return the loader of this process for a split; its workers end with the run.

        Args:
            stage: the split.
            source: reads its batches.
            size: number of its samples.
            num_workers: processes that read; None is the CPU cores that the run leaves, 16 at most. The cores are
                those that the process may use, shared by the processes of the machine.
            training: draw an order for each epoch, and balance its last step.
        """
        trainer = self.trainer
        if num_workers is None:
            num_workers = min(MOST_WORKERS, suggested_max_num_workers(trainer.num_devices if trainer else 1))
        sampler = BatchSampler(
            size=size,
            batch_size=self.batch_size,
            training=training,
            shuffle=trainer is None or not trainer.overfit_batches,  # type: ignore[attr-defined]  # set at run time
            drop_last=self.drop_last,
            seed=self.seed,
            world_size=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            global_batch_size=self.step_size if stage == "train" else None,
        )
        pin_memory = num_workers > 0 and trainer is not None and isinstance(trainer.accelerator, CUDAAccelerator)
        loader = BatchLoader(source, sampler, num_workers, pin_memory)
        self._loaders.add(loader)
        return loader

    def train_dataloader(self) -> BatchLoader:
        return self.split_loader("train")

    def val_dataloader(self) -> BatchLoader:
        return self.split_loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self.split_loader("test")

    def predict_dataloader(self) -> BatchLoader:
        return self.split_loader("predict")

    def split_loader(self, stage: Stage) -> BatchLoader:
        """Return the loader of a split, by `make_loader`."""
        raise NotImplementedError

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, dict):  # the example input of the model summary comes this way too
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        # What only the host reads stays there: fetching it from a GPU would wait for the whole queue.
        moved = {key: value for key, value in batch.items() if key not in ON_HOST}
        return {**batch, **super().transfer_batch_to_device(moved, device, dataloader_idx)}

    def teardown(self, stage: str) -> None:
        for loader in self._loaders:
            loader.close()

    def on_exception(self, exception: BaseException) -> None:
        # Lightning leaves `teardown` out. Workers that are still there would keep the process from ending.
        FaceDataModule.teardown(self, "")

    @cached_property
    def seed(self) -> int:
        """The seed of the order and the augmentation: that of ``seed_everything``, the same in every process."""
        seed = torch.initial_seed() % 2**31
        return self.trainer.strategy.broadcast(seed) if self.trainer else seed

    @property
    def step_size(self) -> int:
        """Samples in a training step of all processes together.

        Raises:
            FaceExprError: fewer than there are processes.
        """
        world_size = self.trainer.world_size if self.trainer else 1
        if self.global_batch_size is None:
            return self.batch_size * world_size
        if self.global_batch_size < world_size:
            raise FaceExprError(
                f"global_batch_size is {self.global_batch_size}, but there are {world_size} processes; expected at "
                "least one sample for each"
            )
        return self.global_batch_size


class ExpressionDataModule(FaceDataModule):
    """Face images with one expression each.

    A subclass sets ``class_names``, where they are not those of FER-2013, before anything is read, and implements
    `load_split`. Images stay uint8 until they have reached the training device; there `Augmentation` is applied with
    draws that depend on the seed, the epoch and the sample only: a run with several processes trains on the very pixels
    of a run with one.

    Attributes:
        class_names: names of the classes in index order.
        num_workers: processes that read images which are not in memory; see `make_loader`.
        drop_leaked: whether images that are equal to a training image are left out of validation and test.

    Args:
        augment: random changes to the training images; all are off by default.
        degrade: what cameras and files do to images, done to the training images at random before that; all is off by
            default.
        exclude: table of ``faceexpr audit`` (audit.csv) in which you have confirmed which images are left out or get
            another label.
    """

    suits = "probabilities"
    class_names: tuple[str, ...] = FER_NAMES
    num_workers: int | None = None
    drop_leaked = False

    def __init__(
        self,
        augment: Augmentation | None = None,
        degrade: Degradations | None = None,
        exclude: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.augment = augment or Augmentation()
        self.degrade = degrade or Degradations()
        self.exclude = exclude
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
            if self.exclude is not None and stage != "predict":
                done = self.corrections.require_found(stage, self.corrections.find(split.sources))
                rank_zero_info(f"{type(self).__name__}: {done} (exclude)")
                split = self.corrections.correct(split)
            if self.drop_leaked and stage in ("val", "test"):
                split = self._without_leaked(stage, split)
            if len(split) == 0 and not split.failures:
                raise FaceExprError(f"{type(self).__name__}: the {stage} split holds no image")
            self._check_classes(stage, split)
            self.splits[stage] = split
        return self.splits[stage]

    @cached_property
    def corrections(self) -> Corrections:
        """What the user has confirmed in the table of an audit."""
        return Corrections(self.exclude, self.class_names) if self.exclude is not None else Corrections()

    @property
    def crop(self) -> Crop:
        """How the faces of the training images are made, which a model that is trained on them keeps."""
        channels, height, width = self.split("train").images.shape[1:]
        return Crop(shape="square" if height == width else "stretched", channels=channels, size=width)

    def find_leaked(self, split: FaceSplit) -> npt.NDArray[np.bool_] | None:
        """Tell which images of another split are equal to one for training, bool (N,); None where nobody can look.

        Raises:
            FaceExprError: there are no images for training.
        """
        return None

    def leaked(self, stage: Stage) -> npt.NDArray[np.bool_] | None:
        """Tell which images of a split are equal to one for training, bool (N,); None where it is not known."""
        split = self.split(stage)
        try:
            return None if stage == "train" else self.find_leaked(split)
        except FaceExprError:
            return None

    def _without_leaked(self, stage: Stage, split: FaceSplit) -> FaceSplit:
        try:
            leaked = self.find_leaked(split)
        except FaceExprError as error:
            raise FaceExprError(
                f"drop_leaked is true, which takes training images to compare the {stage} split with: {error}"
            ) from error
        assert leaked is not None
        number = int(leaked.sum())
        found = f"{number:,} of {counted(len(split), 'image')} of the {stage} split"
        rank_zero_info(f"{type(self).__name__}: {found} left out as equal to a training image (drop_leaked)")
        if split.selection:
            left_out = {**split.selection.left_out, "equal to a training image": number}
            split = replace(split, selection=replace(split.selection, left_out=left_out))
        return split.pick(~leaked)

    def _check_classes(self, stage: Stage, split: FaceSplit) -> None:
        if split.targets is None:
            if stage != "predict":
                raise FaceExprError(
                    f"{type(self).__name__}: the {stage} split has no labels, so nothing can be measured on it; "
                    "expected a label for each image (unlabelled images are for `faceexpr predict`)"
                )
            return
        if stage == "predict":
            return
        targets = split.targets
        if targets.ndim == 2:  # elsewhere than in training, the highest share is what is measured
            targets = targets.nonzero()[:, 1] if stage == "train" else targets.argmax(1)
        present = set(targets.tolist())
        absent = [name for index, name in enumerate(self.class_names) if index not in present]
        if absent:
            rank_zero_warn(f"the {stage} split has no sample of {', '.join(absent)}")

    def setup(self, stage: str) -> None:
        for name in SPLITS[stage]:
            split = self.split(name)
            leaked = self.leaked(name) if name in ("val", "test") else None
            number = 0 if leaked is None else int(leaked.sum())
            also = (
                f", {number:,} of them equal to a training image (drop_leaked true leaves such out)" if number else ""
            )
            rank_zero_info(f"{type(self).__name__}: {counted(len(split), 'image')} in the {name} split{also}")
        if stage == "fit" and len(self.split("train")) < 2:
            raise FaceExprError(
                f"{type(self).__name__}: the train split holds 1 image; training needs at least 2 images"
            )

    @property
    def _remembering(self) -> bool:
        """Whether the model remembers its training data: each sample once, as it is, and none left out."""
        return bool(getattr(getattr(self.trainer, "lightning_module", None), "remembers", False))

    def split_loader(self, stage: Stage) -> BatchLoader:
        split = self.split(stage)
        num_workers = 0 if isinstance(split.images, Tensor) else self.num_workers
        source: EveryInput | FaceSplit = EveryInput(split) if stage == "predict" else split
        return self.make_loader(stage, source, len(source), num_workers, stage == "train" and not self._remembering)

    @property
    def network_size(self) -> int:
        """Side in pixels of the images that the network of this run takes; that of FER-2013 outside of a run."""
        model = getattr(self.trainer, "lightning_module", None)
        preprocess = getattr(getattr(model, "net", None), "preprocess", None)
        return int(getattr(preprocess, "size", FACE_SIZE))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer is None or not self.trainer.training or not isinstance(batch, dict) or self._remembering:
            return batch
        return self.augmented(batch, epoch=self.trainer.current_epoch)

    def augmented(self, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the batch as training sees it; a resumed run draws the same numbers without any state to store."""
        key = (self.seed, epoch)
        image = degrade_batch(batch["image"], batch["index"], self.degrade, key)
        image, target = augment_batch(image, batch["target"], batch["index"], self.augment, key, len(self.class_names))
        return {**batch, "image": image, "target": target}


class ImageFilesModule(ExpressionDataModule):
    """Expression data in image files, decoded once into memory or, where there are too many, each time.

    How a face is made (the first four options) is what a model keeps of its training: a trained model's are the
    defaults wherever it is used.

    Attributes:
        new_crop: how the faces are made for a model of which nothing is known yet.

    Args:
        image_size: side in pixels that the images are resized to; for a new model what its network takes.
        channels: 1 for grey, 3 for RGB, whatever the network takes; for a new model 1.
        shape: square, as for a new model, keeps the proportions of a face, whose shorter side is lengthened (of a whole
            image by repeating its border); stretched does not.
        margin: what is added to a box on each side, as a part of its width and height, where the model is given boxes;
            for a new model 0.05.
        max_pixels: an image with more pixels is not read.
        memory_gib: the decoded images of a split are kept in memory where they need no more than this. More are decoded
            anew each time they are needed, and only their headers are looked at before.
        num_workers: processes that decode images then, for each process of the run; by default the CPU cores that it
            leaves, 16 at most. 0 decodes in the process itself.
    """

    new_crop = Crop(channels=1)

    def __init__(
        self,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        shape: Literal["square", "stretched"] | None = None,
        margin: float | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        memory_gib: float = 4.0,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(1, "image_size", image_size)
        require_at_least(1, "max_pixels", max_pixels)
        require_at_least(0, "memory_gib", memory_gib)
        require_at_least(0, "num_workers", num_workers)
        self.image_size = image_size
        self.channels = channels
        self.shape = shape
        self.margin = margin
        self.max_pixels = max_pixels
        self.memory_gib = memory_gib
        self.num_workers = num_workers
        self.box: Box | None = None
        self._last_reader = self.reader

    @property
    def crop(self) -> Crop:
        known = getattr(getattr(self.trainer, "lightning_module", None), "crop", None) or self.new_crop
        given = {name: getattr(self, name) for name in ("channels", "shape", "margin")} | {"size": self.image_size}
        return replace(known, **{name: value for name, value in given.items() if value is not None})

    @property
    def reader(self) -> FaceReader:
        """What reads each file."""
        crop = self.crop
        return FaceReader(crop.size or self.network_size, crop, self.box, self.max_pixels)

    def split(self, stage: Stage) -> FaceSplit:
        if self._last_reader != self.reader:  # a model's turn has come, or it has been loaded from its checkpoint
            self._last_reader = self.reader
            self.splits.clear()
        with torch.inference_mode(False):  # which may be on by then, and whose tensors threads cannot fill
            return super().split(stage)

    def streams(self, files: FileNames) -> bool:
        """Tell whether the decoded faces need more memory than allowed."""
        return len(files) * math.prod(self.reader.shape) > self.memory_gib * 2**30

    def read(self, files: FileNames) -> FaceSplit:
        """Return the faces as a split without labels, in memory where there is room."""
        return (stream_faces if self.streams(files) else read_faces)(files, self.reader)


def require_at_least(least: int, name: str, value: float | None) -> None:
    """Refuse an option below its least value; None is an option that is not given.

    Raises:
        FaceExprError: it is too small.
    """
    if value is not None and not value >= least:  # also what is not a number
        raise FaceExprError(f"{name} is {value}; expected {least} or more")
