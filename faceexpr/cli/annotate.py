"""``faceexpr annotate``: the true boxes of an annotation file, drawn into its images (the paper's Figures 1 and 2)."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import fields
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from faceexpr.cli.parser import Parser
from faceexpr.data.annotations.reading import read_annotations
from faceexpr.data.annotations.records import AnnotatedImage, ReadOptions
from faceexpr.utils.errors import SOME_FAILED, FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.images import ImageError, read_image
from faceexpr.utils.text import counted
from faceexpr.visualization.boxes import draw_boxes

SHEET = "contact_sheet.png"
CELL = 320
"""Side in pixels of a picture on the contact sheet."""
MOST_ON_SHEET = 48

FACE, IGNORED = "#00f58a", "#ffb300"
"""Colours of faces, and of those that are not counted."""

DESCRIPTION = (
    "Draw the boxes of an annotation file into its images: one picture a file, and contact_sheet.png with all of them, "
    f"or the first {MOST_ON_SHEET}. Faces that are not to be counted have another colour and say so."
)

Pixels = NDArray[np.uint8]


def run(args: list[str]) -> None:
    """Run ``faceexpr annotate``.

    Args:
        args: the arguments, the verb included.

    Raises:
        SystemExit: with code 3 where some images could not be read.
    """
    parser = Parser(prog="faceexpr annotate", description=DESCRIPTION)
    parser.add_argument("annotations", type=Path, help="File of annotations: Dataturks, WIDER FACE or COCO.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the pictures.")
    parser.add_argument("--images", type=Path | None, default=None, help="Folder of the images.")
    parser.add_argument("--format", type=str, default="auto", help="Format of the annotations; auto tells it.")
    parser.add_argument("--limit", type=int | None, default=None, help="Draw so many images, chosen at random.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of that choice.")
    parser.add_class_arguments(ReadOptions)
    config = parser.parse_args(args[1:])
    if config.limit is not None and config.limit < 1:
        raise FaceExprError(f"--limit is {config.limit}; expected 1 or more")
    options = ReadOptions(**{option.name: config[option.name] for option in fields(ReadOptions)})
    annotations = read_annotations(config.annotations, config.images, config.format, options)
    for note in annotations.notes:
        say(note)
    records = _chosen(annotations.images, config.limit, config.seed)
    failed = annotate(records, config.out)
    say(f"{counted(len(records) - len(failed), 'picture')} and {SHEET} written to {config.out}")
    for error in failed:
        say(str(error))
    if failed:
        raise SystemExit(SOME_FAILED)


def annotate(records: Sequence[AnnotatedImage], out: Path) -> list[ImageError]:
    """Draw the boxes of images into a picture each and into a contact sheet.

    Args:
        records: the images.
        out: folder for the pictures; they are named by their place in ``records`` and by the name of the image.

    Returns:
        What was wrong with those that could not be read.

    Raises:
        FaceExprError: the folder cannot be written to, or no image could be read.
    """
    failed: list[ImageError] = []
    cells: list[Pixels] = []
    for number, record in enumerate(tqdm(records, unit="image", disable=None), 1):
        try:
            pixels = read_image(record.path).pixels
        except ImageError as error:
            failed.append(error)
            continue
        write_file(out / f"{number:05d}-{record.path.stem[:60]}.jpg", _encoded(_drawn(pixels, record), "JPEG"))
        if len(cells) < MOST_ON_SHEET:
            cells.append(_cell(pixels, record))
    if not cells:
        raise FaceExprError(f"no image could be read; the first: {failed[0] if failed else 'there was none'}")
    write_file(out / SHEET, _encoded(_sheet(cells), "PNG"))
    return failed


def _chosen(records: list[AnnotatedImage], limit: int | None, seed: int) -> list[AnnotatedImage]:
    if limit is None or limit >= len(records):
        return records
    return [records[index] for index in sorted(random.Random(seed).sample(range(len(records)), limit))]


def _drawn(pixels: Pixels, record: AnnotatedImage, scale: float = 1.0) -> Pixels:
    ignored = record.ignored.tolist()
    return draw_boxes(
        pixels,
        record.boxes * scale,
        captions=["not counted" if one else "" for one in ignored],
        colours=[IGNORED if one else FACE for one in ignored],
    )


def _cell(pixels: Pixels, record: AnnotatedImage) -> Pixels:
    """Return the picture at the size of the contact sheet, centred; boxes are drawn after it is made small."""
    height, width = pixels.shape[:2]
    scale = min(CELL / width, CELL / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    cell = np.full((CELL, CELL, 3), 255, np.uint8)
    left, top = (CELL - size[0]) // 2, (CELL - size[1]) // 2
    cell[top : top + size[1], left : left + size[0]] = _drawn(small, record, scale)
    return cell


def _sheet(cells: list[Pixels]) -> Pixels:
    columns = ceil(len(cells) ** 0.5)
    rows = ceil(len(cells) / columns)
    gap = 8
    side = CELL + gap
    sheet = np.full((rows * side + gap, columns * side + gap, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = gap + index // columns * side, gap + index % columns * side
        sheet[top : top + CELL, left : left + CELL] = cell
    return sheet


def _encoded(pixels: Pixels, image_format: str) -> bytes:
    buffer = io.BytesIO()
    # Thin lines would lose their colour in a JPEG of halved colour resolution; PNG takes no notice of either option.
    Image.fromarray(pixels).save(buffer, image_format, quality=92, subsampling=0)
    return buffer.getvalue()
