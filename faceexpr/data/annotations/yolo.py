"""YOLO's text: a file for each image, in ``labels`` beside ``images``, with a line for each box.

Source: https://docs.ultralytics.com/datasets/detect/; a line has the number of the class and the middle, width and
height of the box as fractions of the image. The names of classes stand in ``data.yaml`` or ``classes.txt``, in the
folder of the file or one above it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import yaml

from faceexpr.data.annotations.parsing import FACE, IGNORED, coordinates, faces_of, whole
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import EXTENSIONS

NAME = "YOLO text"
PARTS = ("labels", ".txt")

_CLASSES = tuple(stem + ending for stem, ending in (("data", ".yaml"), ("classes", ".txt")))
_ENDINGS = tuple(dict.fromkeys([".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", *sorted(EXTENSIONS)]))


def recognises(head: str) -> bool:
    """Tell whether a text begins with the line of a box."""
    return re.match(r"\s*[0-9]{1,9}([ \t]+[-+.0-9eE]+){4,}\s*(\n|$)", head) is not None


def read(path: Path, text: str) -> Document:
    """Read the boxes of one image, which has the name of the file; boxes are around outlines of three points or more.

    Without names of classes, the class 0 is a face.

    Raises:
        FaceExprError: a line is not what it has to be, or the names of the classes cannot be read.
    """
    if path.name in _CLASSES:
        return Document((), fractions=True, others=True)
    folders = [*path.absolute().parents][:4]
    known = next((file for folder in folders for name in _CLASSES if (file := folder / name).is_file()), None)
    names = {} if known is None else _class_names(known, known.stat().st_mtime_ns)
    faces = []
    for number, line in enumerate(text.split("\n"), 1):
        kind, *words = line.split() or [""]
        if not kind:
            continue
        if whole(kind) is None or (len(words) != 4 and (len(words) < 6 or len(words) % 2)):
            raise FaceExprError(
                f"{path}, line {number}: {line[:80]!r}; expected a class, x, y, width and height, or an outline"
            )
        x, y = (numbers := coordinates(f"{path}, line {number}", words))[0::2], numbers[1::2]
        if len(words) == 4:
            x, y = ((at[0] - at[1] / 2, at[0] + at[1] / 2) for at in (x, y))
        labels = None if not names and int(kind) == 0 else (names.get(int(kind), kind),)
        faces.append(Face(f"line {number}", (min(x), min(y), max(x), max(y)), labels=labels))
    # By Ultralytics' rule, the last folder `labels` of the path becomes `images`.
    before, found, after = str(folders[0]).rpartition(PARTS[0])
    stems = (path.stem, f"{before}images{after}{os.sep}{path.stem}" if found else path.stem)
    entry = Entry("its image", tuple(stem + ending for stem in stems for ending in _ENDINGS), tuple(faces))
    return Document((entry,), fractions=True, others=True)


@lru_cache(maxsize=8)
def _class_names(path: Path, changed: int) -> dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = yaml.safe_load(text)["names"] if path.suffix == ".yaml" else text.split("\n")
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        return {int(number): str(name).strip() for number, name in pairs if isinstance(name, str | int)}
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise FaceExprError(f"{path} cannot be read ({type(error).__name__}); expected the names of classes") from error


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write a file for each image, and the names of the classes."""
    yield _CLASSES[0], f"train: images\nval: images\nnames: {json.dumps([FACE, IGNORED])}\n"
    for image in images:
        lines = []
        for label, left, top, right, bottom in faces_of(image.boxes, image.ignored):
            middles, sides = ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)
            fractions = (value / side for value, side in zip(middles + sides, image.size * 2, strict=True))
            lines.append(" ".join([str(int(label == IGNORED)), *(f"{value:.12f}" for value in fractions)]) + "\n")
        yield f"{PARTS[0]}/{image.path.with_suffix('.txt').as_posix()}", "".join(lines)
