"""What a run shows and records of itself: a line an epoch, learning rates, and its configuration."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from faceexpr.utils.files import keep_older


def on_terminal() -> bool:
    """Tell whether a progress bar can be drawn: both streams show in a terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class LineProgress(Callback):
    """Print one line an epoch, with its metrics and times, where no progress bar can be drawn.

    Args:
        enabled: ``None`` prints when the output goes to a file or a pipe; ``true`` always, ``false`` never.
    """

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = not on_terminal() if enabled is None else enabled
        self._start = self._epoch_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run may begin within an epoch.
        self._start = self._epoch_start = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled:
            return
        now = time.monotonic()
        of = f"/{trainer.max_epochs}" if trainer.max_epochs is not None and trainer.max_epochs > 0 else ""
        metrics = " ".join(
            f"{name} {float(value):.4f}"
            for name, value in sorted(trainer.progress_bar_metrics.items())
            if name != "v_num"
        )
        print(
            f"epoch {trainer.current_epoch + 1}{of}  {metrics}  "
            f"({now - self._epoch_start:.1f} s, {now - self._start:.0f} s in all)",
            flush=True,
        )


class RateMonitor(LearningRateMonitor):
    """Log the learning rate of each optimizer where there is a logger; Lightning's own refuses to run without one.

    Args:
        logging_interval: log at each ``step`` or ``epoch``; none takes the interval of each scheduler.
        log_momentum: log the momentum as well.
        log_weight_decay: log the weight decay as well.
    """

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.loggers:
            super().on_train_epoch_start(trainer, *args, **kwargs)


class SaveRunConfig(SaveConfigCallback):
    """Write the resolved configuration to the run folder, and to TensorBoard as text.

    A configuration that is already there, from an earlier run into the same folder, is kept under a number.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # all processes agree on it, so all of them have to ask
        if not self.already_saved and folder is not None and trainer.is_global_zero:
            keep_older(Path(folder) / self.config_filename)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Indented by four, Markdown shows it as it is.
                indented = "\n".join(f"    {line}" for line in text.splitlines())
                logger.experiment.add_text("config", indented)
