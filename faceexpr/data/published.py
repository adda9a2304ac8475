"""Labelled faces of others, in the folders and files that they are published in: RAF-DB, AffectNet, ExpW and CK+."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.data.base import Stage
from faceexpr.data.face_folder import FaceFolder, Listing, find_groups
from faceexpr.data.image_reading import FileNames, split_fragment
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES, canonical

# What the numbers of each set mean, from 0.
RAFDB = ("", "Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")
CKPLUS = ("Neutral", "Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")
AFFECTNET = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Angry", "Contempt", "none", "unsure", "no face")

PEAK = 3
"""Frames at the end of a sequence of CK+ that show its expression, as most articles count them."""


class Labelled(NamedTuple):
    """A face: its file (see `split_fragment`), its expression, its split or None, and what is held out together."""

    file: str
    name: str
    stage: Stage | None
    group: str = ""


class PublishedFaces(FaceFolder):
    """Faces with expressions in the layout of a published data set.

    - ``rafdb``: RAF-DB's basic part: EmoLabel/list_patition_label.txt and Image/aligned/*_aligned.jpg.
    - ``affectnet``: training.csv, validation.csv and Manually_Annotated_Images/, or train_set and val_set, each with
      images/*.jpg and annotations/*_exp.npy. Its validation part is the test too, since there is no other.
    - ``expw``: label.lst and origin/*.jpg; each face is cut out by its box.
    - ``ckplus``: Emotion/*/*/*_emotion.txt and cohn-kanade-images/: of each labelled sequence the last three frames,
      and the first as Neutral.

    Where a set has no splits, images (of CK+ persons, and with ``group`` what it names) are held out as in
    `FaceFolder`; so is a part of RAF-DB's training images for validation. Labels that are none of the classes are left
    out and counted.

    Args:
        path: the folder of the data set, or one above it.
        layout: which one it is.
    """

    def __init__(self, path: str, layout: Literal["rafdb", "affectnet", "expw", "ckplus"], **kwargs: Any) -> None:
        super().__init__(path, **kwargs)
        self.layout = layout

    def list_splits(self) -> dict[Stage, Listing]:
        found: dict[Stage, list[tuple[int, str]]] = {}
        left_out: Counter[str] = Counter()
        read = {"rafdb": _read_rafdb, "affectnet": _read_affectnet, "expw": _read_expw, "ckplus": _read_ckplus}
        for face in read[self.layout](self._root):
            name = canonical(face.name, self.class_names)
            if name is None:
                left_out[face.name] += 1
                continue
            for stage in self._stages(face):
                found.setdefault(stage, []).append((self.class_names.index(name), face.file))
        sizes = ", ".join(f"{len(faces):,} to {stage}" for stage, faces in found.items()) or "none"
        without = "".join(f", {count:,} {name} left out" for name, count in left_out.items())
        rank_zero_info(f"{self._root}: of its faces {sizes}{without}")
        return {
            stage: Listing(FileNames(file for _, file in sorted(faces)), torch.tensor([k for k, _ in sorted(faces)]))
            for stage, faces in found.items()
        }

    def _stages(self, face: Labelled) -> tuple[Stage, ...]:
        """Return the splits that a face belongs to."""
        if face.stage == "val" or (face.stage is None and self.measures_whole):
            return ("val", "test")
        if face.stage == "test" or self.layout == "affectnet":
            return (face.stage or "train",)
        path = Path(split_fragment(face.file)[0]).relative_to(self._root).as_posix()
        group = face.group if self.group is None else find_groups([path], self.group)[0]
        digest = hashlib.sha256(f"{self.split_seed}:{group}".encode("utf-8", "surrogateescape")).digest()
        place = int.from_bytes(digest[:6], "big") / 2**48
        if face.stage is None and place < self.test_fraction:
            return ("test",)
        return ("val",) if place >= 1 - self.val_fraction else ("train",)


def _find(root: Path, pattern: str, layout: str) -> Path:
    """Return the first file or folder below a folder that matches; a `FaceExprError` where there is none."""
    found = next(iter(sorted(root.rglob(pattern))), None)
    if found is None:
        raise FaceExprError(f"path: {root} has no {pattern}; expected the layout {layout}")
    return found


def _name(names: Sequence[str], text: str, place: str) -> str:
    """Return the expression of a number as text; a `FaceExprError` that names the place where it is none."""
    numbered = {number: name for number, name in enumerate(names) if name}
    try:
        return numbered[int(float(text))]
    except (ValueError, KeyError, OverflowError):
        expected = f"expected {min(numbered)} to {max(numbered)}"
        raise FaceExprError(f"{place}: the label is {text[:24]!r}; {expected}") from None


def _rows(file: Path, count: int, delimiter: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the fields of each line of a file that is divided at blanks, or by a delimiter.

    Raises:
        FaceExprError: a line has fewer fields than it needs.
    """
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = (line.split() for line in lines) if delimiter is None else csv.reader(lines, delimiter=delimiter)
        for number, fields in enumerate(rows, start=1):
            if fields and len(fields) < count:
                raise FaceExprError(f"{file}:{number} has {len(fields)} fields; expected {count}")
            if fields:
                yield f"{file}:{number}", fields


def _fragment(place: str, *box: str, corners: bool = False) -> str:
    """Return a box, left, top, width and height or two corners, as a name's end; see `split_fragment`."""
    try:
        x, y, width, height = (round(float(value)) for value in box)
    except (ValueError, OverflowError):
        raise FaceExprError(f"{place}: the box is {', '.join(box)}; expected four numbers") from None
    return f"#xywh={x},{y},{width - x},{height - y}" if corners else f"#xywh={x},{y},{width},{height}"


def _read_rafdb(root: Path) -> Iterator[Labelled]:
    labels = _find(root, "list_patition_label.txt", "rafdb")
    for place, (image, label, *_) in _rows(labels, 2):
        file = labels.parents[1] / "Image" / "aligned" / f"{Path(image).stem}_aligned.jpg"
        yield Labelled(str(file), _name(RAFDB, label, place), "train" if image.startswith("train") else "test", image)


def _read_affectnet(root: Path) -> Iterator[Labelled]:
    parts: dict[Stage, tuple[str, str]] = {"train": ("training.csv", "train_set"), "val": ("validation.csv", "val_set")}
    tables = any(root.rglob("training.csv"))
    for stage, (table, folder) in parts.items():
        place = _find(root, table if tables else folder, "affectnet")
        if tables:
            for line, (image, *box, _, label) in ((line, fields[:7]) for line, fields in _rows(place, 7, ",")):
                if image != "subDirectory_filePath":
                    file = place.parent / "Manually_Annotated_Images" / image
                    yield Labelled(f"{file}{_fragment(line, *box)}", _name(AFFECTNET, label, line), stage)
        else:
            for annotation in sorted((place / "annotations").glob("*_exp.npy")):
                file = place / "images" / f"{annotation.stem.removesuffix('_exp')}.jpg"
                label = str(np.load(annotation, allow_pickle=False))
                yield Labelled(str(file), _name(AFFECTNET, label, str(annotation)), stage)


def _read_expw(root: Path) -> Iterator[Labelled]:
    labels, images = _find(root, "label.lst", "expw"), _find(root, "origin", "expw")
    for place, (image, _, top, left, right, bottom, _, label, *_) in _rows(labels, 8):
        box = _fragment(place, left, top, right, bottom, corners=True)
        yield Labelled(f"{images / image}{box}", _name(FER_NAMES, label, place), None, image)


def _read_ckplus(root: Path) -> Iterator[Labelled]:
    emotions, images = _find(root, "Emotion", "ckplus"), _find(root, "cohn-kanade-images", "ckplus")
    for file in sorted(emotions.glob("*/*/*_emotion.txt")):
        name = _name(CKPLUS, file.read_text("utf-8", "replace").strip(), str(file))
        person, sequence = file.parts[-3:-1]
        frames = sorted((images / person / sequence).glob("*.png"))
        for number, frame in enumerate(frames):
            if number == 0 or number >= len(frames) - PEAK:
                yield Labelled(str(frame), name if number >= len(frames) - PEAK else "Neutral", None, person)
