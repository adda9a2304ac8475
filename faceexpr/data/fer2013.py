"""FER-2013 (Goodfellow et al., 2013): 35,887 grey images of 48x48 pixels; the paper's Dataset 2, section 3.2."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.base import ExpressionDataModule, Stage, require_at_least
from faceexpr.data.cache import Arrays, load_cached
from faceexpr.data.loading import FaceSplit, Failure, stratify
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES
from faceexpr.utils.text import counted, some

BadRowPolicy = Literal["stop", "skip"]

LISTED = 20
"""How many reasons for unreadable rows a message lists."""

SIDE = 48
"""Side of FER-2013's square images in pixels."""

USAGES = ("Training", "PublicTest", "PrivateTest")
"""The values of the column Usage, in the order of their codes 0, 1, 2."""

USAGE_OF: dict[Stage, int] = {"train": 0, "val": 1, "test": 2, "predict": 2}
"""The code of the column Usage for each split."""

NO_USAGE = 255
NO_LABEL = -1

_USAGE_CODES = {name.lower().encode(): code for code, name in enumerate(USAGES)}
_LABELS = {str(index).encode(): index for index in range(len(FER_NAMES))}
_HEADER_LIMIT = 1 << 16
_EXPECTED = "expected the columns emotion, pixels and Usage, as in fer2013.csv and icml_face_data.csv (Kaggle's \
train.csv has no Usage, its test.csv only pixels)"

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
        require_at_least(0, "holdout_seed", holdout_seed)
        self.path = path
        self.on_bad_row = on_bad_row
        self.holdout = holdout
        self.holdout_seed = holdout_seed
        self.cache_dir = cache_dir
        self.drop_leaked = drop_leaked
        self._tables: dict[Path, FerTable] = {}

    def prepare_data(self) -> None:
        # One process a node fills the cache before the others look for it.
        fitting = self.trainer is None or self.trainer.state.fn in ("fit", "validate")
        self._table("val" if fitting else "predict")

    def load_split(self, stage: Stage) -> FaceSplit:
        table = self._table(stage)
        if stage != "predict" and not table.has_labels:
            raise FaceExprError(
                f"{table.path} has no labels (no column emotion), so there is nothing to train on or to measure "
                f"against in the {stage} split; expected labels 0 to 6 (unlabelled images are for `faceexpr predict`)"
            )
        if table.path.name.lower() in _TEST or (stage == "predict" and not table.has_usage):
            return table.split(np.arange(len(table.lines)))
        if table.has_usage:
            return table.split(table.rows(stage))
        if stage == "test":
            raise FaceExprError(
                f"{table.path} has no column Usage and no test.csv stands beside it, so there is no test split; "
                "expected fer2013.csv, or a test.csv with labels"
            )
        readable = np.flatnonzero(table.readable)
        return table.split(readable[self._held_out if stage == "val" else ~self._held_out])

    def find_leaked(self, split: FaceSplit) -> npt.NDArray[np.bool_] | None:
        return split.find_leaked(self.corrections.correct(self.load_split("train")))

    def _table(self, stage: Stage) -> FerTable:
        file = find_file(self.path, stage)
        if file not in self._tables:
            self._tables[file] = read_table(file, self.on_bad_row, self.cache_dir)
        return self._tables[file]

    @cached_property
    def _held_out(self) -> npt.NDArray[np.bool_]:
        """Which readable rows of a file without Usage are for validation."""
        table = self._table("train")
        labels = table.labels[table.readable]
        if len(labels) < 2:
            raise FaceExprError(f"{table.path} holds 1 row; expected 2 or more, to hold some out for validation")
        held_out = stratified_holdout(labels, self.holdout, self.holdout_seed)
        rank_zero_info(
            f"{table.path} has no column Usage: {held_out.sum():,} of {len(labels):,} rows are held out for "
            f"validation, the same share of every class (holdout={self.holdout}, holdout_seed={self.holdout_seed})"
        )
        return held_out


