"""What is written of an image: a record as a line of JSON, and its faces as rows of CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceexpr.pipeline.result import NOT_FINITE
from faceexpr.utils.errors import FaceExprError

RECORDS, ROWS = "faces.jsonl", "faces.csv"

COLUMNS = ("image", "status", "reason", "width", "height", "face", "left", "top", "right", "bottom", "score")
"""Columns of the CSV file before those of the expressions and of each class's probability."""

_EXPRESSIONS = ("expression", "expressions")
_FIELDS = {"image", "name", "status", "reason", "width", "height", "faces", "notes"}
_FACE_FIELDS = {"box", "score", "expression", "expressions", "probabilities"}
_LATER = {"expressions"}  # which records of earlier versions do not have


@dataclass(frozen=True, slots=True)
class Done:
    """What is known of an image that was analysed before.

    Attributes:
        name: of its files below ``pictures`` and ``crops``.
        failed: it has an error.
        faces: how many faces it has.
    """

    name: str
    failed: bool
    faces: int


def done_with(record: Mapping[str, Any]) -> Done:
    """Return what is to be remembered of a record."""
    return Done(record["name"], record["status"] != "ok", len(record["faces"]))


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a results file; none where there is no file.

    A last line that was not written to its end, or is being written, is left out.

    Raises:
        FaceExprError: a line is not a record.
    """
    for _, record in placed_records(path):
        yield record


def placed_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Do the same as `read_records`, and give the place in the file, in bytes, at which each begins."""
    if not path.is_file():
        return
    place = 0
    with path.open("rb") as file:  # as bytes: text would end lines at other characters too
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield place, as_record(line, f"{path}, line {number}")
            place += len(line)


def as_record(line: bytes, where: str) -> dict[str, Any]:
    """Return the record that a line holds.

    Raises:
        FaceExprError: it is none; the sentence begins with ``where``.
    """
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not _is_record(record):
        raise FaceExprError(f"{where} is not a record of an image; expected one")
    checked: dict[str, Any] = record
    return checked


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _FIELDS
        and all(isinstance(value[field], str) for field in ("image", "name"))
        and all(isinstance(value[field], list) for field in ("faces", "notes"))
        and all(isinstance(face, dict) and face.keys() | _LATER == _FACE_FIELDS for face in value["faces"])
        and all(isinstance(face["box"], list) and len(face["box"]) == 4 for face in value["faces"])
    )


def as_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of strict JSON."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def as_rows(record: Mapping[str, Any], class_names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of CSV for an image: one a face, or one whose cells of a face are empty."""
    whole = (record["image"], record["width"], record["height"])
    faces = record["faces"]
    for number, face in enumerate(faces, 1):
        broken = face["probabilities"] is None
        status, reason = ("error", NOT_FINITE) if broken else ("ok", None)
        values = (face["probabilities"] or {}).get
        together = "; ".join(face.get("expressions") or ())
        yield _csv_line(
            whole[0], status, reason, *whole[1:], number, *face["box"], face["score"], face["expression"],
            together, *(values(name) for name in class_names), "; ".join(record["notes"]),
        )  # fmt: skip
    if not faces:
        empty = [None] * (len(COLUMNS) - 5 + len(_EXPRESSIONS) + len(class_names))
        yield _csv_line(whole[0], record["status"], record["reason"], *whole[1:], *empty, "; ".join(record["notes"]))


def header(class_names: Sequence[str]) -> str:
    """Return the first line of the CSV file."""
    return _csv_line(*COLUMNS, *_EXPRESSIONS, *class_names, "notes")


def classes_in(rows: Path) -> tuple[str, ...]:
    """Return the names of the classes in the first line of a CSV file.

    Raises:
        FaceExprError: it does not begin as one of ours.
    """
    with rows.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file), [])
    first = len(COLUMNS) + len(_EXPRESSIONS)
    if tuple(names[:first]) != (*COLUMNS, *_EXPRESSIONS) or names[-1] != "notes":
        raise FaceExprError(f"{rows} does not begin with the columns of an analysis; expected what one has written")
    return tuple(names[first:-1])


def _csv_line(*cells: Any) -> str:
    text = io.StringIO()
    # With both characters as the end of a line, either of them in a file name is quoted; one is written.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"
