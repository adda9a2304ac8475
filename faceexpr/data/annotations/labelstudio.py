"""Label Studio's JSON: a list of tasks, each an image with boxes as left, top, width, height in percent of it.

Source: https://labelstud.io/guide/export.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from faceexpr.data.annotations import parsing
from faceexpr.data.annotations.parsing import file_names, get, get_list, is_link, shorten
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError

NAME = "Label Studio JSON"

_LABELS = {"rectanglelabels", "labels"}


def recognises(head: str) -> bool:
    """Tell whether a text is a JSON list of tasks with data and annotations."""
    return head.lstrip().startswith("[") and re.search(r'"(data|annotations|file_upload)"\s*:', head) is not None


def read(path: Path, text: str) -> Document:
    """Read upright boxes of the first annotation of each task that was not cancelled; other shapes are counted.

    Raises:
        FaceExprError: it is damaged, a task has no image, or a box no label or no coordinates.
    """
    tasks = parsing.decode_whole(path, text, "expected Label Studio JSON")
    if not isinstance(tasks, list):
        raise FaceExprError(f"{path}: {shorten(tasks)}; expected a list of tasks")
    entries, no_boxes = [], 0
    for number, task in enumerate(tasks, 1):
        where, data = f"task {number}", get(task, "data")
        # Its name is the user's choice, in the template of the project.
        texts = [get(data, "image"), *(data.values() if isinstance(data, dict) else ())]
        name = next((text for text in texts if isinstance(text, str) and text.strip()), None)
        place = f"{path}, {where}"
        annotations = [one for one in get_list(place, task, "annotations") if not get(one, "was_cancelled")]
        results = get_list(place, [*annotations, {}][0], "result")
        shapes = [one for one in results if get(get(one, "value"), "x") is not None]
        if name is None:
            raise FaceExprError(f"{place}: data is {shorten(data)}; expected an image")
        upright = [one for one in shapes if _LABELS & one["value"].keys() and not one["value"].get("rotation")]
        no_boxes += len(shapes) - len(upright)
        faces = tuple(_face(path, where, one["value"]) for one in upright)
        size = next(((one.get("original_width"), one.get("original_height")) for one in upright), (None, None))
        url = name if is_link(name) else None
        entries.append(Entry(where, _names(name), faces, size=size, labelled=bool(annotations), url=url))
    return Document(tuple(entries), fractions=True, others=True, no_boxes=no_boxes)


def _names(name: str) -> tuple[str, ...]:
    """Return the file names of an image, which may be a link, a local file or an upload with eight digits before it."""
    uploaded = name.rpartition("/")[2] if name.startswith("/data/upload/") else ""
    names = unquote(name.partition("?d=")[2]), uploaded, re.sub("^[0-9a-f]{8}-", "", uploaded), name
    return tuple(dict.fromkeys(each for one in filter(None, names) for each in file_names(one)))


def _face(path: Path, where: str, value: dict[str, Any]) -> Face:
    labels = value.get("rectanglelabels", value.get("labels"))
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise FaceExprError(f"{path}, {where}: rectanglelabels is {shorten(labels)}; expected a list of texts")
    sides = map(value.get, ("x", "y", "width", "height"))
    left, top, width, height = (side / 100 for side in parsing.coordinates(f"{path}, {where}", sides))
    return Face(where, (left, top, left + width, top + height), labels=tuple(labels))


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write one file with a task for each image, annotated once."""
    tasks = []
    for number, image in enumerate(images, 1):
        wide, high = image.size
        original = {"original_width": wide, "original_height": high, "image_rotation": 0}
        named = {"type": "rectanglelabels", "from_name": "label", "to_name": "image"}
        results: list[dict[str, Any]] = []
        for label, left, top, right, bottom in parsing.faces_of(image.boxes, image.ignored):
            sides = {"x": left / wide, "y": top / high, "width": (right - left) / wide, "height": (bottom - top) / high}
            value = {name: 100 * side for name, side in sides.items()} | {"rotation": 0, "rectanglelabels": [label]}
            results.append({"id": f"{number}-{len(results)}", **named, **original, "value": value})
        data = {"image": parsing.link_or_name(image.url, image.path.as_posix())}
        tasks.append({"id": number, "data": data, "annotations": [{"result": results}]})
    yield "faces.json", json.dumps(tasks, indent=1) + "\n"
