"""The records that one process writes: one an image as JSON, one row a face as CSV, as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from faceexpr.pipeline.records import RECORDS, ROWS, Done, as_line, as_rows, done_with, header, read_records
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import as_bytes, lock, replacing

_TRIES, _PAUSE = 10, 0.05  # seconds; whoever only looks whether a file is being written keeps it for a moment


class Output:
    """The files of the records, new or of a run that was interrupted.

    An image is done once its line in ``faces.jsonl`` is whole. What is left of a line that was being written is cut
    off; the CSV file is made from the lines.

    Args:
        folder: where they are.
        class_names: names of the classifier's classes.

    Raises:
        FaceExprError: the files cannot be written, or another analysis is writing to them.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder = folder
        self.class_names = tuple(class_names)
        self.done: dict[str, Done] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._records = own(folder / RECORDS)
        _cut_torn_line(self._records)
        with replacing(folder / ROWS) as rows:
            rows.write(as_bytes(header(self.class_names)))
            for record in read_records(folder / RECORDS):
                self.done[record["image"]] = done_with(record)
                rows.write(as_bytes("".join(as_rows(record, self.class_names))))
        self._rows: BinaryIO = (folder / ROWS).open("ab")

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
                file.write(as_bytes(text))
                file.flush()
        except OSError as error:
            raise FaceExprError(f"--out: {self.folder} cannot be written to: {error.strerror}") from error
        self.done[record["image"]] = done_with(record)

    def close(self) -> None:
        """Close the files."""
        for file in (self._records, self._rows):
            # What could not be written for want of space is tried again here; `write` has told of it.
            with suppress(OSError):
                file.close()


def own(records: Path, shared: bool = False) -> BinaryIO:
    """Open a file of records to read it and write to its end, for this process alone.

    Args:
        records: the file.
        shared: keep others from writing, but not from looking whether somebody does.

    Raises:
        FaceExprError: another process has it.
    """
    for attempt in range(_TRIES):
        file = records.open("a+b")
        # Merging puts another file in its place, and the old one must not be written to.
        if lock(file, shared) and records.exists() and os.path.samestat(os.fstat(file.fileno()), records.stat()):
            return file
        file.close()
        time.sleep(_PAUSE if attempt < _TRIES - 1 else 0)
    raise FaceExprError(
        f"--out: another analysis is writing to {records.parent}; expected its end to be waited for, or another folder"
    )


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
