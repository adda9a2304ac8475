"""FER-2013's CSV files: their columns, and all of their rows in one pass."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faceexpr.data.cache import Arrays
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

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
