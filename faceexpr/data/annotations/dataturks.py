"""Dataturks' export, the paper's Dataset 1: one JSON object an image, with boxes as fractions of the image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceexpr.data.annotations.parsing import (
    decode_json,
    decode_whole,
    faces_of,
    file_names,
    is_link,
    is_number,
    link_or_name,
    shorten,
)
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError

NAME = "Dataturks JSON lines"

_FAR_OUT = 10
"""Nobody drags the mouse so many images far: such corners are pixels."""


def recognises(head: str) -> bool:
    """Tell whether a text is JSON that names a content and its annotation."""
    return head.lstrip().startswith(("{", "[")) and re.search(r'"(content|annotation)"\s*:', head) is not None


def read(path: Path, text: str) -> Document:
    """Read the export: one object a line, or an array of them.

    Each has ``content``, the image's URL or file name, and ``annotation``, a list of boxes, or null where the annotator
    has skipped the image. Each box has ``label``, a text or a list of them, and ``points``, two or more corners in any
    order.

    Raises:
        FaceExprError: a record is damaged.
    """
    return Document(tuple(_entry(path, where, record) for where, record in _records(path, text)), fractions=True)


def _records(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield each record with its place in the file."""
    if text.lstrip().startswith("["):
        records = decode_whole(path, text, "expected an array of objects with content and annotation")
        yield from ((f"record {number}", record) for number, record in enumerate(records, 1))
        return
    end, line, counted = 0, 1, 0
    while begin := re.compile(r"\S").search(text, end):
        line, counted = line + text.count("\n", counted, begin.start()), begin.start()
        try:
            record, end = decode_json(text, begin.start())
        except ValueError as error:
            raise FaceExprError(
                f"{path}, line {line}: the record that begins here is cut off or no JSON "
                f"({getattr(error, 'msg', error)}); expected an object with content and annotation"
            ) from error
        yield f"line {line}", record


def _entry(path: Path, where: str, record: Any) -> Entry:
    if not isinstance(record, dict):
        raise FaceExprError(f"{path}, {where}: {shorten(record)}; expected an object with content and annotation")
    content, annotation = record.get("content"), record.get("annotation")
    if not isinstance(content, str) or not content.strip():
        raise FaceExprError(
            f"{path}, {where}: content is {shorten(content)}; expected the URL or file name of an image"
        )
    if annotation is not None and not isinstance(annotation, list):
        raise FaceExprError(f"{path}, {where}: annotation is {shorten(annotation)}; expected a list of boxes, or null")
    boxes = annotation or []
    faces = tuple(_face(f"{path}, {where}, box {number}", where, box) for number, box in enumerate(boxes, 1))
    content = content.strip()
    return Entry(
        where,
        file_names(content),
        faces,
        size=next(((box.get("imageWidth"), box.get("imageHeight")) for box in boxes), (None, None)),
        labelled=annotation is not None,
        url=content if is_link(content) else None,
    )


def _face(place: str, where: str, box: Any) -> Face:
    if not isinstance(box, dict):
        raise FaceExprError(f"{place}: {shorten(box)}; expected an object with label and points")
    label, points = box.get("label"), box.get("points")
    labels = [label] if isinstance(label, str) else label
    if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
        raise FaceExprError(f"{place}: label is {shorten(label)}; expected a text or a list of them")
    if not isinstance(points, list) or len(points) < 2:
        raise FaceExprError(f"{place}: points is {shorten(points)}; expected two corners or more")
    corners = [_corner(place, point) for point in points]
    across, down = [x for x, _ in corners], [y for _, y in corners]
    return Face(where, (min(across), min(down), max(across), max(down)), labels=tuple(labels))


def _corner(place: str, point: Any) -> tuple[float, float]:
    pair = [point.get("x"), point.get("y")] if isinstance(point, dict) else point
    if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_number, pair)):
        raise FaceExprError(f"{place}: a corner is {shorten(point)}; expected its x and y, two numbers")
    if max(map(abs, pair)) > _FAR_OUT:
        raise FaceExprError(f"{place}: a corner is {shorten(point)}; expected fractions of width and height, 0 to 1")
    return float(pair[0]), float(pair[1])


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write one file with an image a line."""
    lines = []
    for image in images:
        width, height = image.size
        boxes = []
        for label, left, top, right, bottom in faces_of(image.boxes, image.ignored):
            points = [{"x": left / width, "y": top / height}, {"x": right / width, "y": bottom / height}]
            boxes.append({"label": [label], "points": points, "imageWidth": width, "imageHeight": height})
        lines.append(json.dumps({"content": link_or_name(image.url, image.path.as_posix()), "annotation": boxes}))
    yield "faces.json", "\n".join([*lines, ""])
