"""Learning rates in the log."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor


class RateMonitor(LearningRateMonitor):
    """Log the learning rate of each optimizer where there is a logger; Lightning's own refuses to run without one.

    Args:
        logging_interval: log at each ``step`` or ``epoch``; none takes the interval of each scheduler.
        log_momentum: log the momentum as well.
        log_weight_decay: log the weight decay as well.
    """

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._epoch_begun = False
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not self._epoch_begun:  # a run that was resumed within its first epoch
            self.on_train_epoch_start(trainer)
        if trainer.loggers:
            super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._epoch_begun = True
        if trainer.loggers:
            super().on_train_epoch_start(trainer, *args, **kwargs)
