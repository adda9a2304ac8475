"""LabelMe's JSON: a file for each image, beside it, with points in pixels.

Source: https://github.com/wkentaro/labelme.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceexpr.data.annotations.parsing import coordinates, decode_whole, faces_of, file_names, get, get_list, shorten
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError

NAME = "LabelMe JSON"
PARTS = ("", ".json")


def recognises(head: str) -> bool:
    """Tell whether a text is a JSON object with shapes, or the path of its image."""
    return head.lstrip().startswith("{") and re.search(r'"(shapes|imagePath)"\s*:', head) is not None


def read(path: Path, text: str) -> Document:
    """Read the rectangles and the boxes around polygons of one image; other shapes are counted.

    Raises:
        FaceExprError: it is damaged, or a shape has no label or no points.
    """
    record = decode_whole(path, text, "expected LabelMe JSON")
    name, shapes = get(record, "imagePath"), get_list(str(path), record, "shapes")
    if not isinstance(name, str) or not name.strip():
        raise FaceExprError(f"{path}: imagePath is {shorten(name)}; expected the path of an image")
    faces = []
    for number, shape in enumerate(shapes, 1):
        where, label = f"shape {number}", get(shape, "label")
        if get(shape, "shape_type") not in ("rectangle", "polygon", None):
            continue
        points = get_list(f"{path}, {where}", shape, "points")
        if not isinstance(label, str) or {len(one) if isinstance(one, list) else 0 for one in points} != {2}:
            raise FaceExprError(f"{path}, {where}: {shorten(shape)}; expected a label, and points as pairs of x and y")
        numbers = coordinates(f"{path}, {where}", [number for point in points for number in point])
        x, y = numbers[0::2], numbers[1::2]
        faces.append(Face(where, (min(x), min(y), max(x), max(y)), labels=(label,)))
    size = get(record, "imageWidth"), get(record, "imageHeight")
    entry = Entry("its image", file_names(name), tuple(faces), size=size)
    return Document((entry,), others=True, no_boxes=len(shapes) - len(faces))


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write a file for each image, to lie beside it."""
    for image in images:
        shapes = [
            {"label": label, "points": [corners[:2], corners[2:]], "shape_type": "rectangle", "flags": {}}
            for label, *corners in faces_of(image.boxes, image.ignored)
        ]
        width, height = image.size
        record: dict[str, Any] = {"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": image.path.name}
        record |= {"imageData": None, "imageWidth": width, "imageHeight": height}
        yield image.path.with_suffix(".json").as_posix(), json.dumps(record, indent=1) + "\n"
