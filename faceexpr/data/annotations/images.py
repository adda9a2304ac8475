"""Where the images of a document lie, and how large they really are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faceexpr.data.annotations.document import Document, Entry, ReadOptions
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError, upright_size
from faceexpr.utils.text import counted, some


@dataclass(frozen=True)
class Found:
    """An image of a document.

    Attributes:
        entry: what the document says of it.
        path: its file, or where that was expected.
        size: width and height of the upright picture, (0, 0) where neither the file nor the document tells.
        problem: why the file cannot be used; empty where it can.
    """

    entry: Entry
    path: Path
    size: tuple[int, int]
    problem: str = ""


def find(path: Path, document: Document, images: Path | None, options: ReadOptions) -> tuple[list[Found], list[str]]:
    """Return the images of a document, and notes.

    Args:
        path: the file of annotations.
        document: what it says.
        images: the folder of images; None searches beside the annotations.
        options: ``missing`` decides about images that are not there.

    Raises:
        FaceExprError: the folder does not exist, images are missing that must not be, or several links mean one file.
    """
    if images is not None and not images.is_dir():
        raise FaceExprError(f"{images} is no folder; expected the folder with the images of {path}")
    roots = [images] if images is not None else [path.parent, _above(path.parent)]
    folders = list(dict.fromkeys(root / folder for root in roots for folder in document.folders))
    found = [_look(path, entry, folders) for entry in document.entries]
    notes = [*_shared(path, found)]
    problems = [image for image in found if image.problem]
    if problems:
        told = some([f"{image.path} ({image.problem})" for image in problems], most=10)
        count = f"{len(problems):,} of {counted(len(found), 'image')}"
        if options.missing == "refuse":
            where = f"below {images}" if images is not None else "beside the annotations or in a folder named for them"
            fetch = (
                "; `faceexpr fetch` gets those that have links" if any(image.entry.url for image in problems) else ""
            )
            raise FaceExprError(
                f"{path}: {count} missing or unreadable: {told}; expected them {where}{fetch}; with missing=leave_out "
                "they are left out"
            )
        if options.missing == "leave_out":
            found = [image for image in found if not image.problem]
        kept = "left out" if options.missing == "leave_out" else "kept with the size that is stated"
        notes.append(f"{count} missing or unreadable, {kept}: {told}")
    differing = [image for image in found if not image.problem and image.entry.size not in (None, image.size)]
    if differing:
        told = some([f"{image.path.name} ({_by(image.entry.size)}, really {_by(image.size)})" for image in differing])
        notes.append(f"{counted(len(differing), 'image')} of another size than stated, which the file decides: {told}")
    return found, notes


def _above(folder: Path) -> Path:
    return folder / ".." if folder.name in ("", "..") else folder.parent


def _look(path: Path, entry: Entry, folders: Sequence[Path]) -> Found:
    for name in entry.names:
        try:
            name.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and no file system keeps
            raise FaceExprError(f"{path}, {entry.where}: {name!r} is no file name") from None
    candidates = [folder / name for folder in folders for name in entry.names if "\0" not in name]
    if not candidates:
        raise FaceExprError(f"{path}, {entry.where}: {entry.names[0]!r} is no file name")
    file = next(filter(_is_file, candidates), None)
    stated = entry.size or (0, 0)
    if file is None:
        return Found(entry, candidates[0], stated, "no such file")
    try:
        return Found(entry, file, upright_size(file))
    except ImageError as error:
        return Found(entry, file, stated, error.reason)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False


def _shared(path: Path, found: list[Found]) -> list[str]:
    """Refuse files that several links mean, since only one of them can be right, and note images named twice."""
    first: dict[Path, Found] = {}
    repeated: list[str] = []
    for image in found:
        before = first.setdefault(image.path, image)
        if before is image:
            continue
        if image.entry.url != before.entry.url:
            raise FaceExprError(
                f"{path}: {image.path} would be the image of {before.entry.where} and of {image.entry.where}, whose "
                "links differ; expected a file for each, named as `faceexpr fetch` names them"
            )
        repeated.append(str(image.path))
    return [f"{counted(len(repeated), 'image')} named again: {some(repeated)}"] if repeated else []


def _by(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))
