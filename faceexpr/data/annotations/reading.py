"""Read box annotations of any format into the same records: tell the format, find the images, keep boxes of faces.

A format hands over a `Document` of `Entry` and `Face`; whoever reads it gets `Annotations` of `AnnotatedImage`, and may
write these in another format.
"""

from __future__ import annotations

import codecs
import os
import pkgutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from faceexpr.data import annotations as formats
from faceexpr.data.annotations.parsing import IGNORED, parse_size, shorten
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file
from faceexpr.utils.images import ImageError, upright_size
from faceexpr.utils.text import counted, some

_HEAD = 65_536
"""Characters by which a format is told."""

_TOLERANCE = 0.01
"""Pixels by which a corner may lie outside for no more reason than rounding."""

_SAME_FACE = 0.5
"""Overlap (intersection over union) from which two boxes of an image that is named twice are of the same face."""

_MARKS = {
    "utf-8-sig": (codecs.BOM_UTF8,),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


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
            FACE) or as a crowd (COCO), or smaller than is asked for.
        labelled: False where the annotator has skipped the image, so that nothing is known of its faces.
        flags: further columns of the format, one value a face each, such as WIDER FACE's ``blur``.
        image_id: the id of the image in its file, where the format has ids.
        url: where the image can be fetched, where the format says so.
        clipped: the corners, as the file has them, of the faces that do not lie inside the image or have no area.
    """

    path: Path
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    ignored: NDArray[np.bool_]
    labelled: bool = True
    flags: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    image_id: int | None = None
    url: str | None = None
    clipped: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Annotations:
    """What a file of annotations holds.

    Attributes:
        images: one record an image, in the order of the file.
        notes: what was left out or changed and how often, in sentences for the user.
        category_id: COCO's id of the category that the boxes of faces have, with which results for this file are
            written; 1 elsewhere.
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
        min_size: faces with a side of fewer pixels, after clipping to the image, are ignored: neither missed nor false
            when they are measured, and painted over in training, so that they are neither faces nor background.
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
        size: width and height as stated, whatever values these are; None or 0 where they are not.
        labelled: False where the annotator has skipped the image.
        image_id: as in `AnnotatedImage`.
        url: as in `AnnotatedImage`.
    """

    where: str
    names: tuple[str, ...]
    faces: tuple[Face, ...]
    size: tuple[object, object] = (None, None)
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
        others: boxes of others than faces are to be expected, though no categories are declared.
        no_boxes: shapes that are none and were left out.
        notes: remarks of the reader, as phrases.
    """

    entries: tuple[Entry, ...]
    folders: tuple[str, ...] = ("", "images")
    fractions: bool = False
    flag_names: tuple[str, ...] = ()
    categories: Mapping[str, int] | None = None
    others: bool = False
    no_boxes: int = 0
    notes: tuple[str, ...] = ()


class Format(Protocol):
    """What a module of this folder needs to be a format; the name of the module is that of the format.

    One that has a file for each image has ``PARTS`` too: the folder within that of the data set where they lie, where
    it is there, and their ending. Their paths below it are those of the images.
    """

    NAME: str
    PARTS: tuple[str, str]

    def recognises(self, head: str) -> bool:
        """Tell by the first characters of a file whether it is in this format."""

    def read(self, path: Path, text: str) -> Document:
        """Return what the file says; ``path`` is for messages and for guesses at the images' folder."""

    def write(self, images: Sequence[AnnotatedImage]) -> Iterable[tuple[str, str]]:
        """Yield the names of files and their texts, given images whose paths are to be written as they are."""


