"""Optimizers and schedules as the user names them, the same for every model that is trained by gradients."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from faceexpr.tasks.resume import LR_FACTOR, check_weights_fit, fit_schedule, keep_written_options
from faceexpr.tasks.scaling import LRScaling, lr_factor, scaled_rates
from faceexpr.tasks.start import load_weights
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import callable_class


class Optimised(LightningModule):
    """A mixin for tasks: builds the optimizer and the schedule, and lets both survive a resumption."""

    optimizer: OptimizerCallable
    scheduler: LRSchedulerCallable | None
    scheduler_interval: Literal["epoch", "step"]
    monitor: str
    lr: float | None
    lr_scaling: LRScaling
    weights: str | None

    def set_optimisation(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None,
        scheduler_interval: Literal["epoch", "step"],
        monitor: str,
        lr: float | None,
        lr_scaling: LRScaling,
        weights: str | None,
    ) -> None:
        """Take over the options that the task was given.

        Args:
            optimizer: from parameters to an optimizer.
            scheduler: from an optimizer to a schedule, or none.
            scheduler_interval: whether the schedule moves on after each ``epoch`` or each ``step``.
            monitor: metric that a ``ReduceLROnPlateau`` without a monitor of its own watches.
            lr: learning rate, in place of the optimizer's.
            lr_scaling: how the rates follow the number of samples in a step.
            weights: what the network starts with, in place of its own beginning.
        """
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.monitor = monitor
        self.lr = lr
        self.lr_scaling = lr_scaling
        self.weights = weights

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.trainer.ckpt_path is None:
            net: Any = self.net  # of whichever kind
            net.load_pretrained()
            if self.weights is not None:
                load_weights(net, self.hparams.get("net"), self.weights, getattr(self, "class_names", None))

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer(self.parameters())
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        factor = lr_factor(self.trainer, self.lr_scaling)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        return optimizer

    def _scheduler(self, optimizer: torch.optim.Optimizer, **steps: int) -> Any:
        assert self.scheduler is not None
        rates = scaled_rates(self.scheduler, lr_factor(self.trainer, self.lr_scaling))
        return self.scheduler(optimizer, **steps, **rates)

    def _optimizer_and_scheduler(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = self._optimizer()
        if self.scheduler is None:
            return optimizer, None
        length = self._total_steps(self.scheduler)
        try:
            return optimizer, self._scheduler(optimizer, **length)
        except ZeroDivisionError as error:  # torch's OneCycleLR, where a phase would last exactly one step
            raise FaceExprError(
                f"model.scheduler cannot be laid over {length.get('total_steps', 'so few')} steps; expected a longer "
                "training or another pct_start"
            ) from error

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self._optimizer_and_scheduler()
        if scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.scheduler_interval,
                "monitor": getattr(scheduler, "monitor", self.monitor),
            },
        }

    def _total_steps(self, scheduler: Any) -> dict[str, int]:
        """Return the length of the training for a scheduler that needs it and was not told."""
        scheduler_class = callable_class(scheduler)
        given = getattr(scheduler, "keywords", {})
        if scheduler_class is None or "total_steps" not in inspect.signature(scheduler_class).parameters:
            return {}
        if any(given.get(name) is not None for name in ("total_steps", "epochs")):
            return {}
        by_epoch = self.scheduler_interval == "epoch"
        total = float((self.trainer.max_epochs if by_epoch else self.trainer.estimated_stepping_batches) or 1)
        if not 0 < total < math.inf:
            raise FaceExprError(
                f"model.scheduler is {scheduler_class.__name__}, which has to know how long the training is; give "
                f"trainer.max_epochs{'' if by_epoch else ' or trainer.max_steps'}, or model.scheduler.total_steps"
            )
        return {"total_steps": int(total)}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        total = getattr(scheduler, "total_steps", None)
        if total is None or scheduler.last_epoch + 1 < total:
            super().lr_scheduler_step(scheduler, metric)
        elif (
            not self._total_steps(self.scheduler) and self.trainer.global_step < self.trainer.estimated_stepping_batches
        ):
            # torch would raise, and the training so far would be lost.
            rank_zero_warn(
                f"{type(scheduler).__name__} ends after {total} steps, before the training does: the learning rate "
                "stays where it is"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_weights_fit(checkpoint, self.hparams.get("net"), self.state_dict())
        if self._attached() and self.trainer.state.fn == TrainerFn.FITTING:
            if "optimizer_states" not in checkpoint:  # as of a model file that has been calibrated
                raise FaceExprError(
                    f"{self.trainer.ckpt_path} holds the weights alone, and not how far their training has come; "
                    "expected a checkpoint to go on from, or --model.weights for a new training that starts with them"
                )
            factor = lr_factor(self.trainer, self.lr_scaling)
            keep_written_options(checkpoint, self.hparams, factor, self._optimizer_and_scheduler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._attached() and self.trainer.state.fn == TrainerFn.FITTING:
            checkpoint[LR_FACTOR] = lr_factor(self.trainer, self.lr_scaling)

    def _attached(self) -> bool:
        try:
            return self.trainer is not None
        except RuntimeError:  # what Lightning raises outside a Trainer, as in load_from_checkpoint
            return False

    def on_train_start(self) -> None:
        if self.scheduler is not None and (length := self._total_steps(self.scheduler)):
            fit_schedule(self.trainer, self._scheduler, length["total_steps"])
        optimizer = self.trainer.optimizers[0]
        factor = lr_factor(self.trainer, self.lr_scaling)
        rank_zero_info(
            f"{type(optimizer).__name__} with learning rate {optimizer.param_groups[0]['lr']:g}"
            + ("" if factor == 1 else f", with rates {factor:g} times those written, {self.lr_scaling} scaling")
        )
