"""A user's own images, one folder a class."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from faceexpr.data.augment import Augmentation
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.broken_pictures import tell_of_broken
from faceexpr.data.cache import cached_arrays
from faceexpr.data.face_reading import FaceReader, check_image_options, read_faces
from faceexpr.data.file_names import FileNames
from faceexpr.data.folder_layout import Listing, list_splits
from faceexpr.data.loading import BatchLoader, FaceSplit
from faceexpr.data.module import SPLITS, Stage, require_at_least
from faceexpr.data.streaming import FaceFiles, StreamLoader, needs_streaming, share_findings, streamed
from faceexpr.data.workers import workers
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DEFAULT_MAX_PIXELS
from faceexpr.utils.labels import FER_NAMES

_STAGES: dict[str, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class FaceFolder(ExpressionDataModule):
    """Face images in one folder a class: train/CLASS/*, val/CLASS/* and test/CLASS/*, or just CLASS/*.

    Folders are matched to classes by name (``happiness`` means Happy), and the index of a class never depends on
    which folders are there. Without val, or without train, val and test, images are held out of each class in
    proportion, by their names and the seed, so that the same images are held out on every machine.

    Predict reads the test images.

    Args:
        path: the folder.
        batch_size: images in a batch of one process.
        augment: random changes to the training images; all are off by default.
        drop_last: leave an incomplete last batch out of each training epoch.
        global_batch_size: images in a training step of all processes together; each takes its part. By default
            batch_size times the number of processes.
        class_names: the classes in index order; by default the seven of FER-2013.
        image_size: side in pixels that the images are resized to; by default what the network takes.
        channels: 1 for grey, 3 for RGB.
        on_bad_image: what to do about images that cannot be read: ``stop`` lists all with their reasons before
            training, ``skip`` leaves them out and says how many.
        val_fraction: part of each class that is held out for validation where there is no folder for it.
        test_fraction: part of each class that is held out for the test where there are no folders for the splits.
        split_seed: seed of that choice.
        max_pixels: an image with more pixels is not read.
        memory_gib: the decoded images of a split are kept in memory where they need no more than this. More are decoded
            anew each time they are needed, and only their headers are looked at before training.
        num_workers: processes that decode images then, for each process that trains; by default the CPU cores that
            training leaves, 16 at most. 0 decodes in the training process.
        cache_dir: folder for the cache; by default ``.faceexpr-cache`` beside the folder, or the user's cache folder
            where that cannot be written.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 128,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        class_names: list[str] | None = None,
        image_size: int | None = None,
        channels: Literal[1, 3] = 1,
        on_bad_image: Literal["stop", "skip"] = "stop",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        memory_gib: float = 4.0,
        num_workers: int | None = None,
        cache_dir: str | None = None,
        global_batch_size: int | None = None,
    ) -> None:
        names = list(FER_NAMES) if class_names is None else class_names
        if not names or len({name.strip().lower() for name in names}) < len(names):
            raise FaceExprError(f"data.class_names is {names}; expected one or more names, each once")
        super().__init__(
            batch_size=batch_size,
            augment=augment,
            drop_last=drop_last,
            class_names=names,
            global_batch_size=global_batch_size,
        )
        check_image_options(image_size, channels, max_pixels)
        require_at_least(0, "num_workers", num_workers)
        require_at_least(0, "memory_gib", memory_gib)
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise FaceExprError(
                f"data.val_fraction is {val_fraction} and data.test_fraction is {test_fraction}; expected 0 or more "
                "each, and less than 1 together"
            )
        self.path = path
        self.image_size = image_size
        self.channels = channels
        self.on_bad_image = on_bad_image
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.max_pixels = max_pixels
        self.memory_gib = memory_gib
        self.num_workers = num_workers
        self.cache_dir = cache_dir
        self._read: dict[Stage, FaceSplit] = {}

    def prepare_data(self) -> None:
        # One process a node fills the cache before the others look for it.
        if self.trainer is not None and self.trainer.state.fn is not None:
            stages = [stage for stage in _STAGES[self.trainer.state.fn] if stage not in self.splits]
            self._read_all(stage for stage in stages if not self._streams(stage))

    def load_split(self, stage: Stage) -> FaceSplit:
        # Who is about to train wants to know of the bad images in both splits at once.
        with_val = stage == "train" and "val" in self._listings and "val" not in self.splits
        self._read_all(("train", "val") if with_val else (stage,))
        return self._read.pop(stage)

    def _loader(self, stage: Stage) -> BatchLoader:
        loader = super()._loader(stage)
        if not isinstance(loader.split.images, FaceFiles):
            return loader
        advice = "leave such images out with data.on_bad_image=skip" if self.on_bad_image == "stop" else None
        processes = workers(self.num_workers, self.trainer)
        return self.opened(StreamLoader(loader.split, loader.sampler, processes, advice))

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        for name in SPLITS[stage]:
            split = self.splits.get(name)
            if split is None or stage == "predict":  # whose result says it for each image
                continue
            share_findings(split)
            reasons = {split.sources[index]: reason for index, reason in sorted(split.broken.items())}
            tell_of_broken(name, len(split), reasons)

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser()

    @cached_property
    def _listings(self) -> dict[Stage, Listing]:
        listings = list_splits(self._root, self.class_names, self.val_fraction, self.test_fraction, self.split_seed)
        return {**listings, "predict": listings["test"]} if "test" in listings else listings

    def _read_all(self, stages: Iterable[Stage]) -> None:
        fresh = {stage: self._read_one(stage) for stage in stages if stage not in self._read}
        self._account(list(fresh.values()))
        self._read.update(fresh)

    def _account(self, splits: list[FaceSplit]) -> None:
        """Stop, or say what is left out."""
        failures = [failure for split in splits for failure in split.failures]
        if not failures:
            return
        total = len(failures) + sum(len(split) for split in splits)
        found = f"{len(failures):,} of {total:,} images in {self.path} cannot be read"
        reasons = "".join(f"\n  {failure.source}: {failure.reason}" for failure in failures)
        if self.on_bad_image == "stop":
            raise FaceExprError(
                f"{found}; repair or remove them, or leave them out with data.on_bad_image=skip:{reasons}"
            )
        if len(failures) == total:
            raise FaceExprError(f"{found}, so nothing is left:{reasons}")
        rank_zero_warn(f"{found} and are left out:{reasons}")

    def _listing(self, stage: Stage) -> Listing:
        if stage not in self._listings:
            raise FaceExprError(
                f"{self.path} has no {stage} split; expected {stage}/CLASS/* beside the other splits, or a fraction "
                "above 0 to hold out"
            )
        return self._listings[stage]

    @property
    def _reader(self) -> FaceReader:
        return FaceReader(self.image_size or self.network_size, self.channels, max_pixels=self.max_pixels)

    def _streams(self, stage: Stage) -> bool:
        return needs_streaming(len(self._listing(stage).files), self._reader, self.memory_gib)

    def _read_one(self, stage: Stage) -> FaceSplit:
        listing = self._listing(stage)
        split = streamed(listing.files, self._reader) if self._streams(stage) else self._read_cached(listing.files)
        readable = torch.ones(len(listing.labels), dtype=torch.bool)
        readable[[failure.position for failure in split.failures]] = False
        return dataclasses.replace(split, targets=listing.labels[readable])

    def _read_cached(self, files: FileNames) -> FaceSplit:
        reader = self._reader

        def build() -> dict[str, np.ndarray]:
            split = read_faces(files, reader)
            if split.failures:
                raise _IncompleteError(split)
            notes = json.dumps([split.notes.get(index, "") for index in range(len(split))])
            return {"images": split.tensor.numpy(), "notes": np.frombuffer(notes.encode(), np.uint8)}

        try:
            arrays = cached_arrays(
                [self._root.resolve(), *(path for path in map(Path, files) if path.exists())],
                kind="face-folder-2",
                build=build,
                cache_dir=None if self.cache_dir is None else Path(self.cache_dir),
                options=f"{reader.image_size} {self.channels} {self.max_pixels} {list(files)}",
            )
        except _IncompleteError as incomplete:
            return incomplete.split
        notes = json.loads(arrays["notes"].tobytes())
        return FaceSplit(
            images=torch.from_numpy(arrays["images"]),
            targets=None,
            sources=files,
            notes={index: note for index, note in enumerate(notes) if note},
        )


class _IncompleteError(Exception):
    """Keeps a split with failures out of the cache: what made them fail (a right, a missing decoder) is not in there.

    Args:
        split: what was read.
    """

    def __init__(self, split: FaceSplit) -> None:
        super().__init__()
        self.split = split
