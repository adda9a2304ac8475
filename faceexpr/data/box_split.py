"""Pictures of one annotation file set aside, by a list of names or by chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.utils.errors import FaceExprError

Parts = tuple[list[AnnotatedImage], list[AnnotatedImage]]


def seeded(records: list[AnnotatedImage], fraction: float, seed: int) -> Parts:
    """Return (set aside, rest), both in the order of the file; at least one picture each.

    Raises:
        FaceExprError: there are fewer than two pictures.
    """
    if len(records) < 2:
        raise FaceExprError(
            f"{len(records)} picture cannot be divided into training and validation; expected 2 or more, or data.val"
        )
    number = min(max(round(fraction * len(records)), 1), len(records) - 1)
    aside = set(np.random.default_rng(seed).permutation(len(records))[:number].tolist())
    return (
        [record for place, record in enumerate(records) if place in aside],
        [record for place, record in enumerate(records) if place not in aside],
    )


def listed(records: list[AnnotatedImage], file: Path, option: str) -> Parts:
    """Return (those that the file names, rest); a name is the end of a picture's path, folders as far as given.

    Raises:
        FaceExprError: the file cannot be read, or a name is that of no picture or of several.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FaceExprError(
            f"{option}: {file} cannot be read as a text file ({error}); expected a name a line"
        ) from error
    by_end: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        parts = record.path.parts
        for start in range(len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(place)
    aside: set[int] = set()
    for number, line in enumerate(lines, start=1):
        name = Path(line.strip()).as_posix()
        if not line.strip():
            continue
        places = by_end.get(name, [])
        if len(places) != 1:
            found = "no picture" if not places else f"{len(places)} pictures"
            raise FaceExprError(
                f"{option}: {file}, line {number}: {found} of the training file has the name {name}; expected one"
            )
        aside.add(places[0])
    return (
        [record for place, record in enumerate(records) if place in aside],
        [record for place, record in enumerate(records) if place not in aside],
    )
