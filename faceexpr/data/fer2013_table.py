"""All rows of a FER-2013 file as arrays, and the selection of splits from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from faceexpr.data.cache import cached_arrays
from faceexpr.data.fer2013_csv import NO_LABEL, NO_USAGE, parse_csv
from faceexpr.data.loading import FaceSplit, Failure
from faceexpr.utils.errors import FaceExprError

BadRowPolicy = Literal["stop", "skip"]

LISTED = 20
"""How many unreadable rows a message lists."""


@dataclass(frozen=True)
class FerTable:
    """A FER-2013 file; see `faceexpr.data.fer2013_csv.parse_csv` for the arrays.

    Attributes:
        path: the file.
        images: uint8 (N, 48, 48), memory-mapped where there is a cache.
        labels: int64 (N,).
        usages: uint8 (N,).
        lines: int64 (N,).
        bad_lines: int64 (M,).
        bad_usages: uint8 (M,).
        bad_reasons: str (M,).
    """

    path: Path
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    usages: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.int64]
    bad_lines: npt.NDArray[np.int64]
    bad_usages: npt.NDArray[np.uint8]
    bad_reasons: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def has_labels(self) -> bool:
        """Whether the rows carry labels."""
        return bool((self.labels != NO_LABEL).any())

    @property
    def has_usage(self) -> bool:
        """Whether the rows say which split they belong to."""
        return bool((self.usages != NO_USAGE).any())

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Each row's place among all rows of the file, the unreadable ones included, from 0: int64 (N,)."""
        return np.arange(len(self)) + np.searchsorted(self.bad_lines, self.lines)

    def split(self, rows: npt.NDArray[np.int64], targets: Tensor | None, bad: npt.NDArray[np.bool_]) -> FaceSplit:
        """Make a split.

        Args:
            rows: the rows that belong to it, ascending.
            targets: their labels.
            bad: which of the unreadable rows belong to it, bool (M,).
        """
        images, lines = _picked(self.images, rows), _picked(self.lines, rows)
        bad_lines = self.bad_lines[bad]
        places = np.searchsorted(lines, bad_lines) + np.arange(len(bad_lines))
        return FaceSplit(
            images=torch.from_numpy(images).unsqueeze(1),
            targets=targets,
            sources=LineSources(self.path.name, lines),
            failures=[
                Failure(position=int(place), source=f"{self.path.name}:{line}", reason=str(reason))
                for place, line, reason in zip(places, bad_lines, self.bad_reasons[bad], strict=True)
            ],
        )

    def labelled(self, rows: npt.NDArray[np.int64], bad: npt.NDArray[np.bool_]) -> FaceSplit:
        """Make a split with the file's own labels, or without labels where it has none; see `split`."""
        targets = torch.from_numpy(_picked(self.labels, rows)) if self.has_labels else None
        return self.split(rows, targets, bad)

    def everything(self) -> FaceSplit:
        """Return all rows as one split."""
        return self.labelled(np.arange(len(self)), np.ones(len(self.bad_lines), dtype=np.bool_))

    def with_usage(self, code: int) -> FaceSplit:
        """Return the rows of one value of the column Usage."""
        return self.labelled(np.flatnonzero(self.usages == code), self.bad_usages == code)


class LineSources(Sequence[str]):
    """Names of rows, ``fer2013.csv:2``, made when they are asked for.

    Args:
        name: the file.
        lines: the rows' lines.
    """

    def __init__(self, name: str, lines: npt.NDArray[np.int64]) -> None:
        self.name = name
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> LineSources: ...
    def __getitem__(self, index: int | slice) -> str | LineSources:
        if isinstance(index, slice):
            return LineSources(self.name, self.lines[index])
        return f"{self.name}:{self.lines[index]}"


def read_table(path: Path, on_bad_row: BadRowPolicy, cache_dir: str | None) -> FerTable:
    """Read a file, or the cache of it.

    Args:
        path: the CSV file.
        on_bad_row: what to do about rows that cannot be read.
        cache_dir: folder of the cache; None finds one.

    Raises:
        FaceExprError: the file cannot be read, is not one of FER-2013's, holds no row, or holds rows that cannot be
            read and ``on_bad_row`` is ``stop``.
    """
    folder = Path(cache_dir).expanduser() if cache_dir is not None else None
    arrays = cached_arrays(path, "fer2013-1", lambda: parse_csv(path), folder)
    table = FerTable(
        path=path,
        images=arrays["images"],
        labels=arrays["labels"],
        usages=arrays["usages"],
        lines=arrays["lines"],
        bad_lines=arrays["bad_lines"],
        bad_usages=arrays["bad_usages"],
        bad_reasons=arrays["bad_reasons"],
    )
    total, unreadable = len(table) + len(table.bad_lines), len(table.bad_lines)
    if total == 0:
        raise FaceExprError(f"{path} holds a header and no rows; expected one row for each image")
    if unreadable:
        problems = f"{path}: {unreadable:,} of {total:,} rows cannot be read ({_listed(table)})"
        if on_bad_row == "stop":
            raise FaceExprError(f"{problems}; correct them, or set data.on_bad_row to skip")
        if len(table) == 0:
            raise FaceExprError(f"{problems}, so that no image is left; expected rows as in fer2013.csv")
        rank_zero_warn(f"{problems}; they are skipped")
    return table


def _listed(table: FerTable) -> str:
    rows = zip(table.bad_lines[:LISTED], table.bad_reasons[:LISTED], strict=True)
    more = len(table.bad_lines) - LISTED
    return "; ".join(f"line {line}: {reason}" for line, reason in rows) + (f"; and {more:,} more" if more > 0 else "")


def _picked(array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return the rows, ascending; as a view where they follow one another, which keeps them memory-mapped."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return array[int(rows[0]) : int(rows[-1]) + 1]
    return array[rows]