def stratified_holdout(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose rows at random, the same share of every class and ``fraction`` of all, at least one and never all.

    The choice depends on the labels, int64 (N,) with N of 2 or more, and the seed only. Returns bool (N,).
    """
    count = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[stratify(labels, np.random.default_rng(seed).permutation(len(labels)))[:count]] = True
    return chosen


def find_file(path: str, stage: Stage) -> Path:
    """Return the file that a stage reads, of those that a path, to a file or a folder, stands for.

    Test and predict read Kaggle's test.csv, where the main file does not say itself which rows are for the test.

    Raises:
        FaceExprError: there is nothing there, or nothing of FER-2013, or nothing for the stage.
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
    if test is not None and stage in ("test", "predict") and not (main and _has_usage(main)):
        return test
    if main is None:
        raise FaceExprError(f"path: {test} is for test and predict only; expected train.csv or fer2013.csv")
    return main


def _has_usage(file: Path) -> bool:
    with csv_stream(file) as stream:
        return "usage" in _read_columns(file, stream)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


@dataclass(frozen=True)
class FerTable:
    """All rows of a FER-2013 file as arrays, those that cannot be read among them; `parse_csv` says what they hold."""

    path: Path
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    usages: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.str_]

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Which rows can be read, bool (N,)."""
        return np.asarray(self.reasons == "")

    @property
    def has_labels(self) -> bool:
        """Whether the rows carry labels."""
        return bool((self.labels != NO_LABEL).any())

    @property
    def has_usage(self) -> bool:
        """Whether the rows say which split they belong to."""
        return bool((self.usages != NO_USAGE).any())

    def rows(self, stage: Stage) -> npt.NDArray[np.int64]:
        """Return the places of the rows whose Usage belongs to a stage.

        Raises:
            FaceExprError: there is none.
        """
        rows = np.flatnonzero(self.usages == USAGE_OF[stage])
        if len(rows) == 0:
            raise FaceExprError(
                f"{self.path} has no row with Usage {USAGES[USAGE_OF[stage]]}, so there is no {stage} split; expected "
                "the whole of FER-2013"
            )
        return rows

    def split(self, rows: npt.NDArray[np.int64], targets: Tensor | None = None) -> FaceSplit:
        """Make a split.

        Args:
            rows: places of the rows that belong to it, ascending; those that cannot be read become its failures.
            targets: labels of those that can, in the place of the file's own.
        """
        readable = self.readable[rows]
        good, bad = rows[readable], np.flatnonzero(~readable)
        if targets is None and self.has_labels:
            targets = torch.from_numpy(_picked(self.labels, good))
        return FaceSplit(
            images=torch.from_numpy(_picked(self.images, good)).unsqueeze(1),
            targets=targets,
            sources=[f"{self.path.name}:{line}" for line in self.lines[good].tolist()],
            failures=[
                Failure(int(place), f"{self.path.name}:{self.lines[rows[place]]}", str(self.reasons[rows[place]]))
                for place in bad
            ],
        )


def read_table(path: Path, on_bad_row: BadRowPolicy, cache_dir: str | None) -> FerTable:
    """Read a CSV file, or the cache of it in ``cache_dir``; None finds a folder.

    Raises:
        FaceExprError: the file cannot be read, is not one of FER-2013's, holds no row, or holds rows that cannot be
            read and ``on_bad_row`` is ``stop``.
    """
    table = FerTable(path, **load_cached([path], "fer2013-2", lambda: parse_csv(path), cache_dir))
    bad, total = np.flatnonzero(~table.readable), len(table.lines)
    if total == 0:
        raise FaceExprError(f"{path} holds a header and no rows; expected one row for each image")
    foreign = [int(table.lines[row]) for row in bad if table.reasons[row].startswith("label '7'")]
    if foreign:
        raise FaceExprError(
            f"{path}, line {foreign[0]}: label 7, which {counted(len(foreign), 'row has', 'rows have')}, is in FER+'s "
            "numbering alone, in which 0 to 6 mean neutral, happiness, surprise, sadness, anger, disgust, fear and not "
            f"{', '.join(FER_NAMES)}: every label would be misread; expected FER-2013's numbers, or FERPlus for votes"
        )
    problems = list_problems(path, [(int(table.lines[row]), str(table.reasons[row])) for row in bad], total)
    if len(bad) and on_bad_row == "stop":
        raise FaceExprError(f"{problems}; correct them, or set on_bad_row to skip")
    if len(bad) == total:
        raise FaceExprError(f"{problems}, so that no image is left; expected rows as in fer2013.csv")
    if len(bad):
        rank_zero_warn(f"{problems}; they are skipped")
    return table


def list_problems(path: Path, problems: Sequence[tuple[int, str]], total: int) -> str:
    """Say how many of a file's rows cannot be read, given their lines and reasons: for each reason its first lines."""
    lines: dict[str, list[str]] = {}
    for line, reason in problems:
        lines.setdefault(reason, []).append(str(line))
    listed = [
        f"line {at[0]}: {reason}" if len(at) == 1 else f"{len(at):,} rows, lines {some(at)}: {reason}"
        for reason, at in lines.items()
    ]
    more = f"; and {len(listed) - LISTED:,} more reasons" if len(listed) > LISTED else ""
    return f"{path}: {len(problems):,} of {total:,} rows cannot be read ({'; '.join(listed[:LISTED])}{more})"


