"""What every data set of the product shares, of faces and of pictures: what a checkpoint remembers, and the seed."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeVar
from weakref import WeakSet

import torch
from lightning.pytorch import LightningDataModule

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import Described, class_path, describe

Stage = Literal["train", "val", "test", "predict"]

SPLITS: dict[str, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
"""The splits that each of Lightning's verbs needs."""


class Closable(Protocol):
    """What holds something until it is closed."""

    def close(self) -> None:
        """Give it back."""


Closing = TypeVar("Closing", bound=Closable)


class FaceDataModule(Described, LightningDataModule):
    """A data set whose checkpoint remembers how to read it, and whose random numbers come from one seed.

    Attributes:
        suits: the kind of model that it is for, by what the model ``gives``: ``probabilities`` or ``detections``.
        batch_size: samples in a batch of one process.
        global_batch_size: samples in a training step of all processes together; None is a batch of each.
    """

    suits: str
    batch_size: int
    global_batch_size: int | None

    def __init__(self) -> None:
        super().__init__()
        self._opened: WeakSet[Any] = WeakSet()
        hyper_parameters = {name: describe(value, f"data.{name}") for name, value in self.init_args.items()}
        # A checkpoint remembers its data, so that it can be tested without the configuration being named again.
        self.save_hyperparameters({**hyper_parameters, "_class_path": class_path(type(self))}, logger=False)

    def __getstate__(self) -> dict[str, Any]:
        # Processes of a run that are not forked get a copy; what is opened stays here.
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=WeakSet())

    def __str__(self) -> str:
        # Lightning's makes the loaders, for which the data are read.
        return type(self).__name__

    def opened(self, loader: Closing) -> Closing:
        """Return a loader, which is closed at the end of the run if somebody still has it."""
        self._opened.add(loader)
        return loader

    def teardown(self, stage: str) -> None:
        self._close()

    def on_exception(self, exception: BaseException) -> None:
        # Lightning leaves `teardown` out. Workers that are still there would keep the process from ending.
        self._close()

    def _close(self) -> None:
        for loader in self._opened:
            loader.close()

    @property
    def seed(self) -> int:
        """The seed of the order and the augmentation: that of ``seed_everything``, the same in every process."""
        if not hasattr(self, "_seed"):
            seed = torch.initial_seed() % 2**31
            self._seed: int = self.trainer.strategy.broadcast(seed) if self.trainer else seed
        return self._seed

    @property
    def step_size(self) -> int:
        """Samples in a training step of all processes together.

        Raises:
            FaceExprError: fewer than there are processes.
        """
        processes = self.trainer.world_size if self.trainer else 1
        if self.global_batch_size is None:
            return self.batch_size * processes
        if self.global_batch_size < processes:
            raise FaceExprError(
                f"data.global_batch_size is {self.global_batch_size}, but there are {processes} processes; expected at "
                "least one sample for each"
            )
        return self.global_batch_size


def require_at_least(least: int, name: str, value: float | None) -> None:
    """Refuse an option of the data below its least value; None is an option that is not given.

    Raises:
        FaceExprError: it is too small.
    """
    if value is not None and not value >= least:  # also what is not a number
        raise FaceExprError(f"data.{name} is {value}; expected {least} or more")
