"""Files of images in which the faces are known, and of many the expressions too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceexpr.boxes.matching import Truth
from faceexpr.data.annotations.reading import read_annotations
from faceexpr.data.base import Stage
from faceexpr.data.fer2013 import read_table
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

SIZE = 960, 640
"""Width and height of the images that are made here."""

COLUMNS, ROWS = 3, 2
FEATHER = 0.08
"""Part of a pasted face's side over which it fades into the background."""


@dataclass(frozen=True)
class Pasting:
    """Which faces of FER-2013 are pasted into images, and how.

    Attributes:
        stage: ``val`` for PublicTest, ``test`` for PrivateTest.
        sides: the smallest and the largest side of a face, in pixels.
        around: part of a face's side by which its border pixels are repeated around it, fading into the background.
    """

    stage: Stage = "test"
    sides: tuple[int, int] = (64, 192)
    around: float = 0


PASTING = Pasting()


@dataclass(frozen=True, eq=False)
class Scene:
    """An image.

    Attributes:
        path: its file.
        truth: its faces.
        expressions: of each face; empty where they are not known.
    """

    path: Path
    truth: Truth
    expressions: tuple[str, ...] = ()


def photographs(annotations: str, images: str | None) -> list[Scene]:
    """Return the images of a file of annotations, which are in the folder ``images`` or where the format says."""
    records = read_annotations(Path(annotations), Path(images) if images else None).images
    return [Scene(record.path, Truth(record.boxes, record.ignored)) for record in records]


def drawn(folder: Path, number: int, seed: int) -> list[Scene]:
    """Write images of drawn people into a folder."""
    scenes = []
    for place in range(number):
        rng = np.random.default_rng([seed, place])
        pixels, boxes, expressions = draw_scene(rng, *SIZE, COLUMNS * ROWS)
        scenes.append(_written(folder, place, pixels, boxes, expressions))
    return scenes


def composed(folder: Path, table: str, number: int, seed: int, pasting: Pasting = PASTING) -> list[Scene]:
    """Write images with faces of FER-2013 into a folder.

    Each has six faces, drawn without repetition, grey as they are, on a background of smooth colours: side and place
    are random, borders fade. They are JPEG files of quality 90.

    Args:
        folder: where they are written.
        table: FER-2013's CSV file.
        number: of faces; all there are where it is larger.
        seed: decides everything.
        pasting: which faces, and how they are pasted.
    """
    fer = read_table(Path(table), "stop", None)
    split = fer.split(fer.rows(pasting.stage))
    if split.targets is None:
        raise FaceExprError(f"{table} has no labels; expected the column emotion")
    images, labels = split.tensor[:, 0].numpy(), split.targets.tolist()
    order = np.random.default_rng(seed).permutation(len(images))[:number]
    a_scene = COLUMNS * ROWS
    scenes = []
    for place, start in enumerate(range(0, len(order), a_scene)):
        rows = order[start : start + a_scene]
        pixels, boxes = _compose(images[rows], np.random.default_rng([seed, place]), pasting)
        scenes.append(_written(folder, place, pixels, boxes, [FER_NAMES[labels[row]] for row in rows]))
    return scenes


def _compose(
    faces: NDArray[np.uint8], rng: np.random.Generator, pasting: Pasting
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return an image with faces (F, 48, 48), and their boxes: what FER-2013 has of them."""
    colours = rng.integers(40, 216, (4, 6, 3), dtype=np.uint8)
    canvas = Image.fromarray(colours).resize(SIZE, Image.Resampling.BICUBIC)
    boxes = []
    for face, (left, top, side) in zip(faces, _places(rng, pasting.sides), strict=False):
        repeated = np.pad(face, round(pasting.around * len(face)), mode="edge")
        border = round(pasting.around * side)
        whole = side + 2 * border
        pasted = Image.fromarray(repeated).resize((whole, whole), Image.Resampling.BICUBIC)
        fading = max(pasting.around, FEATHER) * side
        ramp = np.minimum(np.arange(whole) + 0.5, np.arange(whole)[::-1] + 0.5) / fading
        opacity = np.minimum(np.minimum.outer(ramp, ramp), 1) * 255
        canvas.paste(pasted.convert("RGB"), (left - border, top - border), Image.fromarray(opacity.astype(np.uint8)))
        boxes.append((left, top, left + side, top + side))
    return np.asarray(canvas), np.array(boxes, dtype=np.float32)


def _places(rng: np.random.Generator, sides: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield left, top and side of each face, one a cell."""
    width, height = SIZE[0] // COLUMNS, SIZE[1] // ROWS
    for cell in range(COLUMNS * ROWS):
        side = round(float(np.exp(rng.uniform(*np.log(sides)))))
        left = cell % COLUMNS * width + int(rng.integers(0, width - side))
        yield left, cell // COLUMNS * height + int(rng.integers(0, height - side)), side


def _written(
    folder: Path, place: int, pixels: NDArray[np.uint8], boxes: NDArray[np.float32], expressions: list[str]
) -> Scene:
    path = folder / f"{place:05}.jpg"
    Image.fromarray(pixels).save(path, quality=90)
    return Scene(path, Truth(boxes, np.zeros(len(boxes), dtype=np.bool_)), tuple(expressions))
