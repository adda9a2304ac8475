"""What every run has: checks that stop it early, seeds, a line an epoch, and a record of its configuration."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from faceexpr.callbacks.evaluation import Evaluation
from faceexpr.callbacks.record import run_folder
from faceexpr.data.augment import seed_of
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import keep_older, write_file
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
            reason = "more than 0: such a run would look done and have done nothing"
            require(getattr(trainer, option) != 0, option, 0, reason)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A training that was ended early would otherwise run for one more epoch each time that it is resumed.
        trainer.should_stop = _ended_early(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not self._trained and trainer.ckpt_path is not None:
            early = _ended_early(trainer)
            way = "leave out EarlyStopping, which has ended it" if early else "give a larger max_epochs or max_steps"
            steps = counted(trainer.global_step, "step")
            rank_zero_warn(f"nothing was left to train: the checkpoint has done {steps}; to go on, {way}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True
        evaluated = _evaluated(trainer, pl_module)
        data: Any = getattr(trainer, "datamodule", None)
        detects = isinstance(data, DetectionDataModule) and trainer.limit_val_batches
        for name, mode, watcher in _monitors(trainer):
            best = {True: "max", False: "min", None: mode}[evaluated.get(name)]
            if mode not in (None, best):
                raise FaceExprError(
                    f"{watcher} watches {name} with mode {mode}, which would prefer the worst model: {name} is better "
                    f"when it is {'higher' if best == 'max' else 'lower'}; use mode {best}"
                )
            if detects and name.startswith("val/") and name != "val/loss" and not data.has_faces("val"):
                raise FaceExprError(
                    f"{watcher} watches {name}, which is not defined: no image of the val split has a face; expected "
                    "images with faces, or the monitor val/loss with mode min"
                )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= 1:
            known = {*_evaluated(trainer, pl_module), *trainer.callback_metrics, *trainer.logged_metrics}
            for name, _, watcher in _monitors(trainer):
                if name not in known:
                    raise FaceExprError(
                        f"{watcher} watches {name}, which this run does not measure; expected one of "
                        f"{', '.join(sorted(known))}"
                    )
        # Reading the loss waits for the device, so not at every step.
        every = max(trainer.log_every_n_steps, 1)  # type: ignore[attr-defined]  # set at run time
        loss = outputs.get("loss") if isinstance(outputs, dict) and batch_idx % every == 0 else None
        if loss is not None and not torch.isfinite(loss):
            raise FaceExprError(
                f"the training loss is {loss.item()} at step {trainer.global_step} ({epoch_name(trainer)}): training "
                "has diverged; lower the learning rate, and look at the data of this run"
            )


def check_batch_norm(trainer: Trainer, synchronised: bool) -> None:
    """Refuse, with a `FaceExprError`, to synchronise batch normalisation on the CPU, where torch cannot.

    Args:
        trainer: not yet running.
        synchronised: the option ``sync_batchnorm``, which the trainer does not tell.
    """
    strategy = trainer.strategy
    if synchronised and isinstance(strategy, ParallelStrategy) and strategy.root_device.type == "cpu":
        raise FaceExprError(
            "sync_batchnorm is true, but torch synchronises batch normalisation on GPUs only; expected false on a CPU"
        )


def _ended_early(trainer: Trainer) -> bool:
    """Tell whether the training that is resumed had been ended by its metric."""
    return any(
        isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience
        for callback in [*trainer.callbacks]  # type: ignore[attr-defined]  # Lightning sets the list at run time
    )


def _monitors(trainer: Trainer) -> list[tuple[str, str | None, str]]:
    """Return (metric, mode, who watches it) for callbacks and schedulers."""
    # The evaluation's monitor is the checkpoint's, and would only say everything twice.
    callbacks = [one for one in trainer.callbacks if not isinstance(one, Evaluation)]  # type: ignore[attr-defined]
    schedules = [one for one in trainer.lr_scheduler_configs if isinstance(one.scheduler, ReduceLROnPlateau)]
    watchers = [(one, getattr(one, "monitor", None)) for one in callbacks]
    watchers += [(one.scheduler, one.monitor) for one in schedules]
    return [
        (monitor, getattr(watcher, "mode", None), type(watcher).__name__)
        for watcher, monitor in watchers
        if isinstance(monitor, str)
    ]


def _evaluated(trainer: Trainer, pl_module: LightningModule) -> dict[str, bool]:
    """Return the metrics that validation will log, and whether higher is better."""
    found: dict[str, bool] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Evaluation):
            found |= {"val/loss": False, **callback.logged("val", pl_module)}
    return found


class EpochSeed(Callback):
    """Seed the generators that the network draws from, such as its dropout, at the start of each epoch.

    The seed is a function of the run's seed, the process and the epoch. So a run that is resumed at the end of an
    epoch draws what the uninterrupted one would have drawn, and each process draws for itself. Order and augmentation
    of the data have generators of their own.
    """

    def __init__(self) -> None:
        self._seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        number = seed_of(self._seed, trainer.global_rank, trainer.current_epoch)
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)


def on_terminal() -> bool:
    """Tell whether a progress bar can be drawn: both streams show in a terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def epoch_name(trainer: Trainer) -> str:
    """Return which epoch this is, counted from 1, of how many."""
    known = trainer.max_epochs is not None and trainer.max_epochs > 0
    return f"epoch {trainer.current_epoch + 1}{f'/{trainer.max_epochs}' if known else ''}"


def learning_rate(trainer: Trainer) -> dict[str, float]:
    """Return the learning rate of the first parameters, by its name; nothing where a model has no optimizer."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {"lr": groups[0]["lr"]} if groups else {}


class EpochBar(TQDMProgressBar):
    """Lightning's bar with epochs that count from 1, and with the loss and the learning rate from the first step on."""

    EVERY = 0.5
    """Seconds between two looks at the metrics: each waits for the device."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._shown: dict[str, Any] = {}
        self._looked = 0.0

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(epoch_name(trainer))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        now = time.monotonic()
        if not trainer.training or trainer.is_last_batch or now - self._looked > self.EVERY:
            loss = trainer.callback_metrics.get("train/loss_step")
            first = {} if loss is None else {"loss": float(loss)}
            self._shown = {**first, **learning_rate(trainer), **trainer.progress_bar_metrics}
            self._looked = now
        return self._shown


class LineProgress(Callback):
    """Print one line an epoch, with its metrics and times, where no progress bar can be drawn.

    Args:
        enabled: ``None`` prints when the output goes to a file or a pipe; ``true`` always, ``false`` never.
    """

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = not on_terminal() if enabled is None else enabled
        self._start = self._epoch_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = self._epoch_start = time.monotonic()  # a resumed run may begin within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shown = trainer.progress_bar_metrics  # of all processes, so all of them have to ask
        if not (self.enabled and trainer.is_global_zero):
            return
        now = time.monotonic()
        metrics = [f"{name} {float(value):.4f}" for name, value in sorted(shown.items())]
        metrics += [f"{name} {value:.4g}" for name, value in learning_rate(trainer).items()]
        times = f"({now - self._epoch_start:.1f} s, {now - self._start:.0f} s in all)"
        print(f"{epoch_name(trainer)}  {' '.join(metrics)}  {times}", flush=True)


class SaveRunConfig(SaveConfigCallback):
    """Write the resolved configuration to the run folder, and to TensorBoard as text.

    A configuration that is already there, from an earlier run into the same folder, is kept under a number.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = run_folder(trainer)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        if self.folder is not None:
            keep_older(self.folder / self.config_filename)
            write_file(self.folder / self.config_filename, text)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Indented by four, Markdown shows it as it is.
                logger.experiment.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))
