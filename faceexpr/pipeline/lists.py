"""A list of images as text: a file, or standard input."""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path

from faceexpr.utils.errors import FaceExprError, of_file

STANDARD_INPUT = "-"


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
    if not alone and (place == STANDARD_INPUT or (Path(place).exists() and not Path(place).is_file())):
        what = "standard input" if place == STANDARD_INPUT else place
        raise FaceExprError(
            f"{what} can be read once, and each of several processes reads the list; expected the list in a file, and "
            "--list FILE"
        )
    data = _content(place)
    shown = "standard input" if place == STANDARD_INPUT else place
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FaceExprError(f"{shown} is text in UTF-16; expected a list in UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    entries = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
    found = [entry for entry in entries if entry.strip()]
    if not found:
        raise FaceExprError(f"{shown} has no path; expected a list of images, one a line")
    return found


def _content(place: str) -> bytes:
    try:
        if place != STANDARD_INPUT:
            return Path(place).read_bytes()
        if sys.stdin is None:
            raise FaceExprError("standard input is closed; expected a list of images there, one a line")
        return sys.stdin.buffer.read()
    except OSError as error:
        raise of_file(error) from error


def plain(entry: str) -> str:
    """Return a path without parts that mean nothing."""
    return os.fspath(Path(entry))
