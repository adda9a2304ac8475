"""Progress that can be read in a file."""

from __future__ import annotations

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only


def on_terminal() -> bool:
    """Tell whether a progress bar can be drawn: both streams show in a terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class LineProgress(Callback):
    """One line an epoch, with its metrics and times, where no progress bar can be drawn.

    Args:
        enabled: ``None`` prints when the output goes to a file or a pipe; ``true`` always, ``false`` never.
    """

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = not on_terminal() if enabled is None else enabled
        self._start = self._epoch_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run may begin with the end of an epoch.
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
