"""FER+'s label file (Barsoum et al., 2016): ten people's votes on each image of FER-2013."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faceexpr.data.fer2013_csv import USAGES, csv_stream, usage_code
from faceexpr.data.fer2013_table import LISTED, FerTable
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FERPLUS_NAMES, canonical

COLUMNS = (*FERPLUS_NAMES, "unknown", "NF")
"""What can be voted for, in the order of `Votes.counts`: the eight emotions, then unknown and not a face."""

UNKNOWN = COLUMNS.index("unknown")
NOT_A_FACE = COLUMNS.index("NF")

_FILE_NAME = "fer2013new.csv"
_EXPECTED = "expected the columns Usage, neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, \
unknown and NF, as in fer2013new.csv"


@dataclass(frozen=True)
class Votes:
    """A label file.

    Attributes:
        path: the file.
        counts: votes for each of `COLUMNS`, int64 (N, 10).
        usages: codes of the column Usage, uint8 (N,).
        lines: lines in the file, counted from 1, int64 (N,).
    """

    path: Path
    counts: npt.NDArray[np.int64]
    usages: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.int64]


def read_votes(path: str) -> Votes:
    """Read a label file, plain or compressed (.gz), or the one in a folder.

    A row that cannot be read is an error whatever is done about bad rows of images: rows are matched by order alone.

    Raises:
        FaceExprError: the file cannot be read, has other columns, or has rows that are not ten vote counts.
    """
    place = Path(path).expanduser()
    file = place / _FILE_NAME if place.is_dir() else place
    if not file.exists():
        raise FaceExprError(f"data.votes: {file} does not exist; expected FER+'s {_FILE_NAME}")
    rows: list[list[int]] = []
    problems: list[str] = []
    try:
        with csv_stream(file) as stream:
            reader = csv.reader(line.decode("utf-8-sig", "replace") for line in stream)
            header = next(reader, [])
            usage, places = _places(file, header)
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                row = _row(fields, len(header), usage, places)
                if isinstance(row, str):
                    problems.append(f"line {reader.line_num}: {row}")
                else:
                    rows.append([reader.line_num, *row])
    except csv.Error as error:
        raise FaceExprError(f"{file} is not comma-separated text ({error}); {_EXPECTED}") from error
    if problems:
        listed = "; ".join(problems[:LISTED]) + (
            f"; and {len(problems) - LISTED:,} more" if len(problems) > LISTED else ""
        )
        raise FaceExprError(
            f"{file}: {len(problems):,} of {len(problems) + len(rows):,} rows cannot be read ({listed}); correct "
            "them, since votes and images are matched row by row"
        )
    table = np.array(rows, dtype=np.int64).reshape(-1, 2 + len(COLUMNS))
    return Votes(path=file, counts=table[:, 2:], usages=table[:, 1].astype(np.uint8), lines=table[:, 0])


def _places(file: Path, header: list[str]) -> tuple[int, list[int]]:
    """Return where Usage and each of `COLUMNS` stand, found by name."""
    names = [name.strip() for name in header]
    known = [canonical(name, FERPLUS_NAMES) or {"unknown": "unknown", "nf": "NF"}.get(name.lower()) for name in names]
    usage = [place for place, name in enumerate(names) if name.lower() == "usage"]
    if len(usage) != 1 or any(known.count(name) != 1 for name in COLUMNS):
        shown = ", ".join(names)
        raise FaceExprError(
            f"{file} is not FER+'s label file: line 1 reads {shown[:60]!r}{'…' * (len(shown) > 60)}; {_EXPECTED}"
        )
    return usage[0], [known.index(name) for name in COLUMNS]


def _row(fields: list[str], expected: int, usage: int, places: list[int]) -> list[int] | str:
    """Return the code of Usage and the ten counts, or what is wrong, as a phrase."""
    if len(fields) != expected:
        return f"{len(fields)} field{'s' * (len(fields) != 1)}, expected {expected}"
    code = usage_code(fields[usage])
    if code is None:
        return f"Usage {fields[usage].strip()[:24]!r}, expected {', '.join(USAGES)}"
    counts = []
    for place in places:
        text = fields[place].strip()
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            return f"{text[:24]!r} votes, expected a whole number, 0 or more"
        counts.append(int(text))
    return [code, *counts]


def matched(votes: Votes, table: FerTable) -> npt.NDArray[np.int64]:
    """Return the votes on each row of a FER-2013 file, int64 (N, 10), matched by the order of the rows.

    The number in a vote's image name is not the row's: it counts the named images only, and equals the row's index
    for 57 of 35,714.

    Raises:
        FaceExprError: the files have different numbers of rows, or a row that belongs to different splits.
    """
    if not table.has_usage:
        raise FaceExprError(
            f"{table.path} has no column Usage; FER+ labels the whole of FER-2013, row by row: expected fer2013.csv"
        )
    images = len(table) + len(table.bad_lines)
    if images != len(votes.lines):
        raise FaceExprError(
            f"{table.path} has {images:,} rows and {votes.path} has {len(votes.lines):,}; expected one row of votes "
            "for each image, in the same order"
        )
    places = table.positions
    different = np.flatnonzero(table.usages != votes.usages[places])
    if len(different):
        row = int(different[0])
        place = places[row]
        raise FaceExprError(
            f"line {table.lines[row]} of {table.path} belongs to {USAGES[table.usages[row]]} and line "
            f"{votes.lines[place]} of {votes.path}, which is about the same image, to {USAGES[votes.usages[place]]} "
            f"({len(different):,} of {len(places):,} rows differ); expected the same images in the same order"
        )
    return votes.counts[places]
