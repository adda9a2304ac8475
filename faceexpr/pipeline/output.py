"""Write the records of an analysis: one process's files, the parts of several, what merges these, and COCO's file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from faceexpr.data.annotations.reading import Annotations
from faceexpr.pipeline.records import (
    COCO,
    CROPS,
    EXPLAINED,
    OPTIONS,
    PARTS,
    PICTURES,
    RECORDS,
    ROWS,
    csv_rows,
    read_class_names,
    read_lines,
    write_rows,
)
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import as_bytes, digest, replacing, say, write_file
from faceexpr.utils.text import counted, printable, some

PLACES = RECORDS, ROWS, PICTURES, CROPS, EXPLAINED

FEW = 10
"""Images that could not be analysed, of which the reasons are printed."""


@dataclass(frozen=True)
class Shard:
    """One of ``count`` processes that divide a list of images: image ``position`` is of shard ``position % count``."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``INDEX/COUNT``, such as ``3/16``; a `FaceExprError` where the text says something else."""
        index, count = (int(part) if part.isascii() and part.isdigit() else -1 for part in text.partition("/")[::2])
        if not 0 <= index < count:
            raise FaceExprError(f"shard is {text}; expected INDEX/COUNT with INDEX from 0 to COUNT - 1, such as 3/16")
        return cls(index, count)

    def folder(self, out: Path) -> Path:
        """Return the folder of this process's records; that of the results where the process is the only one."""
        return out if self.count == 1 else out / PARTS / str(self)


def check_options(out: Path, options: Mapping[str, Any]) -> None:
    """Record the options that results depend on, or make sure that a folder holds results of the same ones.

    They are plain values; of files and lists, what they are called and their ``sha256``.

    Raises:
        FaceExprError: the folder holds results of other options, or other files where the results would be, or cannot
            be written.
    """
    before = read_options(out)
    if not before:
        for place in (out / name for name in (*PLACES, COCO, PARTS)):
            if place.is_file() or (place.is_dir() and any(place.iterdir())):
                raise FaceExprError(
                    f"out: {place} is there already, and no analysis has written it; expected a folder without it"
                )
        _write_options(out, options)
        return
    if PICTURES not in options:
        before.pop(PICTURES, None)  # as of 0.1; images that were not drawn are drawn later
    if "suppression" not in before:  # as of 0.1
        options = {name: value for name, value in options.items() if name != "suppression"}
    before, now, changed = _plain(before), _plain(options), []
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        # The same weights may lie elsewhere by now, and others in their place.
        content = [value.get("sha256", value) if isinstance(value, dict) else value for value in (old, new)]
        # An option that is false may not have been there when the folder was begun.
        if content[0] != content[1] and (name in before or new is not False):
            changed.append(f"{name} {_show(old)} -> {_show(new)}")
    if changed:
        raise FaceExprError(
            f"out: {out} holds results of other options than this run has: {', '.join(changed)}; expected the same, "
            "with which it goes on, or another folder"
        )


def read_options(out: Path) -> dict[str, Any]:
    """Return the options that the results in a folder depend on; none where there are no results."""
    path = out / OPTIONS
    if not path.is_file():
        return {}
    try:
        options = json.loads(path.read_bytes())
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise FaceExprError(f"out: {path} does not hold the options of an analysis; expected a folder without it")
    return options


def _write_options(out: Path, options: Mapping[str, Any]) -> None:
    write_file(out / OPTIONS, json.dumps(options, ensure_ascii=False, indent=2) + "\n")


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of the suppression among them, named as the command's are."""
    whole = {**options, **options.get("suppression", {})}
    return {"suppression" if name == "method" else name: whole[name] for name in whole if name != "suppression"}


def _show(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False).strip('"')
    content = value["sha256"][:8] if "sha256" in value else f"{value.get('bytes')} bytes"
    return f"{value.get('path', value.get('count'))} ({content})"


def fingerprint(path: Path) -> dict[str, str]:
    """Return the path of a file and what tells whether it still holds the same."""
    return {"path": str(path), "sha256": digest(path)}


class Summary(NamedTuple):
    """What an analysis remembers of an image that is done: its path, the name of its files, and what was found."""

    image: str
    name: str
    failed: str | None
    faces: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Summary:
        """Return what is to be remembered of a record."""
        failed = None if record["status"] == "ok" else str(record["reason"])
        return cls(record["image"], record["name"], failed, len(record["faces"]))


