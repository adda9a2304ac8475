"""From what a file of annotations says to records that hold: faces told from other things, boxes inside their image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from faceexpr.data.annotations.document import Document, Face, ReadOptions
from faceexpr.data.annotations.images import Found, find
from faceexpr.data.annotations.records import Annotations, FaceImage
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import counted, some

_TOLERANCE = 0.01
"""Pixels by which a corner may lie outside for no more reason than rounding."""


@dataclass
class _Counts:
    """Of which images boxes were changed or left out, once a box."""

    clipped: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    not_faces: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


def collect(path: Path, document: Document, images: Path | None, options: ReadOptions) -> Annotations:
    """Return the records of a document.

    Args:
        path: the file of annotations, for messages.
        document: what it says.
        images: the folder of images; None searches beside the annotations.
        options: how it is to be read.

    Raises:
        FaceExprError: images are missing, a label is unknown, or nothing is left.
    """
    category_id = _face_category(path, document, options)
    total = len(document.entries)
    skipped = [entry for entry in document.entries if not entry.labelled]
    if options.unlabelled == "leave_out" and skipped:
        document = replace(document, entries=tuple(entry for entry in document.entries if entry.labelled))
    found, notes = find(path, document, images, options)
    counts = _Counts()
    records = [_record(path, document, image, options, counts) for image in found]
    if not records:
        raise FaceExprError(f"{path}: none of its {total:,} images is left; expected at least one")
    notes = [_summary(records), *document.notes, *_skipped(len(skipped), options), *notes, *_told(counts, options)]
    return Annotations(records, tuple(f"{path}: {note}" for note in notes), category_id)


def _face_category(path: Path, document: Document, options: ReadOptions) -> int:
    if document.categories is None:
        return 1
    ids = [number for name, number in document.categories.items() if _is_face((name,), options)]
    if not ids:
        names = some(sorted(document.categories), most=10) or "none"
        raise FaceExprError(
            f"{path}: none of its categories means a face ({names}); expected one of "
            f"{', '.join(options.face_labels)}, or face_labels that name it"
        )
    return ids[0]


def _record(path: Path, document: Document, image: Found, options: ReadOptions, counts: _Counts) -> FaceImage:
    name = image.path.name
    faces = [face for face in image.entry.faces if _kept(path, document, face, name, options, counts)]
    if faces and image.size == (0, 0):
        raise FaceExprError(
            f"{path}, {image.entry.where}: the size of {image.path} is unknown, as it is missing or unreadable and the "
            "annotation does not tell; expected the image, or missing: leave_out"
        )
    corners = np.array([face.corners for face in faces], dtype=np.float64).reshape(-1, 4)
    width, height = image.size
    limits = np.array([width, height, width, height], dtype=np.float64)
    corners = corners * limits if document.fractions else corners
    boxes = np.clip(corners, 0, limits).astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = (sides >= options.min_size).all(axis=1) & (sides > 0).all(axis=1)
    moved = (np.abs(boxes - corners) > _TOLERANCE).any(axis=1)
    counts.clipped += [name] * int((moved & large).sum())
    counts.small += [name] * int((~large).sum())
    flags = np.array([face.flags for face in faces], dtype=np.int64).reshape(len(faces), len(document.flag_names))
    return FaceImage(
        path=image.path,
        size=image.size,
        boxes=boxes[large],
        ignored=np.array([face.ignored for face in faces], dtype=np.bool_)[large],
        labelled=image.entry.labelled,
        flags={flag: flags[large, column] for column, flag in enumerate(document.flag_names)},
        image_id=image.entry.image_id,
        url=image.entry.url,
    )


def _kept(path: Path, document: Document, face: Face, name: str, options: ReadOptions, counts: _Counts) -> bool:
    if face.labels is None or _is_face(face.labels, options):
        return True
    if _any_matches(face.labels, options.not_face_labels):
        counts.not_faces.append(name)
    elif document.categories is not None:
        counts.other.append(name)
    else:
        raise FaceExprError(
            f"{path}, {face.where}: the label {', '.join(face.labels)} of a box in {name} is unknown; "
            f"expected one of {', '.join(options.face_labels)} (face_labels) or of "
            f"{', '.join(options.not_face_labels)} (not_face_labels)"
        )
    return False


def _is_face(labels: tuple[str, ...], options: ReadOptions) -> bool:
    return _any_matches(labels, options.face_labels) and not _any_matches(labels, options.not_face_labels)


def _any_matches(labels: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(_plain(label), _plain(pattern)) for label in labels for pattern in patterns)


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())


def _summary(records: list[FaceImage]) -> str:
    with_faces = sum(len(record.boxes) > 0 for record in records)
    faces = sum(len(record.boxes) for record in records)
    ignored = sum(int(record.ignored.sum()) for record in records)
    apart = f" ({ignored:,} marked as not to be counted)" if ignored else ""
    without = len(records) - with_faces
    return f"{counted(with_faces, 'image')} with faces, {without:,} without, {counted(faces, 'face')}{apart}"


def _skipped(count: int, options: ReadOptions) -> list[str]:
    what = "left out" if options.unlabelled == "leave_out" else "taken as images without a face"
    return [f"{counted(count, 'unlabelled image')} {what}"] if count else []


def _told(counts: _Counts, options: ReadOptions) -> list[str]:
    return [
        f"{counted(len(names), 'box')} {what}, in {some(list(dict.fromkeys(names)))}"
        for names, what in (
            (counts.clipped, "clipped to the image"),
            (counts.small, f"without an area or with a side of less than {options.min_size:g} pixels left out"),
            (counts.not_faces, "labelled as no face left out"),
            (counts.other, "of other categories left out"),
        )
        if names
    ]
