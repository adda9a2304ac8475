"""TensorBoard's event files: read the curves, and copy everything but the pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceexpr.utils.files import write_file

PATTERN = "events.out.tfevents.*"

Curve = list[tuple[int, float]]
"""Steps and values, in order."""


def curves(folder: Path, tags: Sequence[str]) -> dict[str, Curve]:
    """Return scalars of a run folder by tag; a training that was resumed has several event files.

    Args:
        folder: of the run.
        tags: their names; one that the run has not is left out.
    """
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob(PATTERN)):
        for event in events(path):
            for value in event.summary.value:
                if value.tag in tags and value.WhichOneof("value") == "simple_value":
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return {tag: sorted(found[tag].items()) for tag in tags if tag in found}


def minutes(folder: Path) -> float:
    """Return for how long a training wrote to TensorBoard, all attempts together, in minutes.

    Args:
        folder: of the run.
    """
    seconds = 0.0
    for path in folder.glob(PATTERN):
        times = [event.wall_time for event in events(path)]
        seconds += max(times, default=0.0) - min(times, default=0.0)
    return seconds / 60


def copy_small(source: Path, target: Path) -> None:
    """Copy an event file but for its images, and the number of the epoch that Lightning writes beside every value.

    All other scalars, texts and hyper-parameters stay as they are.

    Args:
        source: the event file.
        target: the copy; it is replaced.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events(source):
        values = [
            value for value in event.summary.value if value.WhichOneof("value") != "image" and value.tag != "epoch"
        ]  # fmt: skip
        if event.WhichOneof("what") == "summary" and len(values) < len(event.summary.value):
            if not values:
                continue
            del event.summary.value[:]
            event.summary.value.extend(values)
        writer.write(event.SerializeToString())
    write_file(target, content.getvalue())


def events(path: Path) -> Iterator[Any]:
    """Yield the events of a file, plain values as they were written."""
    # The newer loader would turn plain values into tensors.
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    yield from LegacyEventFileLoader(str(path)).Load()
