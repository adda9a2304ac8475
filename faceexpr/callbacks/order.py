"""The order in which callbacks have their turn."""

from __future__ import annotations

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from faceexpr.callbacks.last_checkpoint import LastCheckpoint
from faceexpr.callbacks.preemption import Preemption


def turn(callback: Callback) -> int:
    """Return a callback's place in the order.

    The state at the end of a training is saved when the reports are written, which a run that has ended would not do
    again, but before averaged weights take the place of the trained ones. Other checkpoints hold averages of the same
    step, and so come last, where Lightning has put them.
    """
    if isinstance(callback, Preemption):
        return -1  # it heeds signals from its first moment on
    if isinstance(callback, LastCheckpoint):
        return 1
    if isinstance(callback, WeightAveraging):
        return 2
    return 3 if isinstance(callback, Checkpoint) else 0
