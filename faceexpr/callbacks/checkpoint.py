"""The checkpoints of a run: the best epoch and the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info


class BestCheckpoint(ModelCheckpoint):
    """Keep the best epoch, ``checkpoints/best.ckpt``.

    Args:
        monitor: the metric that decides; by default the accuracy on the validation split (PublicTest of FER-2013).
        mode: whether the highest (``max``) or the lowest (``min``) value is the best.
        save_top_k: how many of the best epochs to keep.
        dirpath: folder of the checkpoints; by default ``checkpoints`` in the run folder.
        filename: name without extension; may hold metrics, such as ``{epoch:03d}-{val/accuracy:.4f}``.
        every_n_epochs: save after each n-th epoch only.
    """

    def __init__(
        self,
        monitor: str | None = "val/accuracy",
        mode: Literal["max", "min"] = "max",
        save_top_k: int = 1,
        dirpath: str | None = None,
        filename: str = "best",
        every_n_epochs: int = 1,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=False,
            dirpath=dirpath,
            filename=filename,
            auto_insert_metric_name=False,
            every_n_epochs=every_n_epochs,
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is not None and not _validates(trainer):
            rank_zero_info(
                f"no validation will run, so no epoch can be the best by {self.monitor}: the last epoch is saved"
            )
            self.monitor = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.best_model_path or not self.save_top_k or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # Lightning saves nothing where no optimizer has taken a step, as for a model that only remembers its data,
        # and where it waited for a validation that never came.
        path = str(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}")
        self.best_model_path = path
        self.best_model_score = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        trainer.save_checkpoint(path, weights_only=False)


class LastCheckpoint(ModelCheckpoint):
    """Keep the newest state of the training, ``checkpoints/last.ckpt``, from which it can go on.

    Args:
        every_n_epochs: save after each n-th epoch.
        every_n_train_steps: save after each n-th step instead.
        dirpath: folder of the checkpoint; by default ``checkpoints`` in the run folder.
    """

    # Not the option `save_last` of the other: since Lightning 2.6 that writes only when an epoch is among the best.
    def __init__(
        self, every_n_epochs: int = 1, every_n_train_steps: int | None = None, dirpath: str | None = None
    ) -> None:
        super().__init__(
            monitor=None,
            save_top_k=1,
            dirpath=dirpath,
            filename="last",
            every_n_epochs=every_n_epochs if every_n_train_steps is None else None,
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=True if every_n_train_steps is None else None,
        )


def _validates(trainer: Trainer) -> bool:
    if trainer.limit_val_batches == 0:
        return False
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    return every is None or epochs is None or epochs < 0 or every <= epochs
