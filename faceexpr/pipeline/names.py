"""What the files made from an image are called: safe names, of which no two are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from posixpath import splitext

_DRAWN = (".jpg", ".jpeg", ".png")
_LONGEST = 180  # bytes of a name; file systems take 255, and endings and a temporary name's are added
_DEEPEST = 12  # folders; with longest names these fit what systems take as a path


def below(path: str) -> str:
    """Return a path as a place below a folder, which it cannot leave.

    Args:
        path: with slashes, relative or not; of a file, or of a member of a tar file, which may hold anything.
    """
    parts = [part for part in path.replace("\0", "_").split("/") if part not in ("", ".", "..")]
    return "/".join([_short(part) for part in parts[-1 - _DEEPEST : -1]] + parts[-1:])


def _short(name: str) -> str:
    """Return the name, its end replaced by a number made of the whole where it is too long."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    start = data[: _LONGEST - 20].decode("utf-8", "ignore")
    ending = splitext(name)[1]
    return f"{start}-{hashlib.sha256(data).hexdigest()[:8]}{ending if len(os.fsencode(ending)) <= 10 else ''}"


class Names:
    """Gives names below ``pictures`` and ``crops``.

    A name is taken whatever its case, and no file has the name of a folder.

    Args:
        taken: names that were given before.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._given: dict[str, str] = {"": ""}
        self._numbers: dict[str, int] = {}
        folders = set()
        for name in taken:
            self._files.add(name.casefold())
            folders.add(name.rpartition("/")[0])
        for folder in folders:
            while folder:
                self._folders.add(folder.casefold())
                folder = folder.rpartition("/")[0]

    def free(self, place: str) -> str:
        """Return a name for the place: of a format that can be drawn, and with a number where it is taken."""
        folder, _, name = place.rpartition("/")
        drawn = name if splitext(name)[1].lower() in _DRAWN else f"{name}.jpg"
        start, ending = splitext(_short(drawn))
        found = self._unused(self._folder(folder), start, ending, is_file=True)
        self._files.add(found.casefold())
        return found

    def _folder(self, place: str) -> str:
        """Return the folder that stands for a place; the same for the same place."""
        if place not in self._given:
            parent, _, name = place.rpartition("/")
            found = self._unused(self._folder(parent), name, "", is_file=False)
            self._folders.add(found.casefold())
            self._given[place] = found
        return self._given[place]

    def _unused(self, folder: str, start: str, ending: str, is_file: bool) -> str:
        first = f"{folder}/" if folder else ""
        wanted = candidate = f"{first}{start}{ending}"
        # Among many images of one name the search goes on where it stood.
        number = self._numbers.get(wanted.casefold(), 1)
        while (key := candidate.casefold()) in self._files or (is_file and key in self._folders):
            number += 1
            candidate = f"{first}{start}-{number}{ending}"
        self._numbers[wanted.casefold()] = number
        return candidate
