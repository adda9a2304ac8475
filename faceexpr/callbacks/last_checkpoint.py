"""The checkpoint from which a training goes on as if it had never been interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import proxy

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from faceexpr.callbacks.between_batches import record_after_training, record_between_batches
from faceexpr.callbacks.checkpoint_io import remove_parts
from faceexpr.callbacks.epoch_metrics import States, gathered_states, restore_states
from faceexpr.data.resumable import ResumableLoader

STATES = "epoch_metrics"
"""Key of a checkpoint: what the metrics of the epoch had counted."""

MEASURED = "callback_metrics"
"""Key of a checkpoint: what was measured last, on which schedulers and callbacks decide."""


class LastCheckpoint(ModelCheckpoint):
    """Keep the newest state of the training, ``checkpoints/last.ckpt``, from which it can go on.

    It is saved when the next batch begins, after all that follows a step or an epoch, and once more when training
    ends.

    Args:
        every_n_epochs: save after each n-th epoch.
        every_n_train_steps: save after each n-th step instead.
        dirpath: folder of the checkpoint; by default ``checkpoints`` in the run folder.
    """

    # Of Lightning's callback this takes the folder and the name. Its option `save_last` writes only when an epoch is
    # among the best, and its times to save are before the end of what belongs to a step or an epoch.
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
        )
        self.epochs = every_n_epochs if every_n_train_steps is None else 0
        self.steps = every_n_train_steps or 0
        self._ended = False
        self._saving = False
        self._resumed = False
        self._states: States = {}
        self._measured: dict[str, Tensor] = {}
        self._positions: list[dict[str, Any]] = []

    @property
    def path(self) -> Path | None:
        """The file; None before anything is saved."""
        return Path(self.best_model_path) if self.best_model_path else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._ended = False
        self._resumed = False
        self._states, self._measured, self._positions = {}, {}, []
        self._last_global_step_saved = -1

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed = True
        self._states = checkpoint.get(STATES, {})
        self._measured = checkpoint.get(MEASURED, {})
        fit = checkpoint.get("loops", {}).get("fit_loop", {})
        self._positions = fit.get("state_dict", {}).get("combined_loader", [])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing over: where the file goes follows from the one that is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            remove_parts(Path(str(self.dirpath)))
        if self._positions and isinstance(trainer.train_dataloader, ResumableLoader):
            self._place(trainer, trainer.train_dataloader, self._positions[0])

    def _place(self, trainer: Trainer, loader: ResumableLoader, position: dict[str, int]) -> None:
        """Let the loader go on where the training was."""
        if position["epoch"] != trainer.current_epoch:
            return
        # Lightning gives the loader its position too, but not where a scheduler had asked for the number of steps, and
        # not that of the training where the checkpoint was saved within a batch, as on a signal of SLURM.
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        done = loader.batches_done({**position, "batches": progress.processed})
        if done != progress.processed:
            done -= done % trainer.accumulate_grad_batches
            shift = done - progress.processed
            for name, number in progress.state_dict().items():
                setattr(progress, name, number + shift)
            rank_zero_info(
                "a step has another number of samples than when the checkpoint was written: the epoch goes on at batch "
                f"{done} of {trainer.num_training_batches}"
            )
        loader.sampler.leave_out(position["epoch"], done)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._take_up(trainer, pl_module)
        if self._due(trainer, batch_idx):
            self.save(trainer, pl_module)

    def _take_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let metrics go on from what they had counted, before the first batch of a resumed run."""
        if not self._resumed:
            return
        # By now, the callbacks have made the metrics that they hold, and Lightning has emptied its own.
        restore_states(trainer, pl_module, self._states)
        trainer.callback_metrics.update(self._measured)
        # The restart is over, not only after this epoch, at whose end Lightning would leave out a scheduler.
        trainer.fit_loop.on_iteration_done()
        self._resumed, self._states, self._measured = False, {}, {}

    def _due(self, trainer: Trainer, batch_idx: int) -> bool:
        if self.steps:
            step = trainer.global_step
            return step > 0 and step % self.steps == 0 and step != self._last_global_step_saved
        epoch = trainer.current_epoch
        return batch_idx == 0 and self.epochs > 0 and epoch > 0 and epoch % self.epochs == 0

    # What Lightning's callback would save here.

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        return

    def on_train_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        return

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        return

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state, in ``on_train_batch_start`` after a whole step or when training has ended.

        Every process has to call this.

        Raises:
            FaceExprError: the file cannot be written.
        """
        if not self.save_top_k or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            return
        if not self.best_model_path:
            self.best_model_path = self._free_path(trainer)
        self._take_up(trainer, pl_module)
        self._states = {} if self._ended else gathered_states(trainer, pl_module)
        self._saving = True
        try:
            trainer.save_checkpoint(self.best_model_path, weights_only=False)
        finally:
            self._saving, self._states = False, {}
        self._last_global_step_saved = trainer.global_step
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._saving:  # another callback's checkpoint
            return
        if self._ended:
            record_after_training(checkpoint, by_steps=trainer.max_steps >= 0)
        else:
            record_between_batches(checkpoint)
            checkpoint[STATES] = self._states
            checkpoint[MEASURED] = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}

    def _free_path(self, trainer: Trainer) -> str:
        """Return the file that is resumed where it is this run's own, or else a name that is not taken."""
        resumed = None if trainer.ckpt_path is None else Path(trainer.ckpt_path)
        folder = Path(str(self.dirpath))
        if resumed is not None and resumed.name.startswith("last") and resumed.absolute().parent == folder.absolute():
            return str(resumed)
        path, version = self.format_checkpoint_name({}), self.STARTING_VERSION
        while self.file_exists(path, trainer):
            path, version = self.format_checkpoint_name({}, ver=version), version + 1
        return path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, KeyboardInterrupt) and self.best_model_path:
            where = f"step {self._last_global_step_saved}" if self.steps else "the last whole epoch"
            rank_zero_info(f"go on after {where} with: faceexpr fit --ckpt_path {self.best_model_path}")
