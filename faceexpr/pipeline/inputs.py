"""Which images are analysed: those in folders, files, lists and tar files, in an order that is always the same."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path, PurePosixPath
from posixpath import splitext
from typing import NamedTuple, NoReturn

from faceexpr.pipeline.records import CROPS, EXPLAINED, OPTIONS, PICTURES
from faceexpr.utils.errors import FaceExprError, of_file
from faceexpr.utils.images import EXTENSIONS, ImageError, find_images
from faceexpr.utils.text import counted

STANDARD_INPUT = "-"

VIDEOS = re.compile(
    r".*://.*|.*\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|m?ts|m2ts|wmv|flv|3gp|ogv|mjpeg|h26[45]|nut|vob)", re.I | re.S
)
"""Paths that are videos, by their endings, or streams."""

_DRAWN = (".jpg", ".jpeg", ".png")
_LONGEST = 180  # bytes of a name; file systems take 255, and endings and a temporary name's are added
_DEEPEST = 12  # folders; with longest names these fit what systems take as a path
_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".lz4")


class Item(NamedTuple):
    """An image to analyse.

    Attributes:
        source: its path, or what it is called in the results.
        name: of the files that are made from it.
        read: reads its bytes where it is no file of its own.
    """

    source: str
    name: str
    read: Callable[[], bytes] | None


@dataclass
class Inputs:
    """The images to analyse.

    Attributes:
        images: for each image, as it is called in the results, the place that its drawing would like below
            ``pictures``, and what reads its bytes where it is no file of its own; in order.
        own: how many images were left out, because an analysis has written them.
        twice: how many were named more than once, and are taken once.
        others: how many members of tar files are no images.
    """

    images: dict[str, tuple[str, Callable[[], bytes] | None]] = field(default_factory=dict)
    own: int = 0
    twice: int = 0
    others: int = 0

    def __post_init__(self) -> None:
        # A link to a file is an image of its own, whose folder has many ways in.
        self._seen: set[str] = set()
        self._real_folder = cache(os.path.realpath)
        self._written = cache(_is_written_by_analysis)

    def add_folder(self, folder: Path, prefix: str) -> None:
        """Add the images in a folder and its subfolders; ``prefix`` begins the places of their drawings."""
        start = len(str(folder / "x")) - 1
        for source in map(str, find_images(folder)):
            if self._is_new(source):
                self.images[source] = prefix + source[start:].replace(os.sep, "/"), None

    def add_file(self, source: str, place: str) -> None:
        """Add an image file, there or not, or the images of a tar file."""
        if not self._is_new(source):
            return
        if not is_tar(source) or not os.path.isfile(source):  # noqa: PTH113 - a million of them
            self.images[source] = place, None  # reading it says what is wrong, such as that it is a pipe
            return
        before = len(self.images)
        damage = self._add_members(source, place)
        if damage is None and len(self.images) == before:
            damage = "no image in the tar file"
        if damage is not None:
            self.images[source] = place, partial(_refuse, source, damage)

    def _add_members(self, tar: str, place: str) -> str | None:
        """Add the images of a tar file, found by their headers alone; return why what comes after them is missing.

        Members may lie in folders, and may have names of any length and in any of the formats of tar. A hard link to an
        image of the same file is that image again. Of several of one name the last counts.
        """
        size, before = Path(tar).stat().st_size, len(self.images)
        try:
            with (
                Path(tar).open("rb") as file,
                tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive,
            ):
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # Python 3.13 has `stream=True` for this
                    if member.size < 0 or (member.isreg() and member.offset_data + member.size > size):
                        raise tarfile.ReadError("a member that does not end")
                    self._add_member(member, tar, place)
                file.seek(archive.offset)
                # `tarfile` takes a header that is damaged or missing for the end, which is a block of zeros.
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no end of the archive")
                # Zeros fill an archive up; anything else is another one, as after `cat a.tar b.tar`.
                if any(map(any, iter(lambda: file.read(1 << 20), b""))):
                    found = counted(len(self.images) - before, "image")
                    return f"more follows the end of the archive, after {found}; `tar -A` joins several into one"
        except OSError as error:
            return f"cannot be opened: {error.strerror}"
        except Exception:  # damaged headers make the decoder raise anything, as damaged images do
            number = len(self.images) - before
            return f"cut off or damaged after {counted(number, 'image')}" if number else "not a tar file, or damaged"
        return None

    def _add_member(self, member: tarfile.TarInfo, tar: str, place: str) -> None:
        # As it would be unpacked: without a root and without dots that mean nothing.
        parts, linked = (
            [part for part in path.split("/") if part not in ("", ".")] for path in (member.name, member.linkname)
        )
        source = "/".join([tar, *parts])
        read: Callable[[], bytes] | None = None
        if member.islnk():
            _, read = self.images.get("/".join([tar, *linked]), ("", None))
        elif member.isreg() and not member.issparse():
            read = partial(_read_member, tar, member.offset_data, member.size)
        hidden = any(part.startswith(".") and part != ".." for part in parts)
        if read is None or hidden or "\0" in member.name or splitext(source)[1].lower() not in EXTENSIONS:
            self.others += not member.isdir()
            return
        self.twice += self.images.pop(source, None) is not None
        self.images[source] = f"{place}/{place_below(member.name)}", read

    def _is_new(self, source: str) -> bool:
        folder, name = os.path.split(source)
        place = f"{self._real_folder(folder)}{os.sep}{name}"
        written, again = self._written(folder), place in self._seen
        self.own += written
        self.twice += again and not written
        self._seen.add(place)
        return not written and not again

    def items(self, names: Mapping[str, str]) -> list[Item]:
        """Return all images in order; ``names`` are those that images have from an earlier run."""
        free = Names(names.values())
        return [
            Item(source, names[source] if source in names else free.take(place), read)
            for source, (place, read) in self.images.items()
        ]

    def digest(self) -> str:
        """Return the SHA-256 of the list of images, in hexadecimal digits."""
        digest = hashlib.sha256()
        for source, (place, _) in self.images.items():
            digest.update(f"{source}\0{place}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def notes(self) -> list[str]:
        """Return in sentences what was left out."""
        notes = {
            f"{counted(self.own, 'image was', 'images were')} written by an analysis left out": self.own,
            f"{counted(self.twice, 'image was', 'images were')} named more than once, and taken once": self.twice,
            f"{counted(self.others, 'member')} of tar files, which by name are no images, left out": self.others,
        }
        return [note for note, number in notes.items() if number]


def collect_inputs(paths: Sequence[Path], listed: str | None = None) -> Inputs:
    """Find the images that paths mean.

    An image that is meant twice is taken once. Images that an analysis has written are left out, so that its results
    may lie in the folder of the images. Tar files are read where they are named themselves.

    Args:
        paths: files and folders; ``-`` is a list at standard input.
        listed: file with further ones, one a line, or ``-``; none of them is a folder.

    Raises:
        FaceExprError: a folder or a list holds no image, a tar file is compressed, or there is nothing at all.
    """
    lists = [str(path) for path in paths if str(path) == STANDARD_INPUT] + ([] if listed is None else [listed])
    paths = [path for path in paths if str(path) != STANDARD_INPUT]
    if not paths and not lists:
        raise FaceExprError("nothing to analyse; expected a PATH of images, or a list of them")
    if lists.count(STANDARD_INPUT) > 1:
        raise FaceExprError("standard input is named more than once; expected it once")
    found = Inputs()
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        if path in folders:
            found.add_folder(path, f"{path.resolve().name}/".lstrip("/") if len(folders) > 1 else "")
        else:
            found.add_file(str(path), place_below(path.name))
    for place in lists:
        for entry in read_list(place):
            source = os.fspath(Path(entry))
            found.add_file(source, place_below(source))
    if not found.images:
        raise FaceExprError(
            f"{', '.join([*map(str, paths), *lists])}: the only images there were written by an analysis; expected "
            "images of your own"
        )
    return found


def _is_written_by_analysis(folder: str) -> bool:
    place = Path(folder).absolute()
    drawn = (parent for parent in (place, *place.parents) if parent.name in (PICTURES, CROPS, EXPLAINED))
    return any((parent.parent / OPTIONS).is_file() for parent in drawn)


def read_list(place: str) -> list[str]:
    """Return the paths in a list: a file, or standard input where ``place`` is ``-``.

    They are one a line, or end with a NUL as those of ``find -print0`` do, where there is any. Blank lines are left
    out; bytes that are no text are kept. A list that cannot be read, or has no path, is a `FaceExprError`.
    """
    shown = "standard input" if place == STANDARD_INPUT else place
    if place == STANDARD_INPUT and sys.stdin is None:
        raise FaceExprError("standard input is closed; expected a list of images there, one a line")
    try:
        data = sys.stdin.buffer.read() if place == STANDARD_INPUT else Path(place).read_bytes()
    except OSError as error:
        raise of_file(error) from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FaceExprError(f"{shown} is text in UTF-16; expected a list in UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    entries = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
    found = [entry for entry in entries if entry.strip()]
    if not found:
        raise FaceExprError(f"{shown} has no path; expected a list of images, one a line")
    return found


def place_below(path: str) -> str:
    """Return a path, which may hold anything, as a place below a folder, which it cannot leave."""
    parts = [part for part in path.replace("\0", "_").split("/") if part not in ("", ".", "..")]
    return "/".join([_shorten(part) for part in parts[-1 - _DEEPEST : -1]] + parts[-1:])


def _shorten(name: str) -> str:
    """Return the name, its end replaced by a number made of the whole where it is too long."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    start = data[: _LONGEST - 20].decode("utf-8", "ignore")
    ending = splitext(name)[1]
    return f"{start}-{hashlib.sha256(data).hexdigest()[:8]}{ending if len(os.fsencode(ending)) <= 10 else ''}"


