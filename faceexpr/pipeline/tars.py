"""Images in tar files, such as the shards of WebDataset: where each lies, and its bytes; nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import splitext

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import EXTENSIONS, ImageError
from faceexpr.utils.text import counted

_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".lz4")
_LARGEST = 2 << 30  # bytes of a member that are read into memory


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a tar file; a call reads its bytes.

    Args:
        tar: the file.
        start: where the image's bytes begin in it.
        size: how many there are.
    """

    tar: str
    start: int
    size: int

    def __call__(self) -> bytes:
        if self.size > _LARGEST:
            raise ImageError(self.tar, f"a member of {self.size:,} bytes; expected at most {_LARGEST:,}")
        with open(self.tar, "rb", buffering=0) as file:  # noqa: PTH123 - a million of them
            file.seek(self.start)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for the images that a tar file should have had; a call says what is wrong.

    Args:
        tar: the file.
        reason: what is wrong with it.
    """

    tar: str
    reason: str

    def __call__(self) -> bytes:
        raise ImageError(self.tar, self.reason)


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
    name = path.lower()
    start, ending = splitext(name)
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
                _take(member, str(path), content)
            if not _ends_well(tar):
                raise tarfile.ReadError("no end of the archive")
            if _goes_on(tar):
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


def _take(member: tarfile.TarInfo, tar: str, content: TarContent) -> None:
    name = _plain(member.name)
    target = content.images.get(_plain(member.linkname)) if member.islnk() else None
    if member.isreg() and not member.issparse():
        target = Member(tar, member.offset_data, member.size)
    if target is None or not _is_image(name):
        content.others += not member.isdir()
        return
    content.replaced += content.images.pop(name, None) is not None
    content.images[name] = target


def _plain(name: str) -> str:
    """Return the name of a member as it would be unpacked: without a root and without dots that mean nothing."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _is_image(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return not hidden and "\0" not in name and splitext(parts[-1])[1].lower() in EXTENSIONS


def _ends_well(tar: tarfile.TarFile) -> bool:
    # `tarfile` takes a header that is damaged or missing for the end, which is a block of zeros.
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _goes_on(tar: tarfile.TarFile) -> bool:
    # As after `cat a.tar b.tar`; zeros fill an archive up.
    assert tar.fileobj is not None
    while block := tar.fileobj.read(1 << 20):
        if any(block):
            return True
    return False


def member_source(tar: str | os.PathLike[str], name: str) -> str:
    """Return what an image in a tar file is called in the results: ``shard.tar/folder/image.jpg``."""
    return f"{os.fspath(tar)}/{name}"
