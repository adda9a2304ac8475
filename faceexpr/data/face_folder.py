"""A user's own images, one folder a class."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.base import SPLITS, ImageFilesModule, Stage
from faceexpr.data.cache import Arrays, load_cached
from faceexpr.data.corrections import EXCLUDE
from faceexpr.data.image_reading import FileNames, find_equal, warn_of_broken
from faceexpr.data.loading import FaceSplit, stratify
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import EXTENSIONS, list_images
from faceexpr.utils.labels import FER_NAMES, canonical
from faceexpr.utils.text import counted, some

SPLIT_FOLDERS: dict[str, Stage] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "public", "publictest"), "val"),
    **dict.fromkeys(("test", "testing", "private", "privatetest"), "test"),
}
"""Folder names (lower case, without blanks, ``-`` and ``_``) and the split that each means, FER-2013's among them."""

MEASURING = (TrainerFn.VALIDATING, TrainerFn.TESTING, TrainerFn.PREDICTING)

_LAYOUTS = "train/CLASS/*, val/CLASS/* and test/CLASS/*, or CLASS/*"


class FaceFolder(ImageFilesModule):
    """Face images in one folder a class: train/CLASS/*, val/CLASS/* and test/CLASS/*, or just CLASS/*.

    Folders are matched to classes by name (``happiness`` means Happy), and the index of a class never depends on
    which folders are there. Without val, or without train, val and test, images are held out of each class in
    proportion, by their names and the seed, so that the same images are held out on every machine.

    Files of several splits that hold the same bytes are counted, and so are those that lie in several classes.

    A trained model that is validated, tested or calibrated on a folder of classes alone, other than the one that it was
    trained on, is so on all of its images. Predict reads the test images.

    Args:
        path: the folder.
        class_names: the classes in index order; by default the seven of FER-2013.
        on_bad_image: what to do about images that cannot be read: ``stop`` lists all with their reasons before
            training, ``skip`` leaves them out and says how many.
        val_fraction: part of each class that is held out for validation where there is no folder for it.
        test_fraction: part of each class that is held out for the test where there are no folders for the splits.
        split_seed: seed of that choice.
        group: regular expression; images in whose paths below the folder it, or its first group, matches the same
            text, such as the number of a person, are held out together. The fractions are then of the groups.
        drop_leaked: leave out of validation and test the images whose file holds the same bytes as one for training.
        cache_dir: folder for the cache; by default ``.faceexpr-cache`` beside the folder, or the user's cache folder
            where that cannot be written.
    """

    def __init__(
        self,
        path: str,
        class_names: list[str] | None = None,
        on_bad_image: Literal["stop", "skip"] = "stop",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        group: str | None = None,
        drop_leaked: bool = False,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        names = list(FER_NAMES) if class_names is None else class_names
        if not names or len({name.strip().lower() for name in names}) < len(names):
            raise FaceExprError(f"class_names is {names}; expected one or more names, each once")
        super().__init__(**kwargs)
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise FaceExprError(
                f"val_fraction is {val_fraction} and test_fraction is {test_fraction}; expected 0 or more "
                "each, and less than 1 together"
            )
        self.path = path
        self.class_names = tuple(names)
        self.on_bad_image = on_bad_image
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.group = group
        self.drop_leaked = drop_leaked
        self.cache_dir = cache_dir
        self._read: dict[Stage, FaceSplit] = {}

    def prepare_data(self) -> None:
        # One process a node fills the cache before the others look for it.
        if self.trainer is not None and self.trainer.state.fn is not None:
            stages = [stage for stage in SPLITS[self.trainer.state.fn] if stage not in self.splits]
            self._read_all(stage for stage in stages if not self.streams(self._listing(stage).files))

    def load_split(self, stage: Stage) -> FaceSplit:
        # Who is about to train wants to know of the bad images in both splits at once.
        with_val = stage == "train" and "val" in self._listings and "val" not in self.splits
        self._read_all(("train", "val") if with_val else (stage,))
        return self._read.pop(stage)

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        for name in SPLITS[stage]:
            if name in self.splits and name != "predict":  # whose result says it for each image
                self.splits[name].share_findings()
                warn_of_broken(name, self.splits[name].sources, self.splits[name].broken)

    @property
    def _root(self) -> Path:
        return Path(self.path).expanduser()

    @cached_property
    def _listings(self) -> dict[Stage, Listing]:
        listings = self.list_splits()
        return {**listings, "predict": listings["test"]} if "test" in listings else listings

    def find_leaked(self, split: FaceSplit) -> npt.NDArray[np.bool_] | None:
        files = self._listing("train").files
        kept = (file for file, action in zip(files, self.corrections.find(files), strict=True) if action != EXCLUDE)
        training = {self._equal[file] for file in kept if file in self._equal}
        return np.array([self._equal.get(file) in training for file in split.sources], dtype=np.bool_)

    @cached_property
    def _equal(self) -> dict[str, int]:
        """The files that hold the same bytes as others, of any split, with the number of what they hold."""
        listings = [listing for stage, listing in self._listings.items() if stage != "predict"]
        files = FileNames(file for listing in listings for file in listing.files)
        labels = torch.cat([listing.labels for listing in listings]).tolist()
        groups = find_equal(files)
        unsure = [places for group in groups if len(places := {labels[place]: files[place] for place in group}) > 1]
        if unsure:
            names = some([" and ".join(places.values()) for places in unsure])
            rank_zero_warn(f"{self.path}: {counted(len(unsure), 'image')} in more than one class: {names}")
        return {files[place]: number for number, group in enumerate(groups) for place in group}

    @property
    def measures_whole(self) -> bool:
        """Whether a model that was trained on something else is measured on this, so that nothing is held out."""
        own = self.trained_on is not None and Path(self.trained_on).expanduser().resolve() == self._root.resolve()
        return not own and self.trainer is not None and self.trainer.state.fn in MEASURING

    def list_splits(self) -> dict[Stage, Listing]:
        """Return the files and labels of the splits that there are."""
        folders = _subfolders(self._root) if self._root.is_dir() and self.measures_whole else []
        if not folders or any(map(_split_of, folders)):
            fractions: dict[Stage, float] = {"test": self.test_fraction, "val": self.val_fraction}
            return list_splits(self._root, self.class_names, fractions, self.split_seed, self.group)
        whole = _list_classes(self._root, self.class_names)
        rank_zero_info(f"{self._root} has no folder for each split: all of its {len(whole.files):,} images are taken")
        return {"val": whole, "test": whole}

    def _read_all(self, stages: Iterable[Stage]) -> None:
        """Read splits; stop where images cannot be read, or say what is left out."""
        splits = {stage: self._read_one(stage) for stage in stages if stage not in self._read}
        failures = [failure for split in splits.values() for failure in split.failures]
        total = len(failures) + sum(map(len, splits.values()))
        found = f"{len(failures):,} of {total:,} images in {self.path} cannot be read"
        reasons = "".join(f"\n  {failure.source}: {failure.reason}" for failure in failures)
        if failures and self.on_bad_image == "stop":
            raise FaceExprError(f"{found}; repair or remove them, or leave them out with on_bad_image skip:{reasons}")
        if failures and len(failures) == total:
            raise FaceExprError(f"{found}, so nothing is left:{reasons}")
        if failures:
            rank_zero_warn(f"{found} and are left out:{reasons}")
        self._read.update(splits)

    def _listing(self, stage: Stage) -> Listing:
        if stage not in self._listings:
            raise FaceExprError(
                f"{self.path} has no {stage} split; expected {stage}/CLASS/* beside the other splits, or a fraction "
                "above 0 to hold out"
            )
        return self._listings[stage]

    def _read_one(self, stage: Stage) -> FaceSplit:
        files, labels = self._listing(stage)
        split = self.read(files) if self.streams(files) else self._read_cached(files)
        readable = torch.ones(len(labels), dtype=torch.bool)
        readable[[failure.position for failure in split.failures]] = False
        advice = "leave such images out with on_bad_image skip" if self.on_bad_image == "stop" else None
        return dataclasses.replace(split, targets=labels[readable], advice=advice)

    def _read_cached(self, files: FileNames) -> FaceSplit:
        read: list[FaceSplit] = []

        def build() -> Arrays | None:
            split = self.read(files)
            read.append(split)
            if split.failures:  # what made them fail (a right, a missing decoder) is not known to the cache
                return None
            notes = json.dumps([*split.notes.items()])
            return {"images": split.tensor.numpy(), "notes": np.frombuffer(notes.encode(), np.uint8)}

        arrays = load_cached(
            [self._root.resolve(), *(path for path in map(Path, files) if path.exists())],
            kind="face-folder-3",
            build=build,
            cache_dir=self.cache_dir,
            options=f"{self.reader} {list(files)}",
        )
        if arrays is None or read:
            return read[0]
        notes = dict(json.loads(arrays["notes"].tobytes()))
        return FaceSplit(torch.from_numpy(arrays["images"]), targets=None, sources=files, notes=notes)


class Listing(NamedTuple):
    """The image files of a split, sorted by class, then by path, and the class index of each, int64 (N,)."""

    files: FileNames
    labels: Tensor


def list_splits(
    root: Path, class_names: Sequence[str], fractions: dict[Stage, float], seed: int, group: str | None = None
) -> dict[Stage, Listing]:
    """Find the splits of a folder; what is held out is announced.

    Args:
        root: holds one folder a split with one folder a class in each, or one folder a class.
        class_names: the classes in index order.
        fractions: parts to hold out for validation and the test where there are no folders for the splits; where
            there is one for training and none for validation, the part for this.
        seed: seed of the choice.
        group: what is held out together, see `FaceFolder`.

    Returns:
        The splits that there are; one may be empty.

    Raises:
        FaceExprError: there is no such folder, or one of its folders means no split or no class.
    """
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise FaceExprError(f"path: {root} {found}; expected a folder with {_LAYOUTS}")
    folders = _subfolders(root)
    if not folders:
        raise FaceExprError(f"path: {root} holds no folders; expected {_LAYOUTS}")
    if not any(_split_of(folder) for folder in folders):
        return _held_out(_list_classes(root, class_names), root, fractions, seed, group)
    splits: dict[Stage, Path] = {}
    for folder in folders:
        stage = _split_of(folder)
        if stage is None:
            raise FaceExprError(
                f"{folder} means no split but stands beside {next(filter(_split_of, folders)).name}; expected train, "
                "val and test"
            )
        if stage in splits:
            raise FaceExprError(f"{splits[stage]} and {folder} both mean the {stage} split; expected one of them")
        splits[stage] = folder
    _warn_of_strays(root)
    listings = {stage: _list_classes(folder, class_names) for stage, folder in splits.items()}
    if "train" in listings and "val" not in listings:
        listings |= _held_out(listings["train"], root, {"val": fractions["val"]}, seed, group)
    return listings


def _subfolders(folder: Path) -> list[Path]:
    # __MACOSX is what a zip file made on a Mac leaves beside the data.
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def _split_of(folder: Path) -> Stage | None:
    return SPLIT_FOLDERS.get(folder.name.lower().translate(str.maketrans("", "", " -_")))


def _list_classes(folder: Path, class_names: Sequence[str]) -> Listing:
    found: list[tuple[int, list[Path]]] = []
    for subfolder in _subfolders(folder):
        # Names of classes are UTF-8, also where the system's encoding is another one.
        name = canonical(os.fsencode(subfolder.name).decode("utf-8", "surrogateescape"), class_names)
        if name is None:
            raise FaceExprError(f"the folder {subfolder} means no class; expected {', '.join(class_names)}")
        found.append((list(class_names).index(name), list_images(subfolder)))
    _warn_of_strays(folder)
    found.sort(key=lambda one: one[0])  # the folders of a class stay in the order of their names
    files = FileNames(str(file) for _, files in found for file in files)
    return Listing(files, torch.tensor([label for label, files in found for _ in files], dtype=torch.int64))


def _warn_of_strays(folder: Path) -> None:
    strays = [
        entry
        for entry in folder.iterdir()
        if entry.is_file() and entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".")
    ]
    if strays:
        rank_zero_warn(f"{len(strays):,} images that lie in {folder} itself, in no class, are left out")


