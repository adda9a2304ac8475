"""The folder of the results: one record an image as JSON, one row a face as CSV, written as they come."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from faceexpr.errors import FaceExprError
from faceexpr.files import lock, write_file
from faceexpr.pipeline.inputs import CROPS, OPTIONS, PICTURES
from faceexpr.pipeline.result import NOT_FINITE

RECORDS, ROWS = "faces.jsonl", "faces.csv"

COLUMNS = ("image", "status", "reason", "width", "height", "face", "left", "top", "right", "bottom", "score")
"""Columns of the CSV file before those of the expression and of each class's probability."""

_FIELDS = {"image", "name", "status", "reason", "width", "height", "faces", "notes"}
_FACE_FIELDS = {"box", "score", "expression", "probabilities"}


@dataclass(frozen=True)
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


class Output:
    """The folder of the results, new or of a run that was interrupted.

    An image is done once its line in ``faces.jsonl`` is whole. What is left of a line that was being written is cut
    off; the CSV file is made from the lines.

    Args:
        folder: of the results.
        options: what the results depend on.
        class_names: names of the classifier's classes.

    Raises:
        FaceExprError: the folder holds results of other options, or other files where the results would be, or cannot
            be written, or another analysis is writing to it.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], class_names: Sequence[str]) -> None:
        self.folder = folder
        self.class_names = tuple(class_names)
        self._claim(options)
        self.done: dict[str, Done] = {}
        self._records: BinaryIO = (folder / RECORDS).open("a+b")
        if not lock(self._records):
            raise FaceExprError(
                f"--out: another analysis is writing to {folder}; expected its end to be waited for, or another folder"
            )
        _cut_torn_line(self._records)
        rows = [_header(self.class_names)]
        for record in read_records(folder / RECORDS):
            failed = record["status"] != "ok"
            self.done[record["image"]] = Done(record["name"], failed, len(record["faces"]))
            rows += as_rows(record, self.class_names)
        write_file(folder / ROWS, "".join(rows))
        self._rows: BinaryIO = (folder / ROWS).open("ab")

    def _claim(self, options: Mapping[str, Any]) -> None:
        place = self.folder / OPTIONS
        if place.is_file():
            before = _options_in(place)
            for name, value in options.items():
                if _meaning(before.get(name)) != _meaning(value):
                    raise FaceExprError(
                        f"--out: {self.folder} holds results with {name} {_shown(before.get(name))}, and this run has "
                        f"{_shown(value)}; expected the same options, with which it goes on, or another folder"
                    )
            return
        for name in (RECORDS, ROWS, PICTURES, CROPS):
            path = self.folder / name
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                raise FaceExprError(
                    f"--out: {path} is there already, and no analysis has written it; expected a folder without it"
                )
        write_file(place, json.dumps(options, ensure_ascii=False, indent=2) + "\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the record of an image, and its rows.

        Raises:
            FaceExprError: the disk is full, or the like.
        """
        try:
            for file, text in (
                (self._records, as_line(record)),
                (self._rows, "".join(as_rows(record, self.class_names))),
            ):
                file.write(_encoded(text))
                file.flush()
        except OSError as error:
            raise FaceExprError(f"--out: {self.folder} cannot be written to: {error.strerror}") from error
        self.done[record["image"]] = Done(record["name"], record["status"] != "ok", len(record["faces"]))

    def close(self) -> None:
        """Close the files."""
        for file in (self._records, self._rows):
            # What could not be written for want of space is tried again here; `write` has told of it.
            with suppress(OSError):
                file.close()


def _options_in(path: Path) -> dict[str, Any]:
    try:
        options = json.loads(path.read_bytes())
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise FaceExprError(f"--out: {path} does not hold the options of an analysis; expected a folder without it")
    return options


def _meaning(value: Any) -> Any:
    # The same weights may lie elsewhere by now, and others in their place.
    return value["sha256"] if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    return f"{value['path']} ({value['sha256'][:8]})" if isinstance(value, dict) else str(value)


def _encoded(text: str) -> bytes:
    # A file name whose bytes are no text is written with backslash escapes, which JSON reads back as they were.
    return text.encode("utf-8", "backslashreplace")


def _cut_torn_line(file: BinaryIO) -> None:
    """Cut off what follows the last end of a line."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        file.truncate(end)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a results file; none where there is no file.

    A last line that was not written to its end is left out.

    Raises:
        FaceExprError: a line is not a record.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:  # as bytes: text would end lines at other characters too
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not _is_record(record):
                raise FaceExprError(f"{path}, line {number} is not a record of an image; expected one")
            yield record


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _FIELDS
        and isinstance(value["faces"], list)
        and all(isinstance(face, dict) and face.keys() == _FACE_FIELDS for face in value["faces"])
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
        yield _csv_line(
            whole[0], status, reason, *whole[1:], number, *face["box"], face["score"], face["expression"],
            *(values(name) for name in class_names), "; ".join(record["notes"]),
        )  # fmt: skip
    if not faces:
        empty = [None] * (len(COLUMNS) - 5 + 1 + len(class_names))
        yield _csv_line(whole[0], record["status"], record["reason"], *whole[1:], *empty, "; ".join(record["notes"]))


def _header(class_names: Sequence[str]) -> str:
    return _csv_line(*COLUMNS, "expression", *class_names, "notes")


def _csv_line(*cells: Any) -> str:
    text = io.StringIO()
    # With both characters as the end of a line, either of them in a file name is quoted; one is written.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def fingerprint(path: Path) -> dict[str, str]:
    """Return the path of a file and what tells whether it still holds the same."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"path": str(path), "sha256": digest.hexdigest()}
