"""The list of all images of an analysis by several processes: it is the same for all of them, and grows at its end.

It lies in files that are written once and never changed: ``parts/inputs-1.jsonl``, and further ones where images were
added. A process that comes second to write one takes the first one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from faceexpr.pipeline.names import Names
from faceexpr.pipeline.records import RECORDS, read_records
from faceexpr.pipeline.shard import PARTS
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_once


def settle(out: Path, wanted: Mapping[str, str]) -> dict[str, str]:
    """Put images at the end of the list that are not in it yet.

    A list that is begun begins with what one process has analysed before.

    Args:
        out: folder of the results.
        wanted: the place that each image would like below ``pictures`` and ``crops``.

    Returns:
        The name of each image of the list, in its order.
    """
    while True:
        listed = dict(read_manifest(out))
        before = listed or {record["image"]: record["name"] for record in read_records(out / RECORDS)}
        missing = [source for source in wanted if source not in before]
        if listed and not missing:
            return listed
        names = Names(before.values())
        added = {source: names.free(wanted[source]) for source in missing}
        lines = (added if listed else before | added).items()
        write_once(
            _file(out, len(_files(out)) + 1), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        )


def read_manifest(out: Path) -> Iterator[tuple[str, str]]:
    """Yield each image with its name, in the order of the results; nothing where there is no list.

    Raises:
        FaceExprError: a line is not of such a list.
    """
    for path in _files(out):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = None
                match entry:
                    case [str(source), str(name)]:
                        yield source, name
                    case _:
                        raise FaceExprError(f"{path}, line {number} is not an image and its name; expected both")


def _files(out: Path) -> list[Path]:
    found = []
    for number in count(1):
        if not (path := _file(out, number)).is_file():
            break
        found.append(path)
    return found


def _file(out: Path, number: int) -> Path:
    return out / PARTS / f"inputs-{number}.jsonl"