class Output:
    """The files of the records of one process, new or of a run that was interrupted.

    An image is done once its line in ``faces.jsonl`` is whole. What is left of a line that was being written is cut
    off; the CSV file is made from the lines.

    Args:
        folder: where they are.
        class_names: names of the classifier's classes.

    Raises:
        FaceExprError: the files cannot be written, or hold something else.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder = folder
        self.class_names = class_names
        self.done: dict[str, Summary] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._records = (folder / RECORDS).open("ab")
        end = 0
        for line, record in write_rows(folder / ROWS, class_names, read_lines(folder / RECORDS)):
            end += len(line)
            self.done[record["image"]] = Summary.of(record)
        if end < self._records.tell():
            self._records.truncate(end)
        self._rows = (folder / ROWS).open("ab")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append the record of an image, and its rows, as a whole; a `FaceExprError` where the disk is full."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            for file, text in ((self._records, line), (self._rows, csv_rows(record, self.class_names))):
                file.write(as_bytes(text))
                file.flush()
        except OSError as error:
            raise FaceExprError(f"out: {self.folder} cannot be written to: {error.strerror}") from error
        self.done[record["image"]] = Summary.of(record)

    def close(self) -> None:
        """Close the files."""
        for file in (self._records, self._rows):
            # What could not be written for want of space is tried again here; `write` has told of it.
            with suppress(OSError):
                file.close()


def merge_parts(out: Path, partial: bool) -> tuple[int, int]:
    """Put the parts of an analysis together, in the order of its images: as one process would have written them.

    Image ``position`` is in part ``position % count``, and each part holds its images in order and perhaps not yet all
    of them: the parts are read in turns, in constant memory.

    Args:
        out: folder of the results; without parts its own records are written anew.
        partial: write what there is although some images are not analysed yet.

    Returns:
        How many images are missing, and how many could not be analysed; nothing is written where some are missing and
        ``partial`` is false.

    Raises:
        FaceExprError: there is nothing to merge, or a file is damaged.
    """
    options = read_options(out)
    count = options.get("shards", 1)
    folders = [Shard(index, count).folder(out) for index in range(count)]
    tables = [folder / ROWS for folder in folders if (folder / ROWS).is_file()]
    if not tables:
        raise FaceExprError(f"{out} holds no results; expected the folder of an analysis")
    missing = _count_missing(folders, options["inputs"]["count"]) if count > 1 else 0
    if missing and not partial:
        return missing, 0

    def write() -> Iterator[Summary]:
        in_turns = chain.from_iterable(zip_longest(*(read_lines(folder / RECORDS) for folder in folders)))
        with replacing(out / RECORDS) as records:
            for line, record in write_rows(out / ROWS, read_class_names(tables[0]), filter(None, in_turns)):
                records.write(line)
                yield Summary.of(record)

    return missing, report(write())


def _count_missing(folders: Sequence[Path], total: int) -> int:
    missing = {}
    for index, folder in enumerate(folders):
        found = sum(1 for _ in read_lines(folder / RECORDS))
        missing[folder.name] = len(range(index, total, len(folders))) - found
    where = [f"{name} ({number:,})" for name, number in missing.items() if number]
    if where:
        say(f"{sum(missing.values()):,} of {total:,} images are not analysed yet; they are those of {some(where)}")
    return sum(missing.values())


def remove_parts(out: Path) -> None:
    """Remove parts that were merged: the folder is then that of one process, which can go on in it."""
    _write_options(out, {name: value for name, value in read_options(out).items() if name not in ("shards", "inputs")})
    shutil.rmtree(out / PARTS, ignore_errors=True)


def report(done: Iterable[Summary], part: str = "", printed: bool = False) -> int:
    """Say what was found in images, and return the number of those that could not be analysed.

    Where these are few, their reasons are said too, unless they were ``printed`` before.
    """
    images = faces = empty = failed = 0
    reasons = []
    for image in done:
        images += 1
        faces += image.faces
        empty += image.failed is None and not image.faces
        if image.failed is not None:
            failed += 1
            reasons += [f"  {printable(image.image)}: {image.failed}"] if failed <= FEW else []
    without = f"; {empty:,} of {images:,} without face" if empty else ""
    say(f"{part}{counted(faces, 'face')} in {counted(images, 'image')}{without}")
    if failed:
        few = not printed and failed <= FEW
        where = "" if printed else ":" if few else "; the reason of each is in its record"
        say("\n".join([f"{part}{failed:,} of {images:,} could not be analysed{where}", *(reasons if few else ())]))
    return failed


def write_coco(out: Path, annotations: Annotations | None = None, named: str = "the annotations") -> None:
    """Write the faces of all records in a folder of results as one list of COCO detections, to `COCO` beside them.

    Args:
        out: the folder.
        annotations: the file whose ids of images and of the category are used; without it an image's id is the number
            of its record, from 1, and the category is 1. Images of a format without ids have their place in it, from 1.
        named: what the annotations are called where they do not know an image, whose faces are then left out.
    """
    ids = {
        os.path.realpath(record.path): place if record.image_id is None else record.image_id
        for place, record in enumerate(annotations.images if annotations else (), 1)
    }
    category = annotations.category_id if annotations else 1
    between = "["
    unknown = 0
    with replacing(out / COCO) as file:
        for number, (_, record) in enumerate(read_lines(out / RECORDS), 1):
            image = ids.get(os.path.realpath(record["image"])) if annotations else number
            if image is None:
                unknown += 1
                continue
            for face in record["faces"]:
                left, top, right, bottom = face["box"]
                box = [left, top, round(right - left, 2), round(bottom - top, 2)]
                found = {"image_id": image, "category_id": category, "bbox": box, "score": face["score"]}
                file.write(as_bytes(between + json.dumps(found, allow_nan=False)))
                between = ", "
        file.write(b"[]\n" if between == "[" else b"]\n")
    if unknown:
        say(f"{counted(unknown, 'image is', 'images are')} not in {named}, and left out of {COCO}")
