"""What every data set of the product shares, of faces and of pictures: what a checkpoint remembers, and the seed."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import LightningDataModule

from faceexpr.described import Described, class_path, describe

Stage = Literal["train", "val", "test", "predict"]

SPLITS: dict[str, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
"""The splits that each of Lightning's verbs needs."""


class FaceDataModule(Described, LightningDataModule):
    """A data set whose checkpoint remembers how to read it, and whose random numbers come from one seed.

    Attributes:
        suits: the kind of model that it is for, by what the model ``gives``: ``probabilities`` or ``detections``.
    """

    suits: str

    def __init__(self) -> None:
        super().__init__()
        hyper_parameters = {name: describe(value, f"data.{name}") for name, value in self.init_args.items()}
        # A checkpoint remembers its data, so that it can be tested without the configuration being named again.
        self.save_hyperparameters({**hyper_parameters, "_class_path": class_path(type(self))}, logger=False)

    @property
    def seed(self) -> int:
        """The seed of the order and the augmentation: that of ``seed_everything``, the same in every process."""
        if not hasattr(self, "_seed"):
            seed = torch.initial_seed() % 2**31
            self._seed: int = self.trainer.strategy.broadcast(seed) if self.trainer else seed
        return self._seed
