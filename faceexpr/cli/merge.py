"""``faceexpr merge``: the parts of several processes as the results that one process would have written."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from faceexpr.cli.parser import Parser
from faceexpr.data.annotations.reading import read_annotations
from faceexpr.pipeline.coco import FILE, write_coco
from faceexpr.pipeline.manifest import read_manifest
from faceexpr.pipeline.output import own
from faceexpr.pipeline.progress import tell
from faceexpr.pipeline.records import (
    RECORDS,
    ROWS,
    Done,
    as_record,
    as_rows,
    classes_in,
    done_with,
    header,
    placed_records,
    read_records,
)
from faceexpr.pipeline.shard import PARTS, is_written, part_folders, record_files
from faceexpr.utils.errors import SOME_FAILED, FaceExprError
from faceexpr.utils.files import as_bytes, replacing, say
from faceexpr.utils.text import counted, some

_MOST_OPEN = 200
"""Files that are open at once; systems allow 256 and more."""

DESCRIPTION = (
    "Put the parts that several processes of `faceexpr analyze` have written together: OUT/faces.jsonl and "
    "OUT/faces.csv are what one process would have written. It may be run again at any time."
)


@dataclass(frozen=True)
class MergeOptions:
    """What is merged, and what is written.

    Args:
        coco: also write the boxes as COCO detections, to OUT/detections.json.
        annotations: file whose ids the COCO detections have; by default images are numbered as in faces.jsonl.
        images: folder of the images that annotations name.
        partial: write what there is although some images are not analysed yet.
        remove_parts: remove the parts once all images are analysed and merged.
    """

    coco: bool = False
    annotations: Path | None = None
    images: Path | None = None
    partial: bool = False
    remove_parts: bool = False


def run(args: list[str]) -> None:
    """Run ``faceexpr merge``."""
    parser = Parser(prog="faceexpr merge", description=DESCRIPTION)
    parser.add_argument("out", type=Path, metavar="OUT", help="Folder of the results, --out of the analysis.")
    parser.add_class_arguments(MergeOptions)
    config = parser.parse_args(args[1:])
    merge(config.out, MergeOptions(**{name: config[name] for name in MergeOptions.__dataclass_fields__}))


def merge(out: Path, options: MergeOptions) -> None:
    """Merge the parts of an analysis.

    Args:
        out: folder of the results.
        options: what is merged, and what is written.

    Raises:
        FaceExprError: an option is wrong, there is nothing to merge, or a file is damaged.
        SystemExit: some images are not analysed yet, or could not be analysed.
    """
    if not options.coco and options.annotations is not None:
        raise FaceExprError("--annotations is for the ids of COCO detections; expected --coco true with it")
    if options.annotations is None and options.images is not None:
        raise FaceExprError("--images is for the images that annotations name; expected --annotations with it")
    annotations = None if options.annotations is None else read_annotations(options.annotations, options.images)
    with _kept(out, options.remove_parts):
        index = Index(out)
        missing = [source for source, _ in read_manifest(out) if source not in index.places]
        if not index.places and not missing:
            raise FaceExprError(f"{out} holds no results; expected --out of an analysis")
        if missing:
            total = len(index.places) + len(missing)
            busy = sum(is_written(records) for records in index.files)
            writing = f"; {counted(busy, 'process is', 'processes are')} still writing" if busy else ""
            say(f"{len(missing):,} of {total:,} images are not analysed yet{writing}: {some(missing)}")
            if not options.partial:
                say("nothing is merged; the command of the analysis goes on with what is still there")
                say("--partial true merges what is done")
                raise SystemExit(SOME_FAILED)
        failed = tell(_write(out, index))
        say(f"written to {out / RECORDS} and {out / ROWS}")
        if options.coco:
            write_coco(out / FILE, read_records(out / RECORDS), annotations, str(options.annotations))
        if options.remove_parts and missing:
            say("the parts are kept, since some images are not analysed yet")
        elif options.remove_parts:
            shutil.rmtree(out / PARTS, ignore_errors=True)
    if failed or missing:
        raise SystemExit(SOME_FAILED)


@contextmanager
def _kept(out: Path, with_parts: bool) -> Iterator[None]:
    """Keep others from writing what is replaced or removed."""
    with ExitStack() as stack:
        for folder in (out, *(part_folders(out) if with_parts else ())):
            if (folder / RECORDS).is_file():
                stack.enter_context(own(folder / RECORDS, shared=True))
        yield


class Index:
    """Where the record of each image is; the first of several.

    Args:
        out: folder of the results.
    """

    def __init__(self, out: Path) -> None:
        self.files = record_files(out)
        self.places: dict[str, tuple[int, int]] = {}
        for number, path in enumerate(self.files):
            for place, record in placed_records(path):
                self.places.setdefault(record["image"], (number, place))
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def line(self, source: str) -> bytes:
        """Return the record of an image as it was written."""
        number, place = self.places[source]
        if number not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[number] = self.files[number].open("rb")
        self._open.move_to_end(number)
        self._open[number].seek(place)
        return self._open[number].readline()

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()


def _write(out: Path, index: Index) -> list[Done]:
    """Write the records in the order of the inputs, and return what is in them."""
    listed = dict.fromkeys(source for source, _ in read_manifest(out) if source in index.places)
    sources = [*listed, *(source for source in index.places if source not in listed)]
    tables = [table for path in index.files if (table := path.with_name(ROWS)).is_file()]
    if not tables:
        raise FaceExprError(f"{out} holds no {ROWS}, which names the classes; expected that of any part")
    class_names = classes_in(tables[0])
    done = []
    try:
        with replacing(out / ROWS) as rows, replacing(out / RECORDS) as records:
            rows.write(as_bytes(header(class_names)))
            for source in sources:
                line = index.line(source)
                record = as_record(line, f"{index.files[index.places[source][0]]}: the line of {source}")
                records.write(line)
                rows.write(as_bytes("".join(as_rows(record, class_names))))
                done.append(done_with(record))
    finally:
        index.close()
    return done
