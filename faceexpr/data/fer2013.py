"""FER-2013 (Goodfellow et al., 2013): 35,887 grey images of 48x48 pixels; the paper's Dataset 2, section 3.2."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.base import ExpressionDataModule, Stage
from faceexpr.data.cache import Arrays, load_cached
from faceexpr.data.loading import FaceSplit, Failure
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

BadRowPolicy = Literal["stop", "skip"]

LISTED = 20
"""How many unreadable rows a message lists."""

SIDE = 48
"""Side of FER-2013's square images in pixels."""

USAGES = ("Training", "PublicTest", "PrivateTest")
"""The values of the column Usage, in the order of their codes 0, 1, 2."""

NO_USAGE = 255
NO_LABEL = -1

_USAGE_CODES = {name.lower().encode(): code for code, name in enumerate(USAGES)}
_LABELS = {str(index).encode(): index for index in range(len(FER_NAMES))}
_HEADER_LIMIT = 1 << 16
_EXPECTED = "expected the columns emotion, pixels and Usage, as in fer2013.csv and icml_face_data.csv (Kaggle's \
train.csv has no Usage, its test.csv only pixels)"

USAGE_OF: dict[Stage, int] = {"train": 0, "val": 1, "test": 2, "predict": 2}
"""The code of the column Usage for each split: Training, PublicTest, PrivateTest, PrivateTest."""

_WHOLE = ("fer2013.csv", "fer2013.csv.gz", "fer2013/fer2013.csv", "icml_face_data.csv", "icml_face_data.csv.gz")
_TRAIN = ("train.csv", "train.csv.gz")
_TEST = ("test.csv", "test.csv.gz")