def known_formats() -> dict[str, Format]:
    """Return every format by its name: each module of this folder that can recognise one."""
    names = sorted(module.name for module in pkgutil.iter_modules(formats.__path__))
    modules: dict[str, Any] = {name: import_module(f"{formats.__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "recognises")}


def read_annotations(
    path: Path, images: Path | None = None, format: str = "auto", options: ReadOptions | None = None
) -> Annotations:
    """Read box annotations.

    Args:
        path: the file, whose name does not matter, or the folder with a file for each image.
        images: folder of the images; None searches beside the file, as the format's layout suggests.
        format: ``auto`` tells it by the content; else the name of a format, such as ``coco``.
        options: what counts as a face, and what becomes of images that are missing or unlabelled.

    Raises:
        FaceExprError: the file cannot be read as annotations, images are missing, a label is unknown, or nothing is
            left.
    """
    return _Collector(path, read_document(path, format), options or ReadOptions()).collect(images)


def read_document(path: Path, format: str = "auto") -> Document:
    """Read what a file of box annotations says, as `read_annotations` does, without looking at images.

    Raises:
        FaceExprError: the file cannot be read as annotations.
    """
    known = known_formats()
    if format != "auto" and format not in known:
        raise FaceExprError(f"format is {format!r}; expected auto, {', '.join(known)}")
    if path.is_dir():
        return _read_folder(path, [known[format]] if format in known else [*known.values()], format == "auto")
    text = _read_text(path)
    fitting = (one for one in known.values() if one.recognises(text[:_HEAD]))
    chosen = known.get(format) or next(fitting, None)
    if chosen is None:
        names = ", ".join(one.NAME for one in known.values())
        raise FaceExprError(f"{path} is in no format known here; expected {names}")
    return chosen.read(path, text)


def _read_folder(folder: Path, formats: Sequence[Format], by_content: bool) -> Document:
    """Read a file for each image, below the folder; the names of images are those in the files, or below these."""
    kinds = [one for one in formats if hasattr(one, "PARTS")]
    for one in kinds:
        base = folder / one.PARTS[0] if (folder / one.PARTS[0]).is_dir() else folder
        files = sorted(file for file in base.rglob(f"*{one.PARTS[1]}") if file.is_file())
        if not files or (by_content and not any(one.recognises(_read_text(file, True)[:_HEAD]) for file in files)):
            continue
        documents = [one.read(file, _read_text(file, True)) for file in files]
        entries = []
        for file, document in zip(files, documents, strict=True):
            below = file.parent.relative_to(base)
            for entry in document.entries:
                names = dict.fromkeys([*(os.path.normpath(below / name) for name in entry.names), *entry.names])
                where = f"{below / file.name}, {entry.where}"
                entries.append(replace(entry, where=where, names=tuple(names)))
        no_boxes = sum(document.no_boxes for document in documents)
        return replace(documents[0], entries=tuple(entries), no_boxes=no_boxes)
    expected = ", ".join(one.NAME for one in kinds) or "a file for this format"
    raise FaceExprError(f"{folder} is a folder without annotations; expected {expected}")


def write_annotations(images: Sequence[AnnotatedImage], format: str, out: Path) -> tuple[Path, Path]:
    """Write images with their faces in a format, and read them again, whether all are there and no box has moved.

    Args:
        images: as `read_annotations` has given them; their labels are now those of faces.
        format: the name of a format, such as ``coco``.
        out: folder for the files.

    Returns:
        What to read, a file or a folder, and the folder of all images, from which on they are named.

    Raises:
        FaceExprError: the format cannot hold what is to be written, or the folder holds other annotations.
    """
    known = known_formats()
    if format not in known:
        raise FaceExprError(f"write is {format!r}; expected {', '.join(known)}")
    root = Path(os.path.commonpath([_place(image).parent for image in images]))
    named = [replace(image, path=_place(image).relative_to(root)) for image in images]
    files = [*known[format].write(named)]
    for name, text in files:
        write_file(out / name, text)
    place = out if hasattr(known[format], "PARTS") else out / files[0][0]
    options = ReadOptions(min_size=0, missing="keep")
    again = {_place(image): image for image in read_annotations(place, root, format, options).images}
    wrong = [image.path.name for image in images if not _equal(image, again.pop(_place(image), None))]
    wrong += [image.path.name for image in again.values()]
    if wrong:
        raise FaceExprError(
            f"{place} reads otherwise than it was written, in {some(wrong)}; expected an empty folder, and images "
            "whose names differ by more than their endings"
        )
    return place, root


def _place(image: AnnotatedImage) -> Path:
    return Path(os.path.normpath(image.path.absolute()))  # links to elsewhere keep their names


def _equal(image: AnnotatedImage, other: AnnotatedImage | None) -> bool:
    return (
        other is not None
        and np.array_equal(image.ignored, other.ignored)
        and np.allclose(image.boxes, other.boxes, rtol=0, atol=_TOLERANCE)
    )


def _read_text(path: Path, may_be_empty: bool = False) -> str:
    """Return text in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark; lines end with a line feed alone."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FaceExprError(f"{path} cannot be read ({error.strerror}); expected a file of annotations") from error
    encoding = next((name for name, marks in _MARKS.items() if content.startswith(marks)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FaceExprError(f"{path}, line {line}: not {encoding.upper()}; expected text in UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FaceExprError(f"{path}, line {line}: holds a zero byte; expected text in UTF-8")
    if not text.strip() and not may_be_empty:
        raise FaceExprError(f"{path} is empty; expected annotations")
    return text


@dataclass(frozen=True)
class _Found:
    """An image of a document: its file, its real size as for `AnnotatedImage`, and why the file cannot be used."""

    entry: Entry
    path: Path
    size: tuple[int, int]
    problem: str = ""


class _Collector:
    """Turn what a file says into records that hold: boxes of faces only, inside their image.

    Args:
        path: the file of annotations, for messages.
        document: what it says.
        options: how it is to be read.
    """

    def __init__(self, path: Path, document: Document, options: ReadOptions) -> None:
        self.path, self.document, self.options = path, document, options
        self.notes = list(document.notes)
        if document.no_boxes:
            self.notes.append(f"{counted(document.no_boxes, 'shape')} that are no boxes left out")
        # What became of boxes, with the names of their images, once a box.
        self.fates: dict[str, list[str]] = defaultdict(list)

    def collect(self, images: Path | None) -> Annotations:
        """Return the records; ``images`` is the folder of images, None searches beside the annotations."""
        category_id = self._face_category()
        entries = self.document.entries
        skipped = sum(not entry.labelled for entry in entries)
        leave_out = self.options.unlabelled == "leave_out"
        if skipped:
            fate = "left out" if leave_out else "taken as images without a face"
            self.notes.append(f"{counted(skipped, 'unlabelled image')} {fate}")
        wanted = [entry for entry in entries if entry.labelled or not leave_out]
        records = [self._record(image) for image in self._find(wanted, images)]
        if not records:
            raise FaceExprError(f"{self.path}: none of its {len(entries):,} images is left; expected at least one")
        for fate, names in self.fates.items():
            self.notes.append(f"{counted(len(names), 'box')} {fate}, in {some(list(dict.fromkeys(names)))}")
        notes = [_summary(records), *self.notes]
        return Annotations(records, tuple(f"{self.path}: {note}" for note in notes), category_id)

    def _face_category(self) -> int:
        boxes = [face for entry in self.document.entries for face in entry.faces]
        used = Counter(label for face in boxes for label in face.labels or ())
        declared = self.document.categories
        if declared is None and (not self.document.others or not used or any(face.labels is None for face in boxes)):
            return 1
        faces = [name for name in (used if declared is None else declared) if self._is_face((name,))]
        if not faces:
            names = some(sorted(used if declared is None else declared), most=10) or "none"
            raise FaceExprError(
                f"{self.path}: none of its categories means a face ({names}); expected one of "
                f"{', '.join(self.options.face_labels)}, or face_labels that name it"
            )
        if declared is None:
            return 1
        chosen = max(faces, key=used.__getitem__)  # one that only groups others has no boxes
        if sum(used[name] > 0 for name in faces) > 1:
            names = some([name for name in faces if used[name]])
            self.notes.append(f"several categories are taken as faces ({names}); results are written as {chosen}")
        return declared[chosen]

    def _find(self, entries: Sequence[Entry], images: Path | None) -> list[_Found]:
        """Find the images, and note which are missing, named again or of another size than stated."""
        if images is not None and not images.is_dir():
            raise FaceExprError(f"{images} is no folder; expected the folder with the images of {self.path}")
        beside = self.path if self.path.is_dir() else self.path.parent
        above = beside / ".." if beside.name in ("", "..") else beside.parent
        roots = [beside, above] if images is None else [images]
        folders = list(dict.fromkeys(root / folder for root in roots for folder in self.document.folders))
        found = self._join([self._look(entry, folders) for entry in entries])
        broken = [image for image in found if image.problem]
        if broken:
            count = f"{len(broken):,} of {counted(len(found), 'image')} missing or unreadable"
            names = some([f"{image.path} ({image.problem})" for image in broken], most=10)
            refuses = self.options.missing == "refuse"
            if refuses or (self.options.missing == "leave_out" and len(broken) == len(found)):
                usual = "beside the annotations, in a folder named for them, or in that which images names"
                where = f"below {images}" if images else usual
                linked = any(image.entry.url for image in broken)
                fetch = "; `faceexpr fetch` gets those that have links" if linked else ""
                left = "; with missing=leave_out they are left out" if refuses else ""
                raise FaceExprError(f"{self.path}: {count}: {names}; expected them {where}{fetch}{left}")
            if self.options.missing == "leave_out":
                found = [image for image in found if not image.problem]
            fate = "left out" if self.options.missing == "leave_out" else "kept with the size that is stated"
            self.notes.append(f"{count}, {fate}: {names}")
        differing = [
            "{} ({}x{}, really {}x{})".format(image.path.name, *map(shorten, image.entry.size), *image.size)
            for image in found
            if any(image.entry.size) and not image.problem and image.entry.size != image.size
        ]
        if differing:
            count = counted(len(differing), "image")
            self.notes.append(f"{count} of another size than stated, which the file decides: {some(differing)}")
        return found

    def _look(self, entry: Entry, folders: Sequence[Path]) -> _Found:
        candidates = [folder / name for folder in folders for name in entry.names]
        # Not Path.is_file, which raises for a name that is too long or that no file system keeps.
        file = next(filter(os.path.isfile, candidates), None)
        stated = parse_size(*entry.size) or (0, 0)
        if file is None:
            return _Found(entry, candidates[0], stated, "no such file")
        try:
            return _Found(entry, file, upright_size(file))
        except ImageError as error:
            return _Found(entry, file, stated, error.reason)

    def _join(self, found: list[_Found]) -> list[_Found]:
        """Return each image once, with the faces of all entries for it; refuse entries whose links or ids differ."""
        joined: dict[str, _Found] = {}
        repeated: list[str] = []
        for image in found:
            place = os.path.normpath(image.path)
            before = joined.setdefault(place, image)
            if before is image:
                continue
            old, new = before.entry, image.entry
            if old.url != new.url or old.image_id != new.image_id:
                differ = "links" if old.url != new.url else "ids"
                raise FaceExprError(
                    f"{self.path}: {image.path} would be the image of {old.where} and of {new.where}, whose {differ} "
                    "differ; expected a file (for links named as `faceexpr fetch` names it) and an id for each image"
                )
            known = [face for face in old.faces if self._is_face(face.labels)]
            faces = [
                face
                for face in new.faces
                if not self._is_face(face.labels) or all(_overlap(face, other) < _SAME_FACE for other in known)
            ]
            if len(faces) < len(new.faces):
                self.fates["marked again, and kept once"] += [image.path.name] * (len(new.faces) - len(faces))
            entry = replace(old, faces=(*old.faces, *faces), labelled=old.labelled or new.labelled)
            joined[place] = replace(before, entry=entry)
            repeated.append(str(image.path))
        if repeated:
            self.notes.append(f"{counted(len(repeated), 'image')} named again, the faces joined: {some(repeated)}")
        return list(joined.values())

    def _record(self, image: _Found) -> AnnotatedImage:
        name = image.path.name
        faces = [face for face in image.entry.faces if self._keep(face, name)]
        if faces and image.size == (0, 0):
            raise FaceExprError(
                f"{self.path}, {image.entry.where}: the size of {image.path} is unknown, as it is missing or "
                "unreadable and the annotation does not tell; expected the image, or missing: leave_out"
            )
        corners = np.array([face.corners for face in faces], dtype=np.float64).reshape(-1, 4)
        limits = np.array([*image.size, *image.size], dtype=np.float64)
        corners = corners * limits if self.document.fractions else corners
        boxes = np.clip(corners, 0, limits).astype(np.float32)
        sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
        kept, small = sides > 0, (sides > 0) & (sides < self.options.min_size)
        moved = (np.abs(boxes - corners) > _TOLERANCE).any(axis=1)
        ignored = f"with a side of less than {self.options.min_size:g} pixels ignored"
        for fate, which in (
            ("clipped to the image", moved & kept),
            ("without an area left out", ~kept),
            (ignored, small),
        ):
            if which.any():
                self.fates[fate] += [name] * int(which.sum())
        columns = self.document.flag_names
        flags = np.array([face.flags for face in faces], dtype=np.int64).reshape(len(faces), len(columns))
        return AnnotatedImage(
            path=image.path,
            size=image.size,
            boxes=boxes[kept],
            ignored=(np.array([_is_ignored(face) for face in faces], dtype=np.bool_) | small)[kept],
            labelled=image.entry.labelled,
            flags={flag: flags[kept, column] for column, flag in enumerate(columns)},
            image_id=image.entry.image_id,
            url=image.entry.url,
            clipped=tuple(map(tuple, corners[moved | ~kept].tolist())),
        )

    def _keep(self, face: Face, name: str) -> bool:
        labels = face.labels or ()
        if self._is_face(face.labels):
            return True
        if _any_matches(labels, self.options.not_face_labels):
            self.fates["labelled as no face left out"].append(name)
        elif self.document.categories is not None or self.document.others:
            self.fates["of other categories left out"].append(name)
        else:
            raise FaceExprError(
                f"{self.path}, {face.where}: the label {', '.join(labels)} of a box in {name} is unknown; "
                f"expected one of {', '.join(self.options.face_labels)} (face_labels) or of "
                f"{', '.join(self.options.not_face_labels)} (not_face_labels)"
            )
        return False

    def _is_face(self, labels: tuple[str, ...] | None) -> bool:
        if labels is None:
            return True
        means_face = _any_matches(labels, (*self.options.face_labels, IGNORED))
        return means_face and not _any_matches(labels, self.options.not_face_labels)


def _is_ignored(face: Face) -> bool:
    return face.ignored or _any_matches(face.labels or (), (IGNORED,))


def _overlap(one: Face, other: Face) -> float:
    """Return the intersection over union of two boxes."""
    box = np.array([one.corners, other.corners])
    shared = np.prod(np.maximum(box[:, 2:].min(axis=0) - box[:, :2].max(axis=0), 0))
    return float(shared / max(np.prod(box[:, 2:] - box[:, :2], axis=1).sum() - shared, 1e-12))


def _any_matches(labels: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(_plain(label), _plain(pattern)) for label in labels for pattern in patterns)


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())


def _summary(records: list[AnnotatedImage]) -> str:
    ignored = np.concatenate([record.ignored for record in records])
    without = sum(not len(record.boxes) for record in records)
    apart = f" ({ignored.sum():,} marked as not to be counted)" if ignored.any() else ""
    found = counted(len(records) - without, "image")
    return f"{found} with faces, {without:,} without, {counted(len(ignored), 'face')}{apart}"
