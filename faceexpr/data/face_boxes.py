"""Your images with boxes, in any of the formats that `faceexpr.data.annotations` reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from faceexpr.data.annotations.parsing import is_link
from faceexpr.data.annotations.reading import AnnotatedImage, ReadOptions, read_annotations
from faceexpr.data.base import Stage
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.corrections import Corrections
from faceexpr.data.image_reading import check_image, find_equal
from faceexpr.utils.configurations import shipped_file
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DEFAULT_MAX_PIXELS, read_image
from faceexpr.utils.text import counted, some

Records = list[AnnotatedImage]

Paths = str | list[str] | None


class FaceBoxes(DetectionDataModule):
    """Photographs with a box around each face: COCO, CVAT, Dataturks, LabelMe, Label Studio, VOC, WIDER FACE or YOLO.

    The format is told by the content. Where no validation file or list is given, a seeded part of the training images
    is set aside for it and announced.

    Args:
        train: annotation file of the training images, or folder of such, or a list of several; each image is in one.
        images: folder that their paths start from; by default where the format has them. Of several files, one for
            all or a list with one for each.
        val: annotation file or files of the validation images.
        val_images: folder that their paths start from.
        test: annotation file or files of the test images.
        test_images: folder that their paths start from.
        val_list: text file with the names, as in the annotations, of the images of ``train`` to validate on, one a
            line.
        test_list: likewise of those to test on.
        val_fraction: part of the training images to validate on where neither ``val`` nor ``val_list`` is given.
        split_seed: which images that part consists of; the seed of the training does not change it.
        face_free: train on images without a face, or with ignored ones alone, as well; they are always validated and
            tested on.
        max_pixels: images with more pixels are refused.
        reading: which labels are faces, what becomes of unlabelled and missing images and of small faces.
        exclude: table of ``faceexpr audit`` (audit.csv) in which you have confirmed which images are left out.
    """

    def __init__(
        self,
        train: Paths = None,
        images: Paths = None,
        val: Paths = None,
        val_images: Paths = None,
        test: Paths = None,
        test_images: Paths = None,
        val_list: str | None = None,
        test_list: str | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        face_free: bool = True,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        reading: ReadOptions | None = None,
        exclude: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = {"train": train, "val": val, "test": test}
        self.folders = {"train": images, "val": val_images, "test": test_images}
        self.lists = {"val": val_list, "test": test_list}
        for stage, file in self.lists.items():
            if file is not None and self.files[stage] is not None:
                raise FaceExprError(f"{stage} and {stage}_list are both given; expected one of them")
        if not 0 < val_fraction < 1:
            raise FaceExprError(f"val_fraction is {val_fraction}; expected more than 0 and less than 1")
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.face_free = face_free
        self.max_pixels = max_pixels
        self.reading = reading
        self.exclude = exclude
        self.leaves_out_broken = reading is not None and reading.missing != "refuse"
        self.notes: list[str] = []
        self._parts: dict[str, Records] = {}

    def load_records(self, stage: Stage) -> Records:
        records = self._load(stage)
        if self.exclude is not None:
            corrections = Corrections(self.exclude)
            actions = corrections.find(str(record.path) for record in records)
            rank_zero_info(f"FaceBoxes: {corrections.require_found(stage, actions)} (exclude)")
            records = [record for record, action in zip(records, actions, strict=True) if action is None]
        if stage != "train" and self.files["train"] is not None:
            self._warn_of_shared(stage, records)
        return records

    def _warn_of_shared(self, stage: Stage, records: Records) -> None:
        """Say which images of a split hold the same bytes as one for training, be it the same file or a copy."""
        try:
            training = self._load("train")
        except FaceExprError:  # measuring does not need it
            return
        files = [str(record.path) for record in (*training, *records)]
        first = len(training)
        # Places ascend, so that a group which begins in another split is all in that.
        shared = sorted(place for equal in find_equal(files) if equal[0] < first for place in equal if place >= first)
        if shared:
            names = some([files[place] for place in shared])
            rank_zero_warn(
                f"FaceBoxes: {len(shared):,} of {counted(len(records), 'image')} of the {stage} split are among the "
                f"training images too, so that what is measured is too good: {names}"
            )

    def _load(self, stage: Stage) -> Records:
        if stage == "predict":
            raise FaceExprError("FaceBoxes is for training and measuring; faces are found by `faceexpr analyze`")
        if stage != "train" and self.files[stage] is not None:
            return self._read_file(stage)
        if not self._parts:
            self._parts = self._divide()
        if stage == "test" and "test" not in self._parts:
            raise FaceExprError("FaceBoxes has no test split; expected test, an annotation file, or test_list")
        records = self._parts[stage]
        return records if stage != "train" or self.face_free else [one for one in records if not one.ignored.all()]

    def read_pixels(self, record: AnnotatedImage) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = read_image(record.path, max_pixels=self.max_pixels).pixels
        return pixels

    def check(self, record: AnnotatedImage) -> None:
        check_image(str(record.path), self.max_pixels)

    def _divide(self) -> dict[str, Records]:
        """Divide the training file into splits: by lists of names, and else by chance."""
        rest, parts = self._read_file("train"), {}
        for stage, file in self.lists.items():
            if file is not None:
                listed = shipped_file(Path(file))
                parts[stage], rest = _take_listed(rest, listed, f"{stage}_list", self.leaves_out_broken)
        if "val" not in parts and self.files["val"] is None:
            parts["val"], rest = _take_random(rest, self.val_fraction, self.split_seed)
            rank_zero_info(
                f"FaceBoxes: set aside for validation: {len(parts['val'])} of the training images "
                f"(val_fraction {self.val_fraction:g}, split_seed {self.split_seed})"
            )
        return {**parts, "train": rest}

    def _read_file(self, stage: str) -> Records:
        files, folders = _as_list(self.files[stage]), _as_list(self.folders[stage]) or [""]
        if not files:
            raise FaceExprError(f"{stage} is not given; expected an annotation file")
        if len(folders) not in (1, len(files)):
            parameter = "images" if stage == "train" else f"{stage}_images"
            raise FaceExprError(
                f"{parameter} has {len(folders)} folders; expected 1 or one for each of {len(files)} files"
            )
        records: dict[str, AnnotatedImage] = {}
        for file, folder in zip(files, folders * len(files), strict=False):
            annotations = read_annotations(Path(file), Path(folder) if folder else None, options=self.reading)
            self.notes += annotations.notes
            for note in annotations.notes:
                rank_zero_info(note)
            for record in annotations.images:
                if records.setdefault(os.path.normpath(record.path), record) is not record:
                    raise FaceExprError(f"{file}: {record.path} is in a file before too; expected each image in one")
        return list(records.values())


def _as_list(paths: Paths) -> list[str]:
    return [paths] if isinstance(paths, str) else [*(paths or ())]


def _take_random(records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    """Return (set aside, rest), both in the order of the file; at least one image each."""
    if len(records) < 2:
        raise FaceExprError(
            f"{len(records)} image cannot be divided into training and validation; expected 2 or more, or val"
        )
    number = min(max(round(fraction * len(records)), 1), len(records) - 1)
    return _take(records, set(np.random.default_rng(seed).permutation(len(records))[:number].tolist()))


def _take_listed(records: Records, file: Path, parameter: str, some_missing: bool) -> tuple[Records, Records]:
    """Return (those that the file names, rest).

    A name is a link, or the end of an image's path, folders as far as given. With ``some_missing`` names of images that
    are not there are left out and said.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FaceExprError(f"{parameter}: {file} cannot be read ({error}); expected a name a line") from error
    by_end: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        parts = record.path.parts
        for name in (record.url, *("/".join(parts[start:]) for start in range(len(parts)))):
            by_end.setdefault(name or "", []).append(place)
    aside: set[int] = set()
    absent: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        name = line if is_link(line) else Path(line).as_posix()
        places = by_end.get(name, [])
        if some_missing and not places:
            absent.append(name)
            continue
        if len(places) != 1:
            found = f"{len(places)} images have" if places else "no image has"
            raise FaceExprError(
                f"{parameter}: {file}, line {number}: {found} the name {name}; expected one of the training file"
            )
        aside.add(places[0])
    if absent:
        rank_zero_warn(f"{parameter}: {counted(len(absent), 'name')} of {file} left out, not there: {some(absent)}")
    return _take(records, aside)


def _take(records: Records, aside: set[int]) -> tuple[Records, Records]:
    taken = [record for place, record in enumerate(records) if place in aside]
    return taken, [record for place, record in enumerate(records) if place not in aside]