class FER2013(ExpressionDataModule):
    """FER-2013 from its CSV file, in any of the forms that are in circulation.

    The column Usage gives the splits: Training to train, PublicTest to validate, PrivateTest to test and predict.
    Kaggle's train.csv has no such column: a part of it, equal in every class, is held out for validation; test.csv
    beside it is what predict reads, and what test reads if it has labels.

    The first start parses the file (seconds), later ones read a cache of it.

    Args:
        path: fer2013.csv, icml_face_data.csv, train.csv or test.csv, plain or compressed (.gz), or the folder that
            holds one of them.
        on_bad_row: what to do about rows that cannot be read: ``stop`` lists them with their lines and reasons,
            ``skip`` leaves them out and says how many and why.
        holdout: fraction of a file without Usage that is held out for validation, above 0 and below 1.
        holdout_seed: seed of that choice.
        cache_dir: folder for the cache; by default ``.faceexpr-cache`` beside the file, or the user's cache folder
            where that cannot be written.
        drop_leaked: leave out of validation and test the images that are pixel-equal to a training image.
    """

    def __init__(
        self,
        path: str,
        on_bad_row: BadRowPolicy = "stop",
        holdout: float = 0.1,
        holdout_seed: int = 0,
        cache_dir: str | None = None,
        drop_leaked: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < holdout < 1:
            raise FaceExprError(f"holdout is {holdout}; expected a fraction above 0 and below 1")
        if holdout_seed < 0:
            raise FaceExprError(f"holdout_seed is {holdout_seed}; expected 0 or more")
        self.path = path
        self.on_bad_row = on_bad_row
        self.holdout = holdout
        self.holdout_seed = holdout_seed
        self.cache_dir = cache_dir
        self.drop_leaked = drop_leaked
        self._tables: dict[Path, FerTable] = {}
        self._held_out: npt.NDArray[np.bool_] | None = None

    def prepare_data(self) -> None:
        # One process a node fills the cache before the others look for it.
        fitting = self.trainer is None or self.trainer.state.fn in ("fit", "validate")
        self._table(find_files(self.path).of("val" if fitting else "predict"))

    def load_split(self, stage: Stage) -> FaceSplit:
        files = find_files(self.path)
        file = files.of(stage)
        table = self._table(file)
        if stage != "predict" and not table.has_labels:
            raise FaceExprError(
                f"{file} has no labels (no column emotion), so there is nothing to train on or to measure against in "
                f"the {stage} split; expected labels 0 to 6 (unlabelled images are for `faceexpr predict`)"
            )
        if file == files.test:
            return table.everything()
        if table.has_usage:
            split = usage_split(table, stage)
            return self._checked_for_leaks(split, stage, table) if self.drop_leaked else split
        if stage == "predict":
            return table.everything()
        if stage == "test":
            raise FaceExprError(
                f"{file} has no column Usage and no test.csv stands beside it, so there is no test split; expected "
                "fer2013.csv, or a test.csv with labels"
            )
        held_out = self._holdout(table)
        rows = np.flatnonzero(held_out if stage == "val" else ~held_out)
        return table.labelled(rows, bad=np.zeros(len(table.bad_lines), dtype=np.bool_))

    def leaked(self, stage: Stage) -> npt.NDArray[np.bool_] | None:
        table = self._table(find_files(self.path).of(stage))
        training = table.with_usage(USAGE_OF["train"])
        return self.split(stage).find_leaked(training) if stage != "train" and len(training) else None

    def _checked_for_leaks(self, split: FaceSplit, stage: Stage, table: FerTable) -> FaceSplit:
        if stage == "train":
            return split
        kept = split.pick(~split.find_leaked(usage_split(table, "train")))
        rank_zero_info(
            f"{table.path}: {len(split) - len(kept):,} of {len(split):,} images of the {stage} split are pixel-equal "
            "to a training image and are left out (drop_leaked)"
        )
        return kept

    def _table(self, file: Path) -> FerTable:
        if file not in self._tables:
            self._tables[file] = read_table(file, self.on_bad_row, self.cache_dir)
        return self._tables[file]

    def _holdout(self, table: FerTable) -> npt.NDArray[np.bool_]:
        if self._held_out is None:
            if len(table) < 2:
                raise FaceExprError(f"{table.path} holds 1 row; expected 2 or more, to hold some out for validation")
            self._held_out = stratified_holdout(table.labels, self.holdout, self.holdout_seed)
            rank_zero_info(
                f"{table.path} has no column Usage: {self._held_out.sum():,} of {len(table):,} rows are held out for "
                f"validation, the same share of every class (holdout={self.holdout}, "
                f"holdout_seed={self.holdout_seed})"
            )
        return self._held_out


def usage_split(table: FerTable, stage: Stage) -> FaceSplit:
    """Return the rows whose Usage belongs to a stage.

    Raises:
        FaceExprError: there is no such row.
    """
    split = table.with_usage(USAGE_OF[stage])
    if len(split) == 0 and not split.failures:
        raise FaceExprError(
            f"{table.path} has no row with Usage {USAGES[USAGE_OF[stage]]}, so there is no {stage} split; expected the "
            "whole of FER-2013"
        )
    return split


def stratified_holdout(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose rows at random, the same share of every class and ``fraction`` of all, at least one and never all.

    Args:
        labels: int64 (N,) with N of 2 or more.
        fraction: above 0 and below 1.
        seed: the choice depends on it and on the labels only.

    Returns:
        bool (N,), True for the chosen rows.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Taking those with the smallest shares takes from each class in proportion and hits the total exactly.
    count = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[shuffled[np.argsort(share[shuffled], kind="stable")[:count]]] = True
    return chosen


@dataclass(frozen=True)
class FerFiles:
    """The files that a path stands for.

    Attributes:
        main: the file with the rows to train on; None where there is only Kaggle's test.csv.
        test: Kaggle's test.csv, where ``main`` does not say itself which rows are for the test.
    """

    main: Path | None
    test: Path | None

    def of(self, stage: Stage) -> Path:
        """Return the file that a stage reads.

        Raises:
            FaceExprError: there is none.
        """
        if stage in ("test", "predict") and self.test is not None:
            return self.test
        if self.main is None:
            raise FaceExprError(f"path: {self.test} is for test and predict only; expected train.csv or fer2013.csv")
        return self.main


def find_files(path: str) -> FerFiles:
    """Find the files that a path, to a file or a folder, stands for.

    Raises:
        FaceExprError: there is nothing there, or nothing of FER-2013.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FaceExprError(f"path: {place} does not exist; expected fer2013.csv or the folder that holds it")
    if place.is_dir():
        main, test = _first(place, (*_WHOLE, *_TRAIN)), _first(place, _TEST)
        if main is None and test is None:
            raise FaceExprError(
                f"path: the folder {place} holds no file of FER-2013; expected fer2013.csv, icml_face_data.csv, "
                "train.csv or test.csv, plain or as .gz"
            )
    elif place.name.lower() in _TEST:
        main, test = None, place
    else:
        main, test = place, _first(place.parent, _TEST) if place.name.lower() in _TRAIN else None
    if main is not None and read_columns(main).usage is not None:
        test = None
    return FerFiles(main, test)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


@dataclass(frozen=True)
class FerTable:
    """All rows of a FER-2013 file as arrays; see `parse_csv`.

    Attributes:
        path: the file.
        images: uint8 (N, 48, 48).
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
            sources=[f"{self.path.name}:{line}" for line in lines.tolist()],
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
    table = FerTable(path, **load_cached([path], "fer2013-1", lambda: parse_csv(path), cache_dir))
    total, unreadable = len(table) + len(table.bad_lines), len(table.bad_lines)
    if total == 0:
        raise FaceExprError(f"{path} holds a header and no rows; expected one row for each image")
    if unreadable:
        problems = f"{path}: {unreadable:,} of {total:,} rows cannot be read ({_listed(table)})"
        if on_bad_row == "stop":
            raise FaceExprError(f"{problems}; correct them, or set on_bad_row to skip")
        if len(table) == 0:
            raise FaceExprError(f"{problems}, so that no image is left; expected rows as in fer2013.csv")
        rank_zero_warn(f"{problems}; they are skipped")
    return table


def _listed(table: FerTable) -> str:
    rows = zip(table.bad_lines[:LISTED], table.bad_reasons[:LISTED], strict=True)
    more = len(table.bad_lines) - LISTED
    return "; ".join(f"line {line}: {reason}" for line, reason in rows) + (f"; and {more:,} more" if more > 0 else "")


def _picked(array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return the rows, ascending; as a view where they follow one another, which saves a copy."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return array[int(rows[0]) : int(rows[-1]) + 1]
    return array[rows]


@dataclass(frozen=True)
class Columns:
    """What a file's header says.

    Attributes:
        count: number of fields in a row.
        pixels: place of the pixels.
        emotion: place of the label, None in a file without labels.
        usage: place of the split's name, None in a file that is one split.
    """

    count: int
    pixels: int
    emotion: int | None
    usage: int | None


class _BadRowError(ValueError):
    """Why a row cannot be read, as a phrase."""


@contextmanager
def csv_stream(path: Path) -> Iterator[BufferedIOBase]:
    """Open a plain or gzip-compressed file, told apart by content, for reading bytes.

    Raises:
        FaceExprError: it does not exist, cannot be read, or is a damaged gzip file.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FaceExprError(f"{path} is a damaged or incomplete gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise FaceExprError(f"{path} cannot be read: {error.strerror or error}") from error


def read_columns(path: Path) -> Columns:
    """Read a file's header only.

    Raises:
        FaceExprError: the file cannot be read or is not one of FER-2013's.
    """
    with csv_stream(path) as stream:
        return _columns(path, stream.readline(_HEADER_LIMIT))


def _columns(path: Path, header: bytes) -> Columns:
    if not header:
        raise FaceExprError(f"{path} is empty; {_EXPECTED}")
    if b"\0" in header:
        raise FaceExprError(f"{path} is not a text file (an archive has to be unpacked first); {_EXPECTED}")
    names = [
        _trimmed(name).decode("utf-8", "replace").lower() for name in header.removeprefix(b"\xef\xbb\xbf").split(b",")
    ]
    places = {name: names.index(name) for name in ("pixels", "emotion", "usage") if names.count(name) == 1}
    repeated = [name for name in ("pixels", "emotion", "usage") if names.count(name) > 1]
    if "pixels" not in places or repeated:
        shown = _shown(b", ".join(_trimmed(name) for name in header.split(b",")), limit=60)
        raise FaceExprError(f"{path} is not FER-2013: line 1 reads {shown}; {_EXPECTED}")
    return Columns(len(names), places["pixels"], places.get("emotion"), places.get("usage"))


def parse_csv(path: Path) -> Arrays:
    """Read all rows.

    Returns:
        ``images`` uint8 (N, 48, 48), ``labels`` int64 (N,) with `NO_LABEL` where the file has none, ``usages`` uint8
        (N,), codes of `USAGES` or `NO_USAGE`, ``lines`` int64 (N,), the rows' lines in the file, counted from 1; and
        of the M rows that cannot be read ``bad_lines`` int64, ``bad_usages`` uint8 and ``bad_reasons`` str, (M,)
        each. Blank lines are no rows.

    Raises:
        FaceExprError: the file cannot be read or is not one of FER-2013's.
    """
    pixels = bytearray()
    rows: list[tuple[int, int, int]] = []
    bad: list[tuple[int, int]] = []
    reasons: list[str] = []
    with csv_stream(path) as stream:
        columns = _columns(path, stream.readline(_HEADER_LIMIT))
        for number, line in enumerate(stream, start=2):
            if line.isspace():
                continue
            fields = line.split(b",")
            usage = NO_USAGE
            try:
                if len(fields) != columns.count:
                    raise _BadRowError(f"{len(fields)} field{'s' * (len(fields) != 1)}, expected {columns.count}")
                if columns.usage is not None:
                    usage = _usage(fields[columns.usage])
                label = NO_LABEL if columns.emotion is None else _label(fields[columns.emotion])
                pixels += _pixels(fields[columns.pixels])
            except _BadRowError as reason:
                bad.append((number, usage))
                reasons.append(str(reason))
            else:
                rows.append((number, usage, label))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    bad_table = np.array(bad, dtype=np.int64).reshape(-1, 2)
    return {
        "images": np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE),
        "labels": table[:, 2].copy(),
        "usages": table[:, 1].astype(np.uint8),
        "lines": table[:, 0].copy(),
        "bad_lines": bad_table[:, 0].copy(),
        "bad_usages": bad_table[:, 1].astype(np.uint8),
        "bad_reasons": np.array(reasons, dtype=np.str_),
    }


def usage_code(name: str) -> int | None:
    """Return the code of a value of the column Usage, or None where it is none of `USAGES`."""
    return _USAGE_CODES.get(name.strip().lower().encode())


def _trimmed(field: bytes) -> bytes:
    return field.strip().strip(b'"').strip()


def _shown(field: bytes, limit: int = 24) -> str:
    text = field.decode("utf-8", "replace")
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


def _usage(field: bytes) -> int:
    code = _USAGE_CODES.get(_trimmed(field).lower())
    if code is None:
        raise _BadRowError(f"Usage {_shown(_trimmed(field))}, expected {', '.join(USAGES)}")
    return code


def _label(field: bytes) -> int:
    label = _LABELS.get(_trimmed(field))
    if label is None:
        raise _BadRowError(f"label {_shown(_trimmed(field))}, expected 0 to {len(FER_NAMES) - 1}")
    return label


def _pixels(field: bytes) -> bytes:
    text = _trimmed(field)
    if not text:
        raise _BadRowError("no pixels")
    # numpy's parser is the fastest there is, but stops without a word at what it cannot read.
    if text.translate(None, b"0123456789 \t"):
        raise _BadRowError(_first_wrong(text))
    values: npt.NDArray[np.int64] = np.fromstring(text, dtype=np.int64, sep=" ")
    if values.size != SIDE * SIDE:
        raise _BadRowError(f"{values.size} of {SIDE * SIDE} values")
    if values.max() > 255:
        raise _BadRowError(_first_wrong(text))
    return values.astype(np.uint8).tobytes()


def _first_wrong(text: bytes) -> str:
    wrong = next(value for value in text.split() if not value.isdigit() or int(value) > 255)
    return f"pixel {_shown(wrong)}, expected whole numbers from 0 to 255"
