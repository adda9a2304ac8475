"""Labelled faces of others, in the folders and files that they are published in: RAF-DB, AffectNet, ExpW and CK+."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.data.base import Stage
from faceexpr.data.face_folder import FaceFolder, Listing
from faceexpr.data.image_reading import FileNames
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES, canonical

RAFDB = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")
"""Labels 1 to 7 of RAF-DB."""

AFFECTNET = (
    "Neutral",
    "Happy",
    "Sad",
    "Surprise",
    "Fear",
    "Disgust",
    "Angry",
    "Contempt",
    "none",
    "uncertain",
    "no face",
)
"""Labels 0 to 10 of AffectNet."""

CKPLUS = ("Neutral", "Angry", "Contempt", "Disgust", "Fear", "Happy", "Sad", "Surprise")
"""Labels 0 to 7 of CK+."""

PEAK = 3
"""Frames at the end of a sequence of CK+ that show its expression, as most articles count them."""


class Labelled(NamedTuple):
    """A face: its file (see `split_fragment`), its expression, its split or None, and what is held out together."""

    file: str
    name: str
    stage: Stage | None
    group: str


class PublishedFaces(FaceFolder):
    """Faces with expressions in the layout of a published data set.

    - ``rafdb``: RAF-DB's basic part: EmoLabel/list_patition_label.txt and Image/aligned/*_aligned.jpg.
    - ``affectnet``: training.csv, validation.csv and Manually_Annotated_Images/, or train_set and val_set, each with
      images/*.jpg and annotations/*_exp.npy. Its validation part is the test too, since there is no other.
    - ``expw``: label.lst and origin/*.jpg; each face is cut out by its box.
    - ``ckplus``: Emotion/*/*/*_emotion.txt and cohn-kanade-images/: of each labelled sequence the last three frames,
      and the first as Neutral.

    Where a set has no splits, images (of CK+ persons) are held out as in `FaceFolder`; so is a part of the training
    images where there is no validation. Labels that are none of the classes are left out and counted.

    Args:
        path: the folder of the data set, or one above it.
        layout: which one it is.
        class_names: the classes in index order; by default the seven of FER-2013, to which Contempt can be added.
    """

    def __init__(
        self,
        path: str,
        layout: Literal["rafdb", "affectnet", "expw", "ckplus"],
        class_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, list(FER_NAMES) if class_names is None else class_names, **kwargs)
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
        digest = hashlib.sha256(f"{self.split_seed}:{face.group}".encode("utf-8", "surrogateescape")).digest()
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


def _name(names: tuple[str, ...], text: str, place: str, first: int = 0) -> str:
    """Return the expression of a number as text; a `FaceExprError` that names the place where it is none."""
    try:
        return dict(enumerate(names, first))[int(float(text))]
    except (ValueError, KeyError, OverflowError):
        last = first + len(names) - 1
        raise FaceExprError(f"{place}: the label is {text[:24]!r}; expected {first} to {last}") from None


def _rows(file: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the fields of each line of a file, divided at blanks."""
    for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), start=1):
        if fields := line.split():
            if len(fields) != count:
                raise FaceExprError(f"{file}:{number} has {len(fields)} fields; expected {count}")
            yield f"{file}:{number}", fields


def _fragment(place: str, x: str, y: str, width: str, height: str) -> str:
    try:
        return "#xywh=" + ",".join(str(round(float(value))) for value in (x, y, width, height))
    except (ValueError, OverflowError):
        raise FaceExprError(f"{place}: the box is {x}, {y}, {width}, {height}; expected numbers") from None


def _read_rafdb(root: Path) -> Iterator[Labelled]:
    labels = _find(root, "list_patition_label.txt", "rafdb")
    for place, (image, label) in _rows(labels, 2):
        file = labels.parents[1] / "Image" / "aligned" / f"{Path(image).stem}_aligned.jpg"
        stage: Stage = "train" if image.startswith("train") else "test"
        yield Labelled(str(file), _name(RAFDB, label, place, 1), stage, image)


def _read_affectnet(root: Path) -> Iterator[Labelled]:
    parts: dict[str, Stage] = {"training.csv": "train", "validation.csv": "val"}
    for name, stage in parts.items():
        for table in sorted(root.rglob(name)):
            with table.open(encoding="utf-8", errors="replace", newline="") as lines:
                for number, row in enumerate(csv.reader(lines), start=1):
                    if row and row[0] != "subDirectory_filePath":
                        place = f"{table}:{number}"
                        if len(row) < 7:
                            raise FaceExprError(f"{place} has {len(row)} fields; expected 7 or more")
                        file = table.parent / "Manually_Annotated_Images" / row[0]
                        yield Labelled(
                            f"{file}{_fragment(place, *row[1:5])}", _name(AFFECTNET, row[6], place), stage, ""
                        )
    if any(root.rglob("training.csv")):
        return
    folders: dict[str, Stage] = {"train_set": "train", "val_set": "val"}
    for name, stage in folders.items():
        folder = _find(root, name, "affectnet")
        for label in sorted((folder / "annotations").glob("*_exp.npy")):
            file = folder / "images" / f"{label.stem.removesuffix('_exp')}.jpg"
            text = str(np.load(label, allow_pickle=False))
            yield Labelled(str(file), _name(AFFECTNET, text, str(label)), stage, "")


def _read_expw(root: Path) -> Iterator[Labelled]:
    labels, images = _find(root, "label.lst", "expw"), _find(root, "origin", "expw")
    # Image, number of the face, top, left, right, bottom, score of the box, label.
    for place, (image, _, top, left, right, bottom, _, label) in _rows(labels, 8):
        box = _fragment(place, left, top, str(int(right) - int(left)), str(int(bottom) - int(top)))
        yield Labelled(f"{images / image}{box}", _name(FER_NAMES, label, place), None, image)


def _read_ckplus(root: Path) -> Iterator[Labelled]:
    emotions, images = _find(root, "Emotion", "ckplus"), _find(root, "cohn-kanade-images", "ckplus")
    for file in sorted(emotions.glob("*/*/*_emotion.txt")):
        name = _name(CKPLUS, file.read_text("utf-8", "replace").strip(), str(file))
        person, sequence = file.parts[-3:-1]
        frames = sorted((images / person / sequence).glob("*.png"))
        for frame in frames[-PEAK:]:
            yield Labelled(str(frame), name, None, person)
        if len(frames) > PEAK:
            yield Labelled(str(frames[0]), "Neutral", None, person)
