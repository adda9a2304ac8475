"""The checkpoint of the best epoch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.callbacks.checkpoint_io import PART
from faceexpr.callbacks.evaluation import AUTO, Evaluation, resolved
from faceexpr.weights.checkpoints import read_checkpoint


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
        self,
        monitor: str | None = AUTO,
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

        self._earlier: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.monitor = resolved(self.monitor, pl_module)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = state_dict["best_k_models"]
        self.current_score = state_dict["current_score"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.monitor is not None and not self._earlier and not _validates(trainer):
            rank_zero_info(
                f"no validation will run, so no epoch can be the best by {self.monitor}: the last epoch is saved"
            )
            self.monitor = None
        if self._earlier and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            self._take_over(trainer, self._earlier)
            self._earlier = {}
        if trainer.ckpt_path is not None and not self.best_k_models:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Evaluation):
                    callback.forget_best()

    def _take_over(self, trainer: Trainer, earlier: dict[str, Tensor]) -> None:
        """Copy the best checkpoints of the run that is resumed into this run's folder, which is then complete."""
        ordered = sorted(earlier, key=lambda path: float(earlier[path]), reverse=self.mode == "max")
        kept = ordered if self.save_top_k < 0 else ordered[: self.save_top_k]
        for path in kept if self.monitor is not None else []:
            # Beside the checkpoint that is resumed, where the run's folder has been moved since.
            places = (Path(path), Path(str(trainer.ckpt_path)).parent / Path(path).name)
            source = next((place for place in places if place.is_file()), None)
            target = Path(str(self.dirpath)) / Path(path).name
            reason = _unusable(source, target, earlier[path]) if trainer.is_global_zero else ""
            reason = trainer.strategy.broadcast(reason)
            if reason:
                rank_zero_warn(f"{path} {reason}: the best epoch will be chosen among those from here on")
                continue
            if trainer.is_global_zero and source is not None and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}{PART}")
                shutil.copyfile(source, part)
                part.replace(target)
            self.best_k_models[str(target)] = earlier[path]
        if self.best_k_models:
            names = [*self.best_k_models]
            best, worst = names[0], names[-1]
            self.best_model_path, self.best_model_score = best, self.best_k_models[best]
            self.kth_best_model_path, self.kth_value = worst, self.best_k_models[worst]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state at the end of a training in which Lightning has saved nothing.

        That is where no optimizer has taken a step, as for a model that only remembers its data, and where it has
        waited for a validation that never came.
        """
        super().on_train_end(trainer, pl_module)
        if self.best_model_path or not self.save_top_k or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = str(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}")
        self.best_model_path = path
        self.best_model_score = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        trainer.save_checkpoint(path, weights_only=False)


def _unusable(source: Path | None, target: Path, score: Tensor) -> str:
    """Return why a best checkpoint of the run that is resumed cannot be taken over; empty where it can."""
    if source is None:
        return "of the run that is resumed is not there any more"
    if target.exists() and not target.samefile(source):
        return f"of the run that is resumed would replace {target}"
    # Killed after a better epoch and before the state that knows of it, a run leaves that epoch's file behind.
    states = read_checkpoint(source).get("callbacks", {})
    scores = [state.get("current_score") for key, state in states.items() if key.startswith(BestCheckpoint.__name__)]
    if scores and scores[0] is not None and float(scores[0]) != float(score):
        return "is of an epoch after the checkpoint that is resumed"
    return ""


def _validates(trainer: Trainer) -> bool:
    if trainer.limit_val_batches == 0:
        return False
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.max_steps >= 0 and trainer.val_check_batch:
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        done = (progress.total if every is None else progress.current).processed
        left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        if left < trainer.val_check_batch - done % trainer.val_check_batch:
            return False
    return every is None or epochs is None or epochs < 0 or every <= epochs
