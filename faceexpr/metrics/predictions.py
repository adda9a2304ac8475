"""Write what a classifier has said of each validation or test sample to a small file of the run folder, and read it.

Runs can be compared afterwards, sample by sample, without their weights and without the data.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file
from faceexpr.utils.text import class_columns, column_classes, csv_text

COLUMNS = ("index", "true", "predicted", "leaked")
"""What comes before the probability of each class under its name; see `class_columns`."""

DECIMALS = 3
_DIGITS = 18  # of the largest number that an index can be


@dataclass(frozen=True)
class SavedSamples:
    """The samples of one pass over a split.

    Attributes:
        path: the file.
        class_names: names of the C classes, in the order of the columns.
        indices: position of each sample in its split, ascending, int64 (N,).
        labels: name of each true class, str (N,).
        predicted: name of each most probable class, str (N,).
        leaked: which images are pixel-equal to one for training, bool (N,), or None where nobody has looked.
        probabilities: rounded, float64 (N, C).
    """

    path: Path
    class_names: tuple[str, ...]
    indices: NDArray[np.int64]
    labels: NDArray[np.str_]
    predicted: NDArray[np.str_]
    leaked: NDArray[np.bool_] | None
    probabilities: NDArray[np.float64]


def file_name(stage: str) -> str:
    """Return the name of the file of a stage, ``val`` or ``test``, in the run folder."""
    return f"predictions_{stage}.csv.gz"


def write_samples(
    folder: Path, stage: str, table: SampleTable, class_names: Sequence[str], leaked: NDArray[np.bool_] | None
) -> Path:
    """Write the samples of one pass into a run's folder: a row each, some 15 bytes where there are seven classes.

    A distribution counts as its most probable class. ``leaked`` tells which images of the whole split are pixel-equal
    to one for training, where that is known.
    """
    known = [""] * len(table.indices) if leaked is None else leaked[table.indices].astype(int).tolist()
    columns = (table.indices.tolist(), table.labels, table.predicted, known, table.probabilities.tolist())
    rows = [
        [index, class_names[label], class_names[guess], equal]
        + [f"{share:.{DECIMALS}f}".rstrip("0").rstrip(".") for share in shares]
        for index, label, guess, equal, shares in zip(*columns, strict=True)
    ]
    path = folder / file_name(stage)
    text = csv_text([*COLUMNS, *class_columns(class_names, COLUMNS)], rows)
    # Without the time in it, the same predictions are the same bytes.
    write_file(path, gzip.compress(text.encode("utf-8"), mtime=0))
    return path


def read_samples(path: Path) -> SavedSamples:
    """Read what `write_samples` has written.

    Raises:
        FaceExprError: there is no such file, or it is another one or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it is cut off"
        raise FaceExprError(
            f"{path} cannot be read ({reason}); expected the predictions that faceexpr test writes"
        ) from error
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    names = column_classes(header[len(COLUMNS) :], COLUMNS)
    if tuple(header[: len(COLUMNS)]) != COLUMNS or len(names) < 2 or len(set(names)) < len(names):
        raise FaceExprError(
            f"{path}: line 1 reads {', '.join(header)!r}; expected {', '.join(COLUMNS)} and the names of two classes "
            "or more, each once"
        )
    for number, row in enumerate(rows, 2):
        if not _is_sample(row, names):
            raise FaceExprError(
                f"{path}: line {number} reads {','.join(row)[:80]!r}; expected an index, two of the classes, 1, 0 or "
                "nothing, and a probability for each class"
            )
    indices = np.array([row[0] for row in rows], dtype=np.int64)
    if not rows or (np.diff(indices) <= 0).any():
        raise FaceExprError(f"{path} holds {len(rows):,} rows; expected one or more, each index once and ascending")
    known = {row[3] for row in rows}
    return SavedSamples(
        path=path,
        class_names=names,
        indices=indices,
        labels=np.array([row[1] for row in rows]),
        predicted=np.array([row[2] for row in rows]),
        leaked=None if "" in known else np.array([row[3] == "1" for row in rows]),
        probabilities=np.array([row[4:] for row in rows], dtype=np.float64),
    )


def _is_sample(row: list[str], names: tuple[str, ...]) -> bool:
    if len(row) != len(COLUMNS) + len(names) or not {*row[1:3]} <= {*names} or row[3] not in ("", "0", "1"):
        return False
    try:
        return row[0].isdecimal() and len(row[0]) <= _DIGITS and all(0 <= float(share) <= 1 for share in row[4:])
    except ValueError:
        return False
