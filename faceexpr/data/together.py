"""What the processes of a run tell each other about their data."""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

Value = TypeVar("Value")


def process() -> tuple[int, int]:
    """Return this process's place among those of the run, and their number."""
    together = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)


def gathered(value: Value) -> list[Value]:
    """Return the values of all processes, in their order; every process has to ask."""
    _, processes = process()
    if processes == 1:
        return [value]
    values: list[Value | None] = [None] * processes
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # all are filled