class Names:
    """Gives safe names to files made from images: no two are the same, whatever their case, and none is a folder's.

    Args:
        taken: names that were given before.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._files = {name.casefold() for name in taken}
        folders = {PurePosixPath(name.rpartition("/")[0]) for name in self._files}
        self._folders = {str(place) for folder in folders for place in (folder, *folder.parents)}
        self._given: dict[str, str] = {"": ""}
        self._numbers: dict[str, int] = {}

    def take(self, place: str) -> str:
        """Return a name for the place: of a format that can be drawn, and with a number where it is taken."""
        folder, _, name = place.rpartition("/")
        drawn = name if splitext(name)[1].lower() in _DRAWN else f"{name}.jpg"
        found = self._find_unused(*splitext(self._find_folder(folder) + _shorten(drawn)), is_file=True)
        self._files.add(found.casefold())
        return found

    def _find_folder(self, place: str) -> str:
        """Return the folder that stands for a place, with a slash at its end; the same for the same place."""
        if place not in self._given:
            parent, _, name = place.rpartition("/")
            found = self._find_unused(self._find_folder(parent) + name, "", is_file=False)
            self._folders.add(found.casefold())
            self._given[place] = f"{found}/"
        return self._given[place]

    def _find_unused(self, start: str, ending: str, is_file: bool) -> str:
        wanted = candidate = start + ending
        # Among many images of one name the search goes on where it stood.
        number = self._numbers.get(wanted.casefold(), 1)
        while (key := candidate.casefold()) in self._files or (is_file and key in self._folders):
            number += 1
            candidate = f"{start}-{number}{ending}"
        self._numbers[wanted.casefold()] = number
        return candidate


def is_tar(path: str) -> bool:
    """Tell whether a file is a tar file by its name; a `FaceExprError` where it is a compressed one."""
    start, ending = splitext(path.lower())
    if ending in _COMPRESSED and (start.endswith(".tar") or ending.startswith(".t")):
        raise FaceExprError(
            f"{path} is compressed, and images in the middle of it cannot be read; expected a tar file as it is, which "
            "`gunzip`, `unxz` or the like makes of it"
        )
    return ending == ".tar"


def _read_member(tar: str, start: int, size: int) -> bytes:
    with open(tar, "rb", buffering=0) as file:  # noqa: PTH123 - a million of them
        file.seek(start)
        return file.read(size)


def _refuse(source: str, reason: str) -> NoReturn:
    raise ImageError(source, reason)
