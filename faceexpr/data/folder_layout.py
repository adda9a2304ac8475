"""Which images of a folder belong to which split and class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.file_names import FileNames
from faceexpr.data.module import Stage
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import EXTENSIONS, list_images
from faceexpr.utils.labels import canonical

SPLIT_FOLDERS: dict[str, Stage] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "public": "val",
    "publictest": "val",
    "test": "test",
    "testing": "test",
    "private": "test",
    "privatetest": "test",
}
"""Folder names (lower case, without blanks, ``-`` and ``_``) and the split that each means, FER-2013's among them."""

_LAYOUTS = "train/CLASS/*, val/CLASS/* and test/CLASS/*, or CLASS/*"


@dataclass(frozen=True)
class Listing:
    """The image files of a split.

    Attributes:
        files: sorted by class, then by path.
        labels: the class index of each, int64 (N,).
    """

    files: FileNames
    labels: Tensor


def list_splits(
    root: Path, class_names: Sequence[str], val_fraction: float, test_fraction: float, seed: int
) -> dict[Stage, Listing]:
    """Find the splits of a folder; what is held out is announced.

    Args:
        root: holds one folder a split with one folder a class in each, or one folder a class.
        class_names: the classes in index order.
        val_fraction: part to hold out for validation where there is no folder for it.
        test_fraction: part to hold out for the test where there are no folders for the splits.
        seed: seed of the choice.

    Returns:
        The splits that there are; one may be empty.

    Raises:
        FaceExprError: there is no such folder, or one of its folders means no split or no class.
    """
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise FaceExprError(f"data.path: {root} {found}; expected a folder with {_LAYOUTS}")
    folders = _subfolders(root)
    if not folders:
        raise FaceExprError(f"data.path: {root} holds no folders; expected {_LAYOUTS}")
    if not any(_split_of(folder) for folder in folders):
        return _held_out(_list_classes(root, class_names), root, {"test": test_fraction, "val": val_fraction}, seed)
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
        listings |= _held_out(listings["train"], root, {"val": val_fraction}, seed)
    return listings


def _subfolders(folder: Path) -> list[Path]:
    # __MACOSX is what a zip file made on a Mac leaves beside the data.
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def _split_of(folder: Path) -> Stage | None:
    return SPLIT_FOLDERS.get(folder.name.lower().translate(str.maketrans("", "", " -_")))


def _list_classes(folder: Path, class_names: Sequence[str]) -> Listing:
    found: list[tuple[int, list[Path]]] = []
    for subfolder in _subfolders(folder):
        name = canonical(subfolder.name, class_names)
        if name is None:
            raise FaceExprError(f"the folder {subfolder} means no class; expected {', '.join(class_names)}")
        found.append((list(class_names).index(name), list_images(subfolder)))
    _warn_of_strays(folder)
    found.sort(key=lambda one: one[0])  # the folders of a class stay in the order of their names
    return Listing(
        files=FileNames(str(file) for _, files in found for file in files),
        labels=torch.tensor([label for label, files in found for _ in files], dtype=torch.int64),
    )


def _warn_of_strays(folder: Path) -> None:
    strays = [
        entry
        for entry in folder.iterdir()
        if entry.is_file() and entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".")
    ]
    if strays:
        rank_zero_warn(f"{len(strays):,} images that lie in {folder} itself, in no class, are left out")


def _held_out(listing: Listing, root: Path, fractions: dict[Stage, float], seed: int) -> dict[Stage, Listing]:
    """Divide a listing into train and the splits named, in proportion within each class, and say so.

    The order of choice is a hash of each file's path below ``root``: adding or removing a few images hardly moves the
    others between the splits, and moving the whole folder does not move any.
    """
    digests = [
        hashlib.sha256(
            f"{seed}:{Path(file).relative_to(root).as_posix()}".encode("utf-8", "surrogateescape")
        ).hexdigest()
        for file in listing.files
    ]
    labels = listing.labels.tolist()
    # The smallest shares over all classes come from each class in proportion and give the total exactly.
    order: list[tuple[float, str, int]] = []
    for label in set(labels):
        members = sorted((digests[index], index) for index, other in enumerate(labels) if other == label)
        order += [((rank + 0.5) / len(members), digest, index) for rank, (digest, index) in enumerate(members)]
    indices = [index for *_, index in sorted(order)]
    parts: dict[Stage, list[int]] = {}
    start = 0
    for stage, fraction in fractions.items():
        if fraction > 0:
            count = max(1, round(fraction * len(indices)))
            parts[stage] = indices[start : start + count]
            start += count
    parts["train"] = indices[start:]
    sizes = ", ".join(f"{len(parts[stage]):,} to {stage}" for stage in ("train", "val", "test") if stage in parts)
    rank_zero_info(f"{root} has no folder for each split: by class and with seed {seed}, {sizes}")
    return {stage: _part(listing, part) for stage, part in parts.items()}


def _part(listing: Listing, indices: list[int]) -> Listing:
    chosen = sorted(indices)
    return Listing(files=listing.files.picked(chosen), labels=listing.labels[chosen])
