"""The record that every reader of box annotations gives, and what a format hands over on the way to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from faceexpr.utils.errors import FaceExprError


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image and the faces in it.

    Attributes:
        path: file of the image; it need not be there where only the annotation is looked at.
        size: width and height in pixels of the upright image, that is after its EXIF rotation; (0, 0) for a missing
            image without faces whose size is not stated.
        boxes: float32 (F, 4), left, top, right, bottom in pixels of the upright image, inside it, each with an area;
            (0, 4) where there is no face.
        ignored: bool (F,), faces that are neither asked for nor counted as false when found: marked invalid (WIDER
            FACE) or as a crowd (COCO).
        labelled: False where the annotator has skipped the image, so that nothing is known of its faces.
        flags: further columns of the format, one value a face each, such as WIDER FACE's ``blur``.
        image_id: the id of the image in its file, where the format has ids.
        url: where the image can be fetched, where the format says so.
    """

    path: Path
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    ignored: NDArray[np.bool_]
    labelled: bool = True
    flags: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    image_id: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Annotations:
    """What a file of annotations holds.

    Attributes:
        images: one record an image, in the order of the file.
        notes: what was left out or changed and how often, in sentences for the user.
        category_id: COCO's id of the face category, with which results for this file are written; 1 elsewhere.
    """

    images: list[AnnotatedImage]
    notes: tuple[str, ...] = ()
    category_id: int = 1


@dataclass(frozen=True)
class ReadOptions:
    """How annotations become records.

    Args:
        face_labels: labels or categories that mean a face; case, blanks, ``-`` and ``_`` make no difference, and ``*``
            stands for anything. A box with several labels is a face when one of them is here. WIDER FACE has no labels.
        not_face_labels: labels by which a box is left out, whatever else it is labelled as.
        unlabelled: images that the annotator has skipped are left out (``leave_out``), or taken as images without a
            face (``no_faces``).
        min_size: boxes with a side of fewer pixels, after clipping to the image, are left out.
        missing: images that are not there or cannot be read end everything (``refuse``), are left out (``leave_out``),
            or stay as records with the size that the annotation states (``keep``).
    """

    face_labels: tuple[str, ...] = ("face", "faces", "human face", "emotion *")
    not_face_labels: tuple[str, ...] = ("not face", "no face")
    unlabelled: Literal["leave_out", "no_faces"] = "leave_out"
    min_size: float = 1.0
    missing: Literal["refuse", "leave_out", "keep"] = "refuse"

    def __post_init__(self) -> None:
        if not 0 <= self.min_size < float("inf"):
            raise FaceExprError(f"min_size is {self.min_size}; expected 0 or more pixels")
        if not self.face_labels:
            raise FaceExprError("face_labels is empty; expected at least one label that means a face")


@dataclass(frozen=True)
class Face:
    """A box as the file has it.

    Attributes:
        where: its place in the file, for messages: "line 12".
        corners: left, top, right, bottom; finite, but in any order and anywhere.
        labels: None where the format has none and every box is a face.
        ignored: as in `AnnotatedImage`.
        flags: a value for each of the document's ``flag_names``.
    """

    where: str
    corners: tuple[float, float, float, float]
    labels: tuple[str, ...] | None = None
    ignored: bool = False
    flags: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An image as the file has it.

    Attributes:
        where: its place in the file, for messages.
        names: file names by which the image may be found, below the folder of images; the most likely first.
        faces: its boxes.
        size: width and height as stated, each 1 or more; None where they are not.
        labelled: False where the annotator has skipped the image.
        image_id: as in `AnnotatedImage`.
        url: as in `AnnotatedImage`.
    """

    where: str
    names: tuple[str, ...]
    faces: tuple[Face, ...]
    size: tuple[int, int] | None = None
    labelled: bool = True
    image_id: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Document:
    """What a file of annotations says, before it is held against the images.

    Attributes:
        entries: one an image, in the order of the file.
        folders: where images may lie below the folder that the user names, or beside the annotations.
        fractions: corners are fractions of the image's width and height, and not pixels.
        flag_names: further columns of each face.
        categories: the ids of the declared categories by name, where the format declares them; boxes of others than
            faces are then to be expected.
        notes: remarks of the reader, as phrases.
    """

    entries: tuple[Entry, ...]
    folders: tuple[str, ...] = ("", "images")
    fractions: bool = False
    flag_names: tuple[str, ...] = ()
    categories: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()
