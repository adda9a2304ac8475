"""The training step alone, and as the command line runs it: images a second of both, measured alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from faceexpr.callbacks.checkpointing import BestCheckpoint, LastCheckpoint
from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.runs import EpochSeed, RunChecks
from faceexpr.data.base import ExpressionDataModule, Stage
from faceexpr.data.loading import FaceSplit
from faceexpr.models.base import ExpressionNet
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.labels import FER_NAMES

Precision = Literal["32-true", "bf16-mixed"]
Net = Callable[[int], ExpressionNet]
WARM_UP = 5
"""Steps that are not timed."""

adam = partial(torch.optim.Adam, lr=1e-3, fused=True)


class Noise(ExpressionDataModule):
    """Grey pixels of chance in memory, as many as are needed.

    Args:
        size: number of training images.
        side: of the images in pixels.
        batch_size: images in a batch of one process.
    """

    def __init__(self, size: int, side: int, batch_size: int) -> None:
        super().__init__(batch_size=batch_size)
        self.size = size
        self.side = side

    def load_split(self, stage: Stage) -> FaceSplit:
        number = self.size if stage == "train" else len(FER_NAMES)
        images = torch.randint(0, 256, (number, 1, self.side, self.side), dtype=torch.uint8)
        return FaceSplit(images, torch.arange(number) % len(FER_NAMES), sources=[str(index) for index in range(number)])


def bare(net: Net, images: Tensor, targets: Tensor, steps: int, precision: str, warm_up: int = WARM_UP) -> float:
    """Return images/s of forward, backward and optimizer step on one batch, where it is."""
    device = images.device
    network = net(len(FER_NAMES)).to(device).to(memory_format=torch.channels_last)
    optimizer = adam(network.parameters())
    start = 0.0
    for step in range(warm_up + steps):
        if step == warm_up:
            start = _now(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = nn.functional.cross_entropy(network(images), targets)
        loss.backward()
        optimizer.step()
    return steps * len(images) / (_now(device) - start)


class Clock(Callback):
    """Time the training steps after the first ones.

    Args:
        steps: that are timed.
        warm_up: that are not.
    """

    def __init__(self, steps: int, warm_up: int) -> None:
        self.steps = steps
        self.warm_up = warm_up
        self.start = self.end = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.warm_up:
            self.start = _now(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.warm_up + self.steps - 1:
            self.end = _now(pl_module.device)


def fit(
    net: Net,
    data: ExpressionDataModule,
    steps: int,
    precision: Precision,
    folder: str,
    accelerator: str = "cpu",
    devices: int = 1,
    warm_up: int = WARM_UP,
) -> float:
    """Return images/s of the training loop of all processes together, with the callbacks of the command line."""
    clock = Clock(steps, warm_up)
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=precision,
        max_epochs=1,
        limit_train_batches=warm_up + steps,
        limit_val_batches=0,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            clock, EpochSeed(), RunChecks(), ClassificationEvaluation(figures=False), BestCheckpoint(), LastCheckpoint()
        ],
    )  # fmt: skip
    trainer.fit(ExpressionClassifier(net, optimizer=adam), datamodule=data)
    return steps * data.batch_size * devices / (clock.end - clock.start)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
