"""Random numbers of a training step that depend on nothing but the step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from faceexpr.data.draws import seed_of


class StepSeed(Callback):
    """Seed the generators that the network draws from, such as its dropout, at the start of each training batch.

    The seed is a function of (seed of the run, process, epoch, batch). So a resumed run draws what the uninterrupted
    one would have drawn, with nothing to store, and each process draws for itself. Order and augmentation of the data
    have generators of their own.
    """

    def __init__(self) -> None:
        self._seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        number = seed_of(self._seed, trainer.global_rank, trainer.current_epoch, batch_idx)
        # Not torch.manual_seed, which looks for every kind of device each time.
        torch.default_generator.manual_seed(number)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif pl_module.device.type == "mps":
            torch.mps.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
