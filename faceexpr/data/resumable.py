"""Loaders that go on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Batch = TypeVar("Batch")

POSITION = "train_position"
"""Key of a checkpoint: the training loader's position, as its ``state_dict`` gives it."""


class ResumableLoader:
    """What a loader needs for Lightning to save its position, and to go on from it.

    The position is that of the training, not that of processes which prepare batches in advance. The order of an
    epoch is a function of its seed and its number, so a resumed epoch leaves out the batches that were trained, and
    none of them is read.

    Attributes:
        sampler: the `BatchSampler` that says what each batch holds.
    """

    sampler: Any
    _given = 0

    def counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an epoch and count them, with those that it leaves out."""
        self._given = self.sampler.first
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of the epoch, of the batches that were taken from it, and of the samples in a step."""
        return {"epoch": self.sampler.epoch, "batches": self._given, "samples": self.sampler.together}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave those batches out when that epoch is iterated over; any other epoch is whole."""
        self.sampler.leave_out(state["epoch"], state["batches"])
