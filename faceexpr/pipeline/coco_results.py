"""Results as COCO detections, which every tool that scores detectors reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

from faceexpr.data.annotations.reading import Annotations
from faceexpr.pipeline.records import RECORDS, read_records
from faceexpr.utils.files import as_bytes, replacing, say
from faceexpr.utils.text import counted

FILE = "detections.json"


def write_coco(out: Path, annotations: Annotations | None = None, named: str = "the annotations") -> None:
    """Write the faces of all records in a folder of results as one list of COCO detections, to `FILE` beside them.

    Args:
        out: the folder.
        annotations: the file whose ids of images and of the category are used; without it an image's id is the number
            of its record, from 1, and the category is 1. Images of a format without ids have their place in it, from 1.
        named: what the annotations are called where they do not know an image, whose faces are then left out.
    """
    ids = (
        None
        if annotations is None
        else {
            os.path.realpath(record.path): place if record.image_id is None else record.image_id
            for place, record in enumerate(annotations.images, 1)
        }
    )
    category = 1 if annotations is None else annotations.category_id
    between = "["
    unknown = 0
    with replacing(out / FILE) as file:
        for number, record in enumerate(read_records(out / RECORDS), 1):
            image = number if ids is None else ids.get(os.path.realpath(record["image"]))
            if image is None:
                unknown += 1
                continue
            for face in record["faces"]:
                left, top, right, bottom = face["box"]
                box = [left, top, round(right - left, 2), round(bottom - top, 2)]
                found = {"image_id": image, "category_id": category, "bbox": box, "score": face["score"]}
                file.write(as_bytes(between + json.dumps(found, allow_nan=False)))
                between = ", "
        file.write(b"[]\n" if between == "[" else b"]\n")
    if unknown:
        say(f"{counted(unknown, 'image is', 'images are')} not in {named}, and left out of {FILE}")