def _picked(array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return the rows, ascending; as a view where they follow one another, which saves a copy."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return array[int(rows[0]) : int(rows[-1]) + 1]
    return array[rows]


class BadRowError(ValueError):
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


def read_header(path: Path, stream: BufferedIOBase, expected: str) -> list[str]:
    """Read the names of a file's columns.

    Raises:
        FaceExprError: the file is empty or no text; the message ends with what is expected.
    """
    header = stream.readline(_HEADER_LIMIT)
    if not header:
        raise FaceExprError(f"{path} is empty; {expected}")
    if b"\0" in header:
        raise FaceExprError(f"{path} is not a text file (an archive has to be unpacked first); {expected}")
    return [_trim(name).decode("utf-8", "replace") for name in header.removeprefix(b"\xef\xbb\xbf").split(b",")]


def read_rows(stream: BufferedIOBase) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the line of each row after the header, counted from 1, and its fields; blank lines are no rows."""
    for line, text in enumerate(stream, start=2):
        if not text.isspace():
            yield line, [_trim(field) for field in text.split(b",")]


def name_fields(names: Sequence[str], fields: Sequence[bytes]) -> dict[str, bytes]:
    """Return the fields of a row by the names of their columns.

    Raises:
        BadRowError: they are not one for each column.
    """
    if len(fields) != len(names):
        raise BadRowError(f"{counted(len(fields), 'field')}, expected {len(names)}")
    return dict(zip(names, fields, strict=True))


def parse_usage(field: bytes) -> int:
    """Return the code of a value of the column Usage.

    Raises:
        BadRowError: it is none of `USAGES`.
    """
    return _find_code(field, _USAGE_CODES, "Usage", ", ".join(USAGES))


def shorten(field: bytes | str, limit: int = 24) -> str:
    """Return a text of a file in quotes, or its beginning."""
    text = field if isinstance(field, str) else field.decode("utf-8", "replace")
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


def _read_columns(path: Path, stream: BufferedIOBase) -> list[str]:
    header = read_header(path, stream, _EXPECTED)
    names = [name.lower() for name in header]
    if "pixels" not in names or any(names.count(name) > 1 for name in ("pixels", "emotion", "usage")):
        raise FaceExprError(f"{path} is not FER-2013: line 1 reads {shorten(', '.join(header), 60)}; {_EXPECTED}")
    return names


def parse_csv(path: Path) -> Arrays:
    """Read all rows; blank lines are no rows.

    Returns:
        ``images`` uint8 (N, 48, 48), ``labels`` int64 (N,) with `NO_LABEL` where the file has none, ``usages`` uint8
        (N,), codes of `USAGES` or `NO_USAGE`, ``lines`` int64 (N,), the rows' lines in the file, counted from 1, and
        ``reasons`` str (N,), why a row cannot be read: empty where it can. The image of a row that cannot is black.

    Raises:
        FaceExprError: the file cannot be read or is not one of FER-2013's.
    """
    pixels = bytearray()
    rows: list[tuple[int, int, int]] = []
    reasons: list[str] = []
    with csv_stream(path) as stream:
        names = _read_columns(path, stream)
        for line, values in read_rows(stream):
            usage, label, image, reason = NO_USAGE, NO_LABEL, bytes(SIDE * SIDE), ""
            try:
                fields = name_fields(names, values)
                if "usage" in fields:
                    usage = parse_usage(fields["usage"])
                if "emotion" in fields:
                    label = _find_code(fields["emotion"], _LABELS, "label", f"0 to {len(FER_NAMES) - 1}")
                image = _parse_pixels(fields["pixels"])
            except BadRowError as error:
                label, reason = NO_LABEL, str(error)
            pixels += image
            rows.append((line, usage, label))
            reasons.append(reason)
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return {
        "images": np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE),
        "labels": table[:, 2].copy(),
        "usages": table[:, 1].astype(np.uint8),
        "lines": table[:, 0].copy(),
        "reasons": np.array(reasons, dtype=np.str_),
    }


def _trim(field: bytes) -> bytes:
    return field.strip().strip(b'"').strip()


def _find_code(field: bytes, codes: dict[bytes, int], what: str, expected: str) -> int:
    code = codes.get(field.lower())
    if code is None:
        raise BadRowError(f"{what} {shorten(field)}, expected {expected}")
    return code


def _parse_pixels(text: bytes) -> bytes:
    if not text:
        raise BadRowError("no pixels")
    # numpy's parser is the fastest there is, but stops without a word at what it cannot read.
    whole = not text.translate(None, b"0123456789 \t")
    values = np.fromstring(text, dtype=np.int64, sep=" ") if whole else np.empty(0, np.int64)
    if whole and values.size != SIDE * SIDE:
        raise BadRowError(f"{values.size} of {SIDE * SIDE} values")
    if not whole or values.max() > 255:
        wrong = next(value for value in text.split() if not value.isdigit() or int(value) > 255)
        raise BadRowError(f"pixel {shorten(wrong)}, expected whole numbers from 0 to 255")
    return values.astype(np.uint8).tobytes()
