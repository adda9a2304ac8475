"""Checks that stop a run early which would otherwise end without a usable result."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from faceexpr.callbacks.evaluation import Evaluation
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import counted


class RunChecks(Callback):
    """Refuse monitors of metrics that do not exist or that point the wrong way, and losses that are not finite.

    Both are found at the first batch, not after hours of training. Runs without a batch are refused at once.
    """

    def __init__(self) -> None:
        self._trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trained = False
        needed = {
            "fit": ("max_epochs", "max_steps", "limit_train_batches", "check_val_every_n_epoch"),
            "validate": ("limit_val_batches",),
            "test": ("limit_test_batches",),
        }
        for option in needed.get(stage, ()):
            if getattr(trainer, option) == 0:
                raise FaceExprError(
                    f"{option} is 0; expected more than 0: such a run would look done and have done nothing"
                )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A training that was ended early would otherwise run for one more epoch each time that it is resumed.
        trainer.should_stop = _ended_early(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not self._trained and trainer.ckpt_path is not None:
            way = "give a larger max_epochs or max_steps"
            rank_zero_warn(
                f"nothing was left to train: the checkpoint has done {counted(trainer.global_step, 'step')}; to go on, "
                + ("leave out EarlyStopping, which has ended it" if _ended_early(trainer) else way)
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True
        for name, mode, option in _monitors(trainer):
            higher = _evaluated(trainer, pl_module).get(name)
            if mode is not None and higher is not None and mode != ("max" if higher else "min"):
                raise FaceExprError(
                    f"{option} watches {name} with mode {mode}, which would prefer the worst model: {name} is better "
                    f"when it is {'higher' if higher else 'lower'}; use mode {'max' if higher else 'min'}"
                )
            _check_faces(trainer, name, option)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= 1:
            self._check_names(trainer, pl_module)
        # Reading the loss waits for the device, so not at every step.
        every = max(trainer.log_every_n_steps, 1)  # type: ignore[attr-defined]  # set at run time
        if batch_idx % every == 0 and isinstance(outputs, dict) and "loss" in outputs:
            loss = outputs["loss"]
            if not torch.isfinite(loss):
                raise FaceExprError(
                    f"the training loss is {loss.item()} at step {trainer.global_step} (epoch "
                    f"{trainer.current_epoch}): training has diverged; lower the learning rate, "
                    "and look at the data of this run"
                )

    def _check_names(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = {*_evaluated(trainer, pl_module), *trainer.callback_metrics, *trainer.logged_metrics}
        for name, _, option in _monitors(trainer):
            if name not in known:
                raise FaceExprError(
                    f"{option} watches {name}, which this run does not measure; expected one of "
                    f"{', '.join(sorted(known))}"
                )


def check_batch_norm(trainer: Trainer, synchronised: bool) -> None:
    """Refuse to synchronise batch normalisation where torch cannot.

    Args:
        trainer: not yet running.
        synchronised: the option ``sync_batchnorm``, which the trainer does not tell.

    Raises:
        FaceExprError: the processes train on the CPU.
    """
    strategy = trainer.strategy
    if synchronised and isinstance(strategy, ParallelStrategy) and strategy.root_device.type == "cpu":
        raise FaceExprError(
            "sync_batchnorm is true, but torch synchronises batch normalisation on GPUs only; expected false on a CPU"
        )


def _check_faces(trainer: Trainer, monitor: str, option: str) -> None:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, DetectionDataModule) or not monitor.startswith("val/") or monitor == "val/loss":
        return
    if trainer.limit_val_batches and not data.has_faces("val"):
        raise FaceExprError(
            f"{option} watches {monitor}, which is not defined: no image of the val split has a face; expected "
            "images with faces, or the monitor val/loss with mode min"
        )


def _ended_early(trainer: Trainer) -> bool:
    """Tell whether the training that is resumed had been ended by its metric."""
    return any(
        isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience
        for callback in [*trainer.callbacks]  # type: ignore[attr-defined]  # Lightning sets the list at run time
    )


def _monitors(trainer: Trainer) -> list[tuple[str, str | None, str]]:
    """Return (metric, mode, who watches it) for callbacks and schedulers."""
    found = [
        (callback.monitor, getattr(callback, "mode", None), type(callback).__name__)
        for callback in [*trainer.callbacks]  # type: ignore[attr-defined]  # Lightning sets the list at run time
        # The evaluation's monitor is the checkpoint's, and would only say everything twice.
        if isinstance(getattr(callback, "monitor", None), str) and not isinstance(callback, Evaluation)
    ]
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            found.append((config.monitor, getattr(config.scheduler, "mode", None), type(config.scheduler).__name__))
    return found


def _evaluated(trainer: Trainer, pl_module: LightningModule) -> dict[str, bool]:
    """Return the metrics that validation will log, and whether higher is better."""
    found: dict[str, bool] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Evaluation):
            found |= {"val/loss": False, **callback.logged("val", pl_module)}
    return found
