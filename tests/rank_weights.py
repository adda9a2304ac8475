"""A callback for tests: what each process has learnt."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class RankWeights(Callback):
    """Write the weights of each process when training ends.

    Args:
        name: of the files, before the process's number.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), Path(f"{self.name}-{trainer.global_rank}.pt"))
