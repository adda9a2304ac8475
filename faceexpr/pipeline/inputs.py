"""Which images are analysed: those in folders, files, lists and tar files, in an order that is always the same."""

from __future__ import annotations

import codecs
import hashlib
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from posixpath import splitext
from typing import NamedTuple

from faceexpr.pipeline.records import CROPS, EXPLAINED, OPTIONS, PICTURES
from faceexpr.utils.errors import FaceExprError, of_file
from faceexpr.utils.images import EXTENSIONS, ImageError, find_images
from faceexpr.utils.text import counted

STANDARD_INPUT = "-"

_DRAWN = (".jpg", ".jpeg", ".png")
_LONGEST = 180  # bytes of a name; file systems take 255, and endings and a temporary name's are added
_DEEPEST = 12  # folders; with longest names these fit what systems take as a path
_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".lz4")
_LARGEST = 2 << 30  # bytes of a member that are read into memory


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
        places: for each image, as it is called in the results, the place that its drawing would like below
            ``pictures``; in order.
        members: what reads those that are no files of their own.
        own: how many images were left out, because an analysis has written them.
        twice: how many were named more than once, and are taken once.
        others: how many members of tar files are no images.
    """

    places: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
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
        for file in find_images(folder):
            source = str(file)
            if self._is_new(source):
                self.places[source] = prefix + source[start:].replace(os.sep, "/")

    def add_file(self, source: str, place: str) -> None:
        """Add an image file, there or not, or the images of a tar file."""
        if not self._is_new(source):
            return
        if is_tar(source) and not os.path.isdir(source):  # noqa: PTH112 - a million of them
            self._add_tar(source, place)
        else:
            self.places[source] = place

    def _add_tar(self, source: str, place: str) -> None:
        content = read_tar(Path(source))
        for name, member in content.images.items():
            self.places[f"{source}/{name}"] = f"{place}/{place_below(name)}"
            self.members[f"{source}/{name}"] = member
        self.others += content.others
        self.twice += content.replaced
        if damage := content.damage or (None if content.images else "no image in the tar file"):
            self.places[source] = place
            self.members[source] = Member(source, damage=damage)

    def _is_new(self, source: str) -> bool:
        folder, name = os.path.split(source)
        place = f"{self._real_folder(folder)}{os.sep}{name}"
        written, again = self._written(folder), place in self._seen
        self.own += written
        self.twice += again and not written
        self._seen.add(place)
        return not written and not again

    def items(self, names: Mapping[str, str]) -> list[Item]:
        """Return all images in order.

        Args:
            names: those that images have from an earlier run.
        """
        free = Names(names.values())
        return [
            Item(source, names[source] if source in names else free.take(place), self.members.get(source))
            for source, place in self.places.items()
        ]

    def notes(self) -> list[str]:
        """Return in sentences what was left out."""
        notes = []
        if self.own:
            notes.append(f"{counted(self.own, 'image was', 'images were')} written by an analysis left out")
        if self.twice:
            notes.append(f"{counted(self.twice, 'image was', 'images were')} named more than once, and taken once")
        if self.others:
            notes.append(f"{counted(self.others, 'member')} of tar files, which by name are no images, left out")
        return notes


def collect_inputs(paths: Sequence[Path], listed: str | None = None, alone: bool = True) -> Inputs:
    """Find the images that paths mean.

    An image that is meant twice is taken once. Images that an analysis has written are left out, so that the folder of
    the results may be the folder of the images, or lie in it, and what lists them may be run again. Tar files are read
    where they are named themselves.

    Args:
        paths: files and folders; ``-`` is a list at standard input.
        listed: file with further ones, one a line, or ``-``; none of them is a folder.
        alone: this is the only process that reads them.

    Raises:
        FaceExprError: a folder or a list holds no image, a tar file is compressed, or there is nothing at all.
    """
    lists = [STANDARD_INPUT for path in paths if str(path) == STANDARD_INPUT] + ([] if listed is None else [listed])
    paths = [path for path in paths if str(path) != STANDARD_INPUT]
    if not paths and not lists:
        raise FaceExprError("nothing to analyse; expected a PATH of images, or a list of them")
    if len(lists) > 1 and lists[0] == lists[-1]:
        raise FaceExprError("standard input is named more than once; expected it once")
    found = Inputs()
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        if path in folders:
            found.add_folder(path, f"{path.resolve().name}/".lstrip("/") if len(folders) > 1 else "")
        else:
            found.add_file(str(path), place_below(path.name))
    for entry in (entry for place in lists for entry in read_list(place, alone)):
        source = os.fspath(Path(entry))
        found.add_file(source, place_below(source))
    if not found.places:
        raise FaceExprError(
            f"{', '.join([*map(str, paths), *lists])}: the only images there were written by an analysis; expected "
            "images of your own"
        )
    return found


def _is_written_by_analysis(folder: str) -> bool:
    place = Path(folder).absolute()
    return any(
        parent.name in (PICTURES, CROPS, EXPLAINED) and (parent.parent / OPTIONS).is_file()
        for parent in (place, *place.parents)
    )


def digest_items(items: Iterable[Item]) -> str:
    """Return the SHA-256 of the list of images and their names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.source}\0{item.name}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_list(place: str, alone: bool) -> list[str]:
    """Return the paths in a list.

    They are one a line, or end with a NUL as those of ``find -print0`` do, where there is any. Blank lines are left
    out; bytes that are no text are kept.

    Args:
        place: the file, or ``-`` for standard input.
        alone: no other process reads the list. Of several, each would get a part of what can be read but once.

    Raises:
        FaceExprError: the list cannot be read, or has no path.
    """
    shown = "standard input" if place == STANDARD_INPUT else place
    if not alone and (place == STANDARD_INPUT or (Path(place).exists() and not Path(place).is_file())):
        raise FaceExprError(
            f"{shown} can be read once, and each of several processes reads the list; expected the list in a file"
        )
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
    """Return a path as a place below a folder, which it cannot leave.

    Args:
        path: with slashes, relative or not; of a file, or of a member of a tar file, which may hold anything.
    """
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
    """Gives safe names to the files that are made from images; no two are the same.

    A name is taken whatever its case, and no file has the name of a folder.

    Args:
        taken: names that were given before.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._given: dict[str, str] = {"": ""}
        self._numbers: dict[str, int] = {}
        for name in taken:
            self._files.add(name.casefold())
            folder = name.rpartition("/")[0].casefold()
            while folder and folder not in self._folders:
                self._folders.add(folder)
                folder = folder.rpartition("/")[0]

    def take(self, place: str) -> str:
        """Return a name for the place: of a format that can be drawn, and with a number where it is taken."""
        folder, _, name = place.rpartition("/")
        drawn = name if splitext(name)[1].lower() in _DRAWN else f"{name}.jpg"
        start, ending = splitext(_shorten(drawn))
        found = self._find_unused(self._take_folder(folder), start, ending, is_file=True)
        self._files.add(found.casefold())
        return found

    def _take_folder(self, place: str) -> str:
        """Return the folder that stands for a place; the same for the same place."""
        if place not in self._given:
            parent, _, name = place.rpartition("/")
            found = self._find_unused(self._take_folder(parent), name, "", is_file=False)
            self._folders.add(found.casefold())
            self._given[place] = found
        return self._given[place]

    def _find_unused(self, folder: str, start: str, ending: str, is_file: bool) -> str:
        first = f"{folder}/" if folder else ""
        wanted = candidate = f"{first}{start}{ending}"
        # Among many images of one name the search goes on where it stood.
        number = self._numbers.get(wanted.casefold(), 1)
        while (key := candidate.casefold()) in self._files or (is_file and key in self._folders):
            number += 1
            candidate = f"{first}{start}-{number}{ending}"
        self._numbers[wanted.casefold()] = number
        return candidate


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a tar file; a call reads its bytes.

    Args:
        tar: the file.
        start: where the image's bytes begin in it.
        size: how many there are.
        damage: why they cannot be read, of what stands for images that a damaged file should have had.
    """

    tar: str
    start: int = 0
    size: int = 0
    damage: str | None = None

    def __call__(self) -> bytes:
        if self.damage is not None:
            raise ImageError(self.tar, self.damage)
        if self.size > _LARGEST:
            raise ImageError(self.tar, f"a member of {self.size:,} bytes; expected at most {_LARGEST:,}")
        with open(self.tar, "rb", buffering=0) as file:  # noqa: PTH123 - a million of them
            file.seek(self.start)
            return file.read(self.size)


