"""Checkpoints of a training: the best epoch, the newest state to go on from, and how both are written and read."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any, Literal
from weakref import proxy

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from faceexpr.callbacks.evaluation import AUTO, Evaluation, resolve_monitor
from faceexpr.callbacks.record import note, run_folder
from faceexpr.utils.files import replacing
from faceexpr.weights.checkpoints import read_checkpoint


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint whole or not at all, and read it, or a model file in its place, without unpickling.

    A kill or a full disk in the middle leaves the checkpoint before. Lightning's own writer puts its temporary file
    into the system's folder for such files. Where that is another file system, its last step is a copy, which a kill
    cuts short.
    """

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):  # storage of a network, which Lightning knows how to write to
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # At once, since torch reports what goes wrong in a file in many ways, and Python in one.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(Path(path)) as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class BestCheckpoint(ModelCheckpoint):
    """Keep the best epoch, ``checkpoints/best.ckpt``.

    Args:
        monitor: the metric that decides, on the validation split; ``auto`` is the accuracy of classifiers and the AP50
            of detectors.
        mode: whether the highest (``max``) or the lowest (``min``) value is the best.
        save_top_k: how many of the best epochs to keep.
        dirpath: folder of the checkpoints; by default ``checkpoints`` in the run folder.
        filename: name without extension; may hold metrics, such as ``{epoch:03d}-{val/accuracy:.4f}``.
        every_n_epochs: save after each n-th epoch only.
    """

    def __init__(
        self, monitor: str | None = AUTO, mode: Literal["max", "min"] = "max", save_top_k: int = 1,
        dirpath: str | None = None, filename: str = "best", every_n_epochs: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(
            monitor=monitor, mode=mode, save_top_k=save_top_k, save_last=False, dirpath=dirpath, filename=filename,
            auto_insert_metric_name=False, every_n_epochs=every_n_epochs,
        )  # fmt: skip
        self._moved: dict[str, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run_folder(trainer)  # where the checkpoints go
        self.monitor = resolve_monitor(self.monitor, pl_module)
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Copy the best epochs of the run that is resumed into this run's folder, which is then complete."""
        self._moved = {}
        if trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            return
        moved = {}
        for path in checkpoint.get("callbacks", {}).get(self.state_key, {}).get("best_k_models", {}):
            # Beside the checkpoint that is resumed, where the run's folder has been moved since.
            places = (Path(path), Path(str(trainer.ckpt_path)).parent / Path(path).name)
            source = next((place for place in places if place.is_file()), None)
            target = Path(str(self.dirpath)) / Path(path).name
            # Process 0 decides: the others may be on machines that do not see its files.
            step = checkpoint["global_step"]
            reason = trainer.strategy.broadcast(_unusable(source, target, step) if trainer.is_global_zero else "")
            if reason:
                rank_zero_warn(f"{path} {reason}: the best epoch will be chosen among those from here on")
                return
            if trainer.is_global_zero and source is not None and not target.exists():
                with source.open("rb") as old, replacing(target) as new:
                    shutil.copyfileobj(old, new)
            moved[path] = str(target)
        self._moved = moved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what has been copied; nothing of a run whose best epochs are not there."""
        if not self._moved:
            return
        paths = {name: self._moved.get(path, "") for name, path in state_dict.items() if name.endswith("_path")}
        kept = {self._moved[path]: score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": kept, "dirpath": self.dirpath})
        self.current_score = state_dict["current_score"]  # which Lightning leaves out

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say in the record of the run which checkpoint is the best, before it is written; a kill may come after."""
        if self.best_model_path and trainer.state.fn == TrainerFn.FITTING:
            score = None if self.best_model_score is None else float(self.best_model_score)
            epoch = None if score is None else checkpoint["epoch"]  # without a metric it is the last one
            chosen = {"monitor": self.monitor, "mode": self.mode, "score": score, "epoch": epoch}
            note(trainer, best={"path": self.best_model_path, **chosen})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
        never = trainer.limit_val_batches == 0 or (every is not None and epochs is not None and 0 <= epochs < every)
        if self.best_model_path:
            return
        if self.monitor is not None and never:
            rank_zero_info(
                f"no validation will run, so no epoch can be the best by {self.monitor}: the last epoch is saved"
            )
            self.monitor = None
        for callback in trainer.callbacks if trainer.ckpt_path is not None else ():  # type: ignore[attr-defined]
            if isinstance(callback, Evaluation):
                callback.forget_best()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state at the end of a training in which Lightning has saved nothing.

        That is where no optimizer has taken a step, as for a model that only remembers its data, and where it has
        waited for a validation that never came.
        """
        super().on_train_end(trainer, pl_module)
        if self.best_model_path or not self.save_top_k or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.best_model_path = str(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}")
        self.best_model_score = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        trainer.save_checkpoint(self.best_model_path, weights_only=False)


def _unusable(source: Path | None, target: Path, step: int) -> str:
    """Return why a best checkpoint of the run that is resumed cannot be taken over; empty where it can."""
    if source is None:
        return "of the run that is resumed is not there any more"
    if target.exists() and not target.samefile(source):
        return f"of the run that is resumed would replace {target}"
    # Killed after a better epoch and before the state that knows of it, a run leaves that epoch's file behind.
    later = read_checkpoint(source)["global_step"] > step
    return "is of an epoch after the checkpoint that is resumed" if later else ""


class LastCheckpoint(ModelCheckpoint):
    """Keep the newest state of the training, ``checkpoints/last.ckpt``, from which it can go on.

    It is saved at the end of an epoch, after all that belongs to it, and once more at the end of the training; on
    SIGTERM, one process saves it between two steps.

    Args:
        every_n_epochs: save after each n-th epoch.
        every_n_train_steps: save after each n-th step instead, and after each epoch.
        dirpath: folder of the checkpoint; by default ``checkpoints`` in the run folder.
    """

    # Of Lightning's callback this takes the folder and the name. Its own times to save leave out models without an
    # optimizer's steps and the end of a training.
    def __init__(
        self, every_n_epochs: int = 1, every_n_train_steps: int | None = None, dirpath: str | None = None
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            every_n_epochs=every_n_epochs if every_n_train_steps is None else None,
            every_n_train_steps=every_n_train_steps,
        )
        self.epochs = every_n_epochs if every_n_train_steps is None else 1
        self.steps = every_n_train_steps
        self.saved_step = 0
        self.saved = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run_folder(trainer)  # where the checkpoint goes
        super().setup(trainer, pl_module, stage)
        self.saved_step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.saved_step = checkpoint.get("global_step", 0)
        resumed, folder = Path(str(trainer.ckpt_path)), Path(str(self.dirpath))
        if resumed.name.startswith("last") and resumed.parent.resolve() == folder.resolve():
            self.last_model_path = str(folder / resumed.name)  # this run's own, which is replaced
            self.saved = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing over: where the file goes follows from the one that is resumed."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # What is left of an epoch after its last step is done before the state is saved.
        if trainer.global_step == self.saved_step or trainer.is_last_batch:
            return
        due = self.steps is not None and trainer.global_step % self.steps == 0
        if trainer.max_steps != -1 and batch_idx + 1 == trainer.accumulate_grad_batches:
            due |= trainer.current_epoch > 0 and trainer.current_epoch % self.epochs == 0
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        ends = trainer.should_stop or done == trainer.max_epochs or trainer.global_step == trainer.max_steps
        # Where the length is given in steps, Lightning ends a resumed epoch twice, and so the first step of the next
        # one is waited for.
        if ends or (done % self.epochs == 0 and trainer.max_steps == -1):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save nothing, as Lightning's callback may."""

    def _save(self, trainer: Trainer) -> None:
        if not self.save_top_k or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            return
        version = self.STARTING_VERSION
        path = self.last_model_path or self.format_checkpoint_name({})
        while path != self.last_model_path and self.file_exists(path, trainer):
            path, version = self.format_checkpoint_name({}, ver=version), version + 1
        self.last_model_path = path
        note(trainer, last={"path": path, "epoch": trainer.current_epoch, "step": trainer.global_step})
        trainer.save_checkpoint(path, weights_only=False)
        self.saved_step, self.saved = trainer.global_step, True
        if trainer.is_global_zero:
            # Loggers upload what a callback calls its best as the best: they have to ask the one that knows it.
            best = next((one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)), self)
            best.last_model_path = path
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(best))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Processes get the signal at different points, and would wait for one another. In a validation, averaged
        # weights may be in the place of the trained ones; between accumulated batches, gradients would be lost.
        alone = trainer.world_size == 1 and trainer.accumulate_grad_batches == 1
        if isinstance(exception, SIGTERMException) and trainer.training and alone and trainer.global_step:
            self._save(trainer)
        if trainer.state.fn == TrainerFn.FITTING and isinstance(exception, SIGTERMException | KeyboardInterrupt):
            state = f"{self.last_model_path} is of step {self.saved_step}" if self.saved else "no state is saved yet"
            rank_zero_info(f"stopped at step {trainer.global_step}; {state}")
