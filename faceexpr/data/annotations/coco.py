"""COCO's JSON: images, annotations and categories in three lists that refer to each other by ids.

Source: https://cocodataset.org/#format-data; boxes are left, top, width, height in pixels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceexpr.data.annotations.parsing import (
    FACE,
    decode_whole,
    faces_of,
    file_names,
    get,
    is_integer,
    is_link,
    is_number,
    shorten,
)
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import counted

NAME = "COCO JSON"

_LISTS = ("images", "annotations", "categories")


def recognises(head: str) -> bool:
    """Tell whether a text is a JSON object with one of COCO's lists."""
    return head.lstrip().startswith("{") and re.search(rf'"({"|".join(_LISTS)})"\s*:', head) is not None


def read(path: Path, text: str) -> Document:
    """Read the three lists.

    Raises:
        FaceExprError: the file is damaged, repeats the id of an image, refers to an id that it does not declare, or has
            a box that is not four numbers.
    """
    images, annotations, categories = _lists(path, text)
    names: dict[int, str] = {}
    groups = {str(group) for one in categories if (group := get(one, "supercategory")) != get(one, "name")}
    for number, record in enumerate(categories, 1):
        place = f"{path}, category {number} of the list"
        category_id, name = _id(place, record, "id"), get(record, "name")
        if not isinstance(name, str):
            raise FaceExprError(f"{place}: name is {shorten(name)}; expected a text")
        if category_id in names or name in names.values():
            raise FaceExprError(f"{place}: id {category_id} or name {name!r} is that of a category before it")
        names[category_id] = name
    faces: dict[int, list[Face]] = {}
    for number, record in enumerate(images, 1):
        place = f"{path}, image {number} of the list"
        image_id = _id(place, record, "id")
        if image_id in faces:
            raise FaceExprError(
                f"{place}: the id {image_id} is that of an image before it; expected an id of its own, as annotations "
                "could belong to either"
            )
        faces[image_id] = []
    for number, record in enumerate(annotations, 1):
        place = f"{path}, annotation {number} of the list (id {shorten(get(record, 'id'))})"
        image_id, category_id = _id(place, record, "image_id"), _id(place, record, "category_id")
        if image_id not in faces:
            raise FaceExprError(f"{place}: no image of the file has its image_id {image_id}")
        if category_id not in names:
            declared = ", ".join(f"{known} ({name})" for known, name in list(names.items())[:10])
            raise FaceExprError(
                f"{place}: category_id {category_id} is not declared; expected one of the file's categories: {declared}"
            )
        faces[image_id].append(_face(place, record, names[category_id]))
    ids = [shorten(record["id"]) for record in annotations if "id" in record]
    repeated = len(ids) - len(set(ids))
    # annotations/instances_val2017.json lies beside val2017/.
    split = path.stem.rpartition("_")[2]
    return Document(
        tuple(_entry(path, number, record, faces) for number, record in enumerate(images, 1)),
        folders=("", "images", *filter(None, [split])),
        # Those that only group others come last: where there are no boxes, the first that means a face is taken.
        categories={name: number for number, name in sorted(names.items(), key=lambda item: item[1] in groups)},
        notes=(f"{counted(repeated, 'annotation')} with the id of another, all kept",) if repeated else (),
    )


def _lists(path: Path, text: str) -> list[list[Any]]:
    content = decode_whole(path, text, "expected COCO JSON")
    for name in _LISTS:
        if not isinstance(get(content, name), list):
            raise FaceExprError(f"{path}: {name!r} is {shorten(get(content, name))}; expected COCO's list of {name}")
    return [content[name] for name in _LISTS]


def _id(place: str, record: Any, key: str) -> int:
    value = get(record, key)
    if not is_integer(value):
        raise FaceExprError(f"{place}: {key} is {shorten(value)}; expected a whole number")
    return int(value)


def _face(place: str, record: dict[str, Any], category: str) -> Face:
    bbox = record.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise FaceExprError(f"{place}: bbox is {shorten(bbox)}; expected four numbers: left, top, width, height")
    left, top, width, height = map(float, bbox)
    if not math.isfinite(left + width) or not math.isfinite(top + height):
        raise FaceExprError(f"{place}: bbox is {shorten(bbox)}; expected four numbers in pixels")
    marks = [record.get(key, 0) for key in ("iscrowd", "ignore")]
    if any(mark not in (0, 1) for mark in marks):
        raise FaceExprError(f"{place}: iscrowd and ignore are {shorten(marks)}; expected 0 or 1 each")
    where = f"annotation {shorten(record.get('id'))}"
    return Face(where, (left, top, left + width, top + height), labels=(category,), ignored=any(marks))


def _entry(path: Path, number: int, record: dict[str, Any], faces: dict[int, list[Face]]) -> Entry:
    image_id, name = int(record["id"]), record.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise FaceExprError(f"{path}, image {number} of the list (id {image_id}): file_name is {shorten(name)}")
    urls = [url for key in ("coco_url", "url", "flickr_url") if isinstance(url := record.get(key), str)]
    return Entry(
        f"image {image_id}",
        file_names(name),
        tuple(faces[image_id]),
        size=(record.get("width"), record.get("height")),
        image_id=image_id,
        url=next(filter(is_link, [*urls, name]), None),
    )


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write one file; images keep their ids where they have any."""
    lists: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": FACE}]}
    for number, image in enumerate(images, 1):
        image_id = number if image.image_id is None else image.image_id
        width, height = image.size
        link = {"coco_url": image.url} if image.url else {}
        named = {"id": image_id, "file_name": image.path.as_posix(), "width": width, "height": height}
        lists["images"].append(named | link)
        for label, left, top, right, bottom in faces_of(image.boxes, image.ignored):
            wide, high = right - left, bottom - top
            lists["annotations"].append({
                "id": len(lists["annotations"]) + 1, "image_id": image_id, "category_id": 1,
                "bbox": [left, top, wide, high], "area": wide * high, "iscrowd": int(label != FACE),
            })  # fmt: skip
    yield "faces.json", json.dumps(lists)
