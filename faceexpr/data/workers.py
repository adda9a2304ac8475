"""Processes that prepare batches ahead of those who need them."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from torch.utils.data import DataLoader, Dataset

from faceexpr.utils.errors import FaceExprError

MOST = 16
"""Workers of one process where the user does not say how many."""

Asked = TypeVar("Asked", contravariant=True)
Batch = TypeVar("Batch", covariant=True)


@dataclass(frozen=True)
class Workers:
    """Who prepares the batches of a process.

    Attributes:
        number: of processes; 0 is the process itself.
        pin_memory: hand batches out in memory that a GPU copies from without waiting.
    """

    number: int
    pin_memory: bool = False


def workers(asked: int | None, trainer: Trainer | None) -> Workers:
    """Return the workers of a run: as many as asked for, or the CPU cores that training leaves, `MOST` at most.

    The cores are those that the process may use, shared by the processes of the machine.
    """
    number = min(MOST, suggested_max_num_workers(trainer.num_devices if trainer else 1)) if asked is None else asked
    return Workers(number, pin_memory=trainer is not None and isinstance(trainer.accelerator, CUDAAccelerator))


class Preparing(Protocol[Asked, Batch]):
    """Prepares batches; workers get a copy, so nothing that it changes is seen elsewhere."""

    def prepare(self, asked: Asked) -> Batch:
        """Return the batch that is asked for."""


class PreparedBatches(Generic[Asked, Batch]):
    """Batches from workers, in the order in which they are asked for.

    The workers stay until `close`, so that an epoch does not wait for them to start.

    Args:
        prepare: what each worker does.
        workers: how many there are.
    """

    def __init__(self, prepare: Preparing[Asked, Batch], workers: Workers) -> None:
        self._asked = _Asked()
        self._loader: DataLoader[Any] = DataLoader(
            _Prepared(prepare),
            sampler=self._asked,
            batch_size=None,  # whole batches are asked for, so nothing is left to collate
            num_workers=workers.number,
            persistent_workers=workers.number > 0,
            pin_memory=workers.pin_memory,
            worker_init_fn=_stay if workers.number else None,
            # Else each epoch would draw a number from the generator of everything else.
            generator=torch.Generator(),
        )

    def batches(self, asked: Iterable[Asked]) -> Iterator[Batch]:
        """Yield the batches that are asked for.

        Raises:
            FaceExprError: the system has ended a worker.
        """
        self._asked.batches = iter(asked)
        prepared = iter(self._loader)
        while True:
            try:
                batch = next(prepared)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                raise FaceExprError(
                    "the system has ended a process that prepares batches, as it does where memory runs out; try a "
                    f"smaller data.num_workers than {self._loader.num_workers} or a smaller data.batch_size"
                ) from error
            yield batch

    def close(self) -> None:
        """End the workers; they start anew where further batches are asked for."""
        # torch has no public way. It ends them when the loader is deleted, but where that is up to the collection of
        # garbage its queue may go first, and each worker then takes five seconds to notice.
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None


def _stay(worker: int) -> None:
    """Let a first SIGTERM be: it may go to all processes of a job, and the one that trains says when the work is over.

    A second one ends the worker, so that nothing which has to be rid of it waits for ever.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class _Asked:
    """What the workers are asked for, which is another thing in each epoch."""

    def __init__(self) -> None:
        self.batches: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.batches


class _Prepared(Dataset[Any]):
    """What torch's workers do."""

    def __init__(self, preparing: Preparing[Any, Any]) -> None:
        self.preparing = preparing

    def __getitem__(self, asked: Any) -> Any:
        return self.preparing.prepare(asked)
