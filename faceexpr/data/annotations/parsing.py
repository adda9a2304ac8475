"""Values that formats share: JSON and XML read without surprises, coordinates, sizes, and the file names of links."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeGuard
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import EXTENSIONS

LARGEST = 1_000_000
"""No image has a longer side; in float32, boxes are exact to 1/16 of a pixel up to there."""

FACE, IGNORED = "face", "ignored face"
"""Labels that are written. The second is read in every format, and needed where it has no mark for ignored faces."""

_FAR = 1e9
"""Pixels beyond which a coordinate is none."""

_LONGEST = 50
"""Characters of a stem; four bytes each, they leave room for the rest in the 255 bytes of a file name."""

_NUMBER = re.compile(r"[+-]?([0-9]{1,30}\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def decode_json(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at ``start``, and where it ends.

    Raises:
        ValueError: there is none (`json.JSONDecodeError` with the place), or one that JSON does not have.
    """
    try:
        value: tuple[Any, int] = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def decode_whole(path: Path, text: str, expected: str) -> Any:
    """Return the one JSON value that a file's text is.

    Raises:
        FaceExprError: it is none, or has text after it; the message names the line and ends with what is expected.
    """
    try:
        value, end = decode_json(text, len(text) - len(text.lstrip()))
    except json.JSONDecodeError as error:
        raise FaceExprError(f"{path}, line {error.lineno}: cut off or no JSON ({error.msg}); {expected}") from error
    except ValueError as error:
        raise FaceExprError(f"{path}: {error}; {expected}") from error
    if text[end:].strip():
        line = text.count("\n", 0, end) + 1
        raise FaceExprError(f"{path}, line {line}: text follows the end of the JSON; {expected}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _parse_integer(digits: str) -> int:
    # Python refuses thousands of digits with words about its own settings.
    if len(digits) > 30:
        raise ValueError(f"the number {digits[:10]}... has {len(digits):,} digits")
    return int(digits)


def _parse_float(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"the number {digits[:20]} is too large")
    return float(digits)


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in pairs:
        if name in record:
            raise ValueError(f"the key {name!r} is given twice")
        record[name] = value
    return record


# Refuses what Python's own lets pass: NaN, Infinity and a key given twice.
_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant,
    parse_int=_parse_integer,
    parse_float=_parse_float,
    object_pairs_hook=_refuse_repeated_keys,
)


def parse_xml(path: Path, text: str, root: str) -> ElementTree.Element:
    """Return the root of an XML document, which has this name and no entities of its own.

    Raises:
        FaceExprError: it is something else; the message names the line.
    """
    if "<!DOCTYPE" in text:  # without one, nothing can be defined that grows or that lies elsewhere
        raise FaceExprError(f"{path}: has a DOCTYPE, which could define entities; expected XML without one")
    try:
        element = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise FaceExprError(f"{path}, line {error.position[0]}: no XML ({error}); expected <{root}>") from error
    if element.tag != root:
        raise FaceExprError(f"{path}: the XML begins with <{element.tag[:80]}>; expected <{root}>")
    return element


def begins_xml(head: str, root: str) -> bool:
    """Tell whether a text is XML whose first element has this name."""
    first = re.search(r"<([^\s<>?!/]+)", head)
    return head.lstrip().startswith("<") and first is not None and first[1] == root


def write_xml(element: ElementTree.Element) -> str:
    """Return an element as an indented document."""
    ElementTree.indent(element)
    return ElementTree.tostring(element, encoding="unicode") + "\n"


def get(record: Any, key: str) -> Any:
    """Return a value of a JSON object; None where it has none, or is no object."""
    return record.get(key) if isinstance(record, dict) else None


def get_list(place: str, record: Any, key: str) -> list[Any]:
    """Return a list of a JSON object; an empty one where it has none.

    Raises:
        FaceExprError: the object has something else there.
    """
    value = get(record, key)
    if not isinstance(value, list | None):
        raise FaceExprError(f"{place}: {key} is {shorten(value)}; expected a list")
    return value or []


def coordinates(place: str, values: Iterable[object]) -> tuple[float, ...]:
    """Return numbers of JSON, or in text, such as those of a box.

    Raises:
        FaceExprError: one is absent, no number, or no pixel has it.
    """
    given = [*values]
    texts = [str(value) if is_number(value) or isinstance(value, str) else "" for value in given]
    found = tuple(float(text) if _NUMBER.fullmatch(text.strip()) else math.nan for text in texts)
    if not all(abs(number) <= _FAR for number in found):
        raise FaceExprError(f"{place}: the coordinates are {shorten(given)}; expected numbers")
    return found


def whole(text: str | None) -> int | None:
    """Return the whole number from 0 on that a text is, such as a side; None where it is none."""
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else None


def faces_of(boxes: Iterable[Iterable[Any]], ignored: Iterable[Any]) -> list[tuple[str, float, float, float, float]]:
    """Return label, left, top, right and bottom of each face to be written: the shortest numbers for each float32."""
    sides = ([float(str(side)) for side in box] for box in boxes)
    return [
        (IGNORED if mark else FACE, left, top, right, bottom)
        for (left, top, right, bottom), mark in zip(sides, ignored, strict=True)
    ]


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int | float]:
    """Tell whether a JSON value is a whole number, such as 3 or 3.0."""
    return is_number(value) and float(value).is_integer()


def shorten(value: object) -> str:
    """Return a JSON value as it is written, or its beginning."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_size(width: object, height: object) -> tuple[int, int] | None:
    """Return a size that a file states as whole numbers; None where it is none that an image can have."""
    if is_integer(width) and is_integer(height) and min(width, height) >= 1 and max(width, height) <= LARGEST:
        return int(width), int(height)
    return None


def is_link(content: str) -> bool:
    """Tell whether a text is an address, such as ``https://...``, and no file name; of whatever kind it is."""
    return re.match(r"[a-z][a-z0-9+.-]+://", content, re.IGNORECASE) is not None


def fetched_name(url: str) -> str:
    """Return the name of the file that a link is fetched to: it depends on the link alone, and no two have the same.

    It begins with the last part of the link; where that has no ending of an image, it gets ``.jpg``, whatever it holds,
    as its content alone tells its format.
    """
    last = PurePosixPath(unquote(_last_part(url)).replace("/", "_").replace("\\", "_"))
    suffix = last.suffix.lower() if last.suffix.lower() in EXTENSIONS else ""
    stem = re.sub(r"[^\w.-]+", "_", last.name[: len(last.name) - len(suffix)]).strip("._")[:_LONGEST]
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{stem or 'image'}-{digest}{suffix or '.jpg'}"


def file_names(content: str) -> tuple[str, ...]:
    """Return the names by which an image may be found, given its link or its file name; the most likely first."""
    names = [content, content.replace("\\", "/")]
    if is_link(content):
        names = [fetched_name(content), _last_part(content), unquote(_last_part(content))]
    return tuple(dict.fromkeys(filter(None, names)))


def link_or_name(url: str | None, name: str) -> str:
    """Return an image's link, where a reader finds the file by it, and otherwise its name."""
    return url if url and name in file_names(url) else name


def _last_part(url: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:  # such as http://[
        path = url
    return path.rstrip("/").rpartition("/")[2]