@dataclass
class TarContent:
    """What is in a tar file.

    Attributes:
        images: by the name of the member, in the order in which they lie there; of several of one name the last.
        others: how many members are no images by their name, or hidden, or links to somewhere else.
        replaced: how many images another of the same name comes after.
        damage: why what comes after them cannot be read; None where nothing is missing.
    """

    images: dict[str, Member] = field(default_factory=dict)
    others: int = 0
    replaced: int = 0
    damage: str | None = None


def is_tar(path: str) -> bool:
    """Tell whether a file is a tar file by its name.

    Raises:
        FaceExprError: it is a compressed one.
    """
    start, ending = splitext(path.lower())
    if ending in _COMPRESSED and (start.endswith(".tar") or ending.startswith(".t")):
        raise FaceExprError(
            f"{path} is compressed, and images in the middle of it cannot be read; expected a tar file as it is, which "
            "`gunzip`, `unxz` or the like makes of it"
        )
    return ending == ".tar"


def read_tar(path: Path) -> TarContent:
    """Find the images of a tar file: by their headers alone, in constant memory but for what is returned.

    Members may lie in folders, and may have names of any length and in any of the formats of tar. A hard link to an
    image of the same file is that image again.
    """
    content = TarContent()
    try:
        if not path.exists():
            raise FileNotFoundError
        if not path.is_file():  # reading a pipe or a device might never end
            content.damage = "not a regular file"
            return content
        size = path.stat().st_size
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for member in _members(tar):
                if member.size < 0 or (member.isreg() and member.offset_data + member.size > size):
                    raise tarfile.ReadError("a member that does not end")
                _add_member(member, str(path), content)
            end = tar.offset
        with path.open("rb") as file:
            file.seek(end)
            # `tarfile` takes a header that is damaged or missing for the end, which is a block of zeros.
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end of the archive")
            # Zeros fill an archive up; anything else is another one, as after `cat a.tar b.tar`.
            if any(any(block) for block in iter(lambda: file.read(1 << 20), b"")):
                before = counted(len(content.images), "image")
                content.damage = f"more follows the end of the archive, after {before}; `tar -A` joins several into one"
    except FileNotFoundError:
        content.damage = "no such file"
    except OSError as error:
        content.damage = f"cannot be opened: {error.strerror}"
    except Exception:  # damaged headers make the decoder raise anything, as damaged images do
        found = len(content.images)
        content.damage = (
            f"cut off or damaged after {counted(found, 'image')}" if found else "not a tar file, or damaged"
        )
    return content


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # or it keeps all; Python 3.13 has `stream=True` for this


def _add_member(member: tarfile.TarInfo, tar: str, content: TarContent) -> None:
    name, linked = (
        # As it would be unpacked: without a root and without dots that mean nothing.
        "/".join(part for part in path.split("/") if part not in ("", "."))
        for path in (member.name, member.linkname)
    )
    target = content.images.get(linked) if member.islnk() else None
    if member.isreg() and not member.issparse():
        target = Member(tar, member.offset_data, member.size)
    parts = name.split("/")
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    if target is None or hidden or "\0" in name or splitext(parts[-1])[1].lower() not in EXTENSIONS:
        content.others += not member.isdir()
        return
    content.replaced += content.images.pop(name, None) is not None
    content.images[name] = target
