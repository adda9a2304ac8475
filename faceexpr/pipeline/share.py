"""What a process has to do: its images with their names, what is done of them, and where it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from faceexpr.pipeline.inputs import Inputs
from faceexpr.pipeline.manifest import settle
from faceexpr.pipeline.names import Names
from faceexpr.pipeline.output import Output
from faceexpr.pipeline.pipeline import Input
from faceexpr.pipeline.records import done_with, read_records
from faceexpr.pipeline.shard import PARTS, Shard, part_folder, record_files, refuse_others


@dataclass(frozen=True)
class Share:
    """The images of a process.

    Attributes:
        names: of each image, below ``pictures`` and ``crops``; in order.
        inputs: where they come from.
        output: takes their records, and knows which are done.
        part: begins what the process says; empty where it is alone.
    """

    names: Mapping[str, str]
    inputs: Inputs
    output: Output
    part: str

    def done(self) -> int:
        """Return how many of the images are done."""
        return sum(source in self.output.done for source in self.names)

    def remaining(self) -> Iterator[Input]:
        """Yield the images that are not done yet."""
        for source in self.names:
            if source not in self.output.done:
                member = self.inputs.members.get(source)
                yield source if member is None else (source, member)


def folder_of(out: Path, shard: Shard) -> Path:
    """Return where a process writes its records: a part's folder where there are several processes, or have been.

    One process alone goes on with parts as a part of its own, so that all images keep their order.
    """
    return out if shard.count == 1 and not (out / PARTS).is_dir() else part_folder(out, shard)


def share_out(out: Path, inputs: Inputs, shard: Shard, output: Output) -> Share:
    """Return what is to be done by the process that has opened its files.

    Args:
        out: folder of the results.
        inputs: all images.
        shard: which process this is.
        output: in the folder that `folder_of` returns; what others have done is added to what it knows.

    Raises:
        FaceExprError: another analysis is writing there, or a file there is damaged.
    """
    alone = output.folder == out
    refuse_others(out, None if alone else shard)
    if alone:
        names = Names(done.name for done in output.done.values())
        given = {
            source: output.done[source].name if source in output.done else names.free(place)
            for source, place in inputs.places.items()
        }
        return Share(given, inputs, output, "")
    everything = settle(out, inputs.places)
    ours = {
        source: name
        for position, (source, name) in enumerate(everything.items())
        if shard.takes(position) and source in inputs.places
    }
    for path in record_files(out):
        for record in read_records(path):
            if record["image"] in ours:
                output.done.setdefault(record["image"], done_with(record))
    return Share(ours, inputs, output, f"part {shard}: ")
