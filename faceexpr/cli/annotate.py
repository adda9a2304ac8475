"""``faceexpr annotate``: draw the true boxes of an annotation file into its images (the paper's Figures 1 and 2).

Or write them in another format.
"""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path

from faceexpr.cli.parser import Parser, naming_options
from faceexpr.data.annotations.reading import ReadOptions, known_formats, read_annotations, write_annotations
from faceexpr.utils.errors import SOME_FAILED, FaceExprError
from faceexpr.utils.files import say
from faceexpr.utils.text import counted
from faceexpr.visualization.boxes import MOST_ON_SHEET, SHEET, draw_annotations

DESCRIPTION = (
    f"Draw the boxes of an annotation file into its images: one image a file, and {SHEET} with all of them, or the "
    f"first {MOST_ON_SHEET}. Faces that are not to be counted have another colour and say so. With --write: the same "
    "boxes in another format, and no images."
)


def run(args: list[str]) -> None:
    """Run ``faceexpr annotate``, given the arguments with the verb; code 3 where some images could not be read."""
    parser = Parser(prog="faceexpr annotate", description=DESCRIPTION)
    formats = ", ".join(known_formats())
    parser.add_argument("annotations", type=Path, help="File or folder of annotations, of any of the formats.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for what is drawn or written.")
    parser.add_argument("--write", type=str | None, default=None, help=f"Write them in this format: {formats}.")
    parser.add_argument("--images", type=Path | None, default=None, help="Folder of the images.")
    parser.add_argument("--format", type=str, default="auto", help="Format of the annotations; auto tells it.")
    parser.add_argument("--limit", type=int | None, default=None, help="Draw so many images, chosen at random.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of that choice.")
    parser.add_class_arguments(ReadOptions)
    config = parser.parse_args(args[1:])
    with naming_options(config):
        if config.limit is not None and config.limit < 1:
            raise FaceExprError(f"limit is {config.limit}; expected 1 or more")
        options = ReadOptions(**{option.name: config[option.name] for option in fields(ReadOptions)})
        annotations = read_annotations(config.annotations, config.images, config.format, options)
    for note in annotations.notes:
        say(note)
    records = annotations.images
    if config.limit is not None and config.limit < len(records):
        chosen = random.Random(config.seed).sample(range(len(records)), config.limit)
        records = [records[index] for index in sorted(chosen)]
    if config.write is not None:
        with naming_options(config):
            place, root = write_annotations(records, config.write, config.out)
        faces = counted(sum(len(record.boxes) for record in records), "face")
        say(
            f"{place}: {counted(len(records), 'image')} with {faces}, named from {root} on; to read it: --images {root}"
        )
        return
    failed = draw_annotations(records, config.out)
    say(f"{counted(len(records) - len(failed), 'image')} and {SHEET} written to {config.out}")
    for error in failed:
        say(str(error))
    if failed:
        raise SystemExit(SOME_FAILED)
