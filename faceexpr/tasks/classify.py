"""Training and evaluation of a network that gives one expression to each face."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torchmetrics import MeanMetric

from faceexpr.data.split import PADDING
from faceexpr.described import callable_class
from faceexpr.emotions import FER_NAMES
from faceexpr.errors import FaceExprError
from faceexpr.models.base import ExpressionNet
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.tasks.base import ExpressionTask
from faceexpr.tasks.losses import CrossEntropy, ExpressionLoss
from faceexpr.tasks.resume import check_weights_fit, fit_schedule, keep_written_options


class ExpressionClassifier(ExpressionTask):
    """Train a network to tell the expression of a face.

    Args:
        net: the network: a class of `faceexpr.models`, or yours derived from ``ExpressionNet``. The number of classes
            is given by the data.
        class_names: names of the classes in index order; on the command line they come from the data, or from the
            checkpoint where there is one.
        loss: cross-entropy unless another is named.
        optimizer: any optimizer of torch; the paper's is Adam with a learning rate of 1e-3.
        scheduler: any learning-rate scheduler of torch, or none. A ``total_steps`` that is not given is the length of
            the training.
        scheduler_interval: whether the scheduler moves on after each ``epoch`` or each ``step``.
        monitor: metric that a ``ReduceLROnPlateau`` scheduler without a monitor of its own watches.
        lr: learning rate, in place of the optimizer's; the value that Lightning's ``LearningRateFinder`` sets.
        channels_last: memory format of images and weights; faster for convolutions on most devices.
    """

    def __init__(
        self,
        net: Callable[[int], ExpressionNet] = SimpleCNN,
        class_names: Sequence[str] = FER_NAMES,
        loss: ExpressionLoss | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/accuracy",
        lr: float | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__(class_names)
        self.net = net(len(self.class_names))
        self.loss = loss or CrossEntropy()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.monitor = monitor
        self.lr = lr
        size = self.net.preprocess.size
        # Lets Lightning's summary count operations and TensorBoard draw the graph.
        self.example_input_array = torch.zeros(1, 1, size, size, dtype=torch.uint8)
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()
        self.test_loss = MeanMetric()
        weights = self.loss.class_weights
        if weights is not None and len(weights) != len(self.class_names):
            raise FaceExprError(
                f"model.loss.class_weights has {len(weights)} values; expected {len(self.class_names)}, "
                f"one for each of {', '.join(self.class_names)}"
            )
        if channels_last:
            # Convolutions take the format of their weights.
            self.net.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Return class probabilities.

        Args:
            image: uint8 in 0 to 255 or floating point in 0 to 1, shape (N, 1 or 3, H, W), any size.

        Returns:
            float32 (N, C); each row sums to 1.
        """
        probabilities: Tensor = self.net(image).float().softmax(dim=1)
        return probabilities

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.trainer.ckpt_path is None:
            self.net.load_pretrained()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        target = self.own_target(batch["target"])
        logits: Tensor = self.net(batch["image"]).float()
        loss = self.loss(logits, target)
        self.train_loss.update(loss.detach(), weight=len(target))
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return {"loss": loss, "probabilities": logits.detach().softmax(dim=1), "target": target}

    def _evaluate(self, batch: dict[str, Tensor], mean_loss: MeanMetric) -> dict[str, Tensor]:
        logits: Tensor = self.net(batch["image"]).float()
        target = self.own_target(batch["target"])
        real = batch["index"] != PADDING
        if real.any():
            mean_loss.update(self.loss(logits[real], target[real]), weight=int(real.sum()))
        return {"probabilities": logits.softmax(dim=1), "target": target}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        result = self._evaluate(batch, self.val_loss)
        self.log("val/loss", self.val_loss, prog_bar=True)
        return result

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        result = self._evaluate(batch, self.test_loss)
        self.log("test/loss", self.test_loss)
        return result

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"probabilities": self(batch["image"])}

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer(self.parameters())
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        return optimizer

    def _optimizer_and_scheduler(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = self._optimizer()
        if self.scheduler is None:
            return optimizer, None
        return optimizer, self.scheduler(optimizer, **self._total_steps(self.scheduler))

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
            keep_written_options(checkpoint, self.hparams, self._optimizer_and_scheduler)

    def _attached(self) -> bool:
        try:
            return self.trainer is not None
        except RuntimeError:  # what Lightning raises outside a Trainer, as in load_from_checkpoint
            return False

    def on_train_start(self) -> None:
        if self.scheduler is not None and (length := self._total_steps(self.scheduler)):
            fit_schedule(self.trainer, self.scheduler, length["total_steps"])
        optimizer = self.trainer.optimizers[0]
        rank_zero_info(f"{type(optimizer).__name__} with learning rate {optimizer.param_groups[0]['lr']:g}")
