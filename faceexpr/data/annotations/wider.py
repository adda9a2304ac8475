"""WIDER FACE's text: a file name, the number of faces, and one line a face.

Source: Yang et al., "WIDER FACE: A Face Detection Benchmark", CVPR 2016, and the ``readme.txt`` of its release.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from faceexpr.data.annotations.parsing import faces_of
from faceexpr.data.annotations.reading import AnnotatedImage, Document, Entry, Face
from faceexpr.utils.errors import FaceExprError

NAME = "WIDER FACE text"

FLAGS = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
"""What follows ``x y w h``; 0 is the usual in each."""

LEVELS = {
    "blur": ("clear", "normal", "heavy"), "expression": ("typical", "exaggerated"),
    "illumination": ("normal", "extreme"), "occlusion": ("none", "partial", "heavy"), "pose": ("typical", "atypical"),
}  # fmt: skip
"""What the values of the flags mean, from 0."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
_COUNT = re.compile("[0-9]{1,9}")
_FLAG = re.compile("-?[0-9]{1,9}")


def recognises(head: str) -> bool:
    """Tell whether a text begins with a file name and a number."""
    lines = [line.strip() for line in head.split("\n") if line.strip()][:2]
    return len(lines) == 2 and not lines[0].startswith(("{", "[")) and _COUNT.fullmatch(lines[1]) is not None


def read(path: Path, text: str) -> Document:
    """Read the text.

    An image with 0 faces may be followed by a line of zeros, as in the official release, or not. A line of a face has
    10 numbers, or the first 4 of them, and then its flags are 0.

    Raises:
        FaceExprError: a line is not what its place asks for.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    entries: list[Entry] = []
    position = 0
    while position < len(lines):
        number, name = lines[position]
        if _is_box(name) or "\0" in name:
            raise FaceExprError(
                f"{path}, line {number}: {name[:80]!r} is one line of a face more than the number before says; "
                "expected the file name of an image"
            )
        if position + 1 == len(lines):
            raise FaceExprError(
                f"{path}, line {number}: the file ends after {name[:80]!r}; expected its number of faces"
            )
        after, line = lines[position + 1]
        if not _COUNT.fullmatch(line):
            raise FaceExprError(f"{path}, line {after}: {line[:80]!r}; expected the number of faces of {name[:80]!r}")
        count = int(line)
        position += 2
        faces = tuple(_face(path, at, line, name) for at, line in lines[position : position + count])
        position += count
        if count == 0 and position < len(lines) and _is_box(zeros := lines[position][1]):
            position += not any(map(float, zeros.split()))
        if len(faces) < count:
            raise FaceExprError(
                f"{path}, line {lines[-1][0]}: the file ends after {len(faces)} of the {count:,} faces of {name}"
            )
        entries.append(Entry(f"line {number}", (name,), faces))
    split = next((split for split in ("train", "val", "test") if split in path.stem.lower()), None)
    folders = ("", "images") if split is None else (f"WIDER_{split}/images", "", "images")
    return Document(tuple(entries), folders, flag_names=FLAGS)


def _is_box(line: str) -> bool:
    words = line.split()
    return len(words) >= 4 and all(map(_NUMBER.fullmatch, words))


def _face(path: Path, number: int, line: str, name: str) -> Face:
    words = line.split()
    numbers = [float(word) for word in words[:4] if _NUMBER.fullmatch(word)]
    flags = [int(word) for word in words[4:] if _FLAG.fullmatch(word)]
    well_formed = len(words) in (4, 4 + len(FLAGS)) and len(numbers) + len(flags) == len(words)
    if not well_formed or not all(map(math.isfinite, numbers)):
        raise FaceExprError(
            f"{path}, line {number}: {line[:80]!r} is no face of {name[:80]!r}; expected x y w h "
            f"{' '.join(FLAGS)}, or x y w h"
        )
    x, y, width, height = numbers
    flags = flags or [0] * len(FLAGS)
    invalid = flags[FLAGS.index("invalid")] != 0
    return Face(f"line {number}", (x, y, x + width, y + height), ignored=invalid, flags=tuple(flags))


def write(images: Sequence[AnnotatedImage]) -> Iterator[tuple[str, str]]:
    """Write one file; flags that the images do not have are 0."""
    lines = []
    for image in images:
        flags = {name: image.flags.get(name, [0] * len(image.boxes)) for name in FLAGS} | {"invalid": image.ignored}
        lines += [image.path.as_posix(), str(len(image.boxes))]
        for number, (_, left, top, right, bottom) in enumerate(faces_of(image.boxes, image.ignored)):
            sides = (f"{value:.10f}".rstrip("0").rstrip(".") for value in (left, top, right - left, bottom - top))
            lines.append(" ".join([*sides, *(str(int(flags[name][number])) for name in FLAGS)]))
    yield "faces.txt", "\n".join([*lines, ""])
