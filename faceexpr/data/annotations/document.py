"""What a file of annotations says, before it is held against the images; and how that is to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from faceexpr.data.annotations.text import is_integer
from faceexpr.utils.errors import FaceExprError


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
        for name, value, known in (
            ("unlabelled", self.unlabelled, ("leave_out", "no_faces")),
            ("missing", self.missing, ("refuse", "leave_out", "keep")),
        ):
            if value not in known:
                raise FaceExprError(f"{name} is {value!r}; expected {', '.join(known)}")


@dataclass(frozen=True)
class Face:
    """A box as the file has it.

    Attributes:
        where: its place in the file, for messages: "line 12".
        corners: left, top, right, bottom; finite, but in any order and anywhere.
        labels: None where the format has none and every box is a face.
        ignored: as in `FaceImage`.
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
        image_id: as in `FaceImage`.
        url: as in `FaceImage`.
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
    """What a file of annotations says.

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


def stated_size(width: object, height: object) -> tuple[int, int] | None:
    """Return a size that a file states; None where it is absent, zero or no size at all."""
    if not is_integer(width) or not is_integer(height):
        return None
    return (int(width), int(height)) if min(width, height) >= 1 and max(width, height) <= LARGEST else None


LARGEST = 1_000_000
"""No image has a longer side; in float32, boxes are exact to 1/16 of a pixel up to there."""
