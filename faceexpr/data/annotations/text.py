"""The text of an annotation file, and JSON read from it without surprises."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from faceexpr.utils.errors import FaceExprError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """Return the text of a file, UTF-8, or UTF-16 or UTF-32 with a byte-order mark; lines end with a line feed alone.

    Raises:
        FaceExprError: the file cannot be read, is empty or holds no such text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FaceExprError(
            f"{path} cannot be read ({error.strerror or error}); expected a file of annotations"
        ) from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FaceExprError(f"{path}, line {line}: not {encoding.upper()}; expected text in UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FaceExprError(f"{path}, line {line}: holds a zero byte; expected text in UTF-8")
    if not text.strip():
        raise FaceExprError(f"{path} is empty; expected annotations")
    return text


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at ``start``, and where it ends.

    Raises:
        ValueError: there is none; the text of the error says why.
    """
    try:
        value: tuple[Any, int] = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _integer(digits: str) -> int:
    # Python refuses thousands of digits with words about its own settings.
    if len(digits) > 30:
        raise ValueError(f"the number {digits[:10]}... has {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


_DECODER = json.JSONDecoder(
    parse_constant=_no_number, parse_int=_integer, parse_float=_finite, object_pairs_hook=_each_key_once
)
"""Refuses what Python's own lets pass: NaN, Infinity and a key given twice."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a whole number, such as 3 or 3.0."""
    return is_number(value) and float(value).is_integer()


def short(value: object) -> str:
    """Return a JSON value as it is written, or its beginning."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