def _held_out(
    listing: Listing, root: Path, fractions: dict[Stage, float], seed: int, pattern: str | None
) -> dict[Stage, Listing]:
    """Divide a listing into train and the splits named, in proportion within each class, and say so.

    The order of choice is a hash of each file's path below ``root``: adding or removing a few images hardly moves the
    others between the splits, and moving the whole folder does not move any. A group of images goes where its first
    image does, and parts are parts of the groups; without a pattern each image is a group.
    """
    names = find_groups([Path(file).relative_to(root).as_posix() for file in listing.files], pattern)
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        first.setdefault(name, place)
    digests = [hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).hexdigest() for name in first]
    order = np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.int64)
    left = stratify(listing.labels.numpy()[[*first.values()]], order)
    parts: dict[Stage, npt.NDArray[np.int64]] = {}
    for stage, fraction in fractions.items():
        if fraction > 0:
            parts[stage], left = np.split(left, [max(1, round(fraction * len(order)))])
    parts["train"] = left
    groups = list(first)
    split_of = {groups[number]: stage for stage, part in parts.items() for number in part.tolist()}
    places = {stage: [place for place, name in enumerate(names) if split_of[name] == stage] for stage in parts}
    sizes = ", ".join(f"{len(places[stage]):,} to {stage}" for stage in ("train", "val", "test") if stage in places)
    rank_zero_info(f"{root} has no folder for each split: by class and with seed {seed}, {sizes}")
    return {stage: Listing(listing.files.pick(chosen), listing.labels[chosen]) for stage, chosen in places.items()}


def find_groups(paths: list[str], pattern: str | None) -> list[str]:
    """Return what names the group of each path: what a regular expression, or its first group, finds there."""
    if pattern is None:
        return paths
    try:
        matches = [re.search(pattern, path) for path in paths]
    except re.error as error:
        raise FaceExprError(f"group is {pattern!r}; expected a regular expression ({error})") from error
    if None in matches:
        path = paths[matches.index(None)]
        raise FaceExprError(f"group is {pattern!r}, which is nowhere in {path}; expected a match in every path")
    return [match[min(1, len(match.groups()))] or "" for match in matches if match]
