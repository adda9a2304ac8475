"""Training and evaluation of a network that finds faces."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import MeanMetric

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import suppress
from faceexpr.data.split import PADDING
from faceexpr.errors import FaceExprError
from faceexpr.models.detection import DetectionNet
from faceexpr.models.light_detector import LightDetector
from faceexpr.tasks.base import Task
from faceexpr.tasks.optimisation import Optimised


class FaceDetector(Optimised, Task):
    """Train a network to find the faces in pictures.

    Args:
        net: the network: a class of `faceexpr.models`, or yours derived from ``DetectionNet``; the light one-stage
            detector by default.
        optimizer: any optimizer of torch.
        scheduler: any learning-rate scheduler of torch, or none. A ``total_steps`` that is not given is the length of
            the training.
        scheduler_interval: whether the scheduler moves on after each ``epoch`` or each ``step``.
        monitor: metric that a ``ReduceLROnPlateau`` scheduler without a monitor of its own watches.
        lr: learning rate, in place of the optimizer's; the value that Lightning's ``LearningRateFinder`` sets.
        channels_last: memory format of images and weights; faster for convolutions on most devices.
    """

    gives = "detections"
    main_metric = "val/ap50"

    def __init__(
        self,
        # The first is the class of a net of which only options are given, such as net.suppression.method.
        net: LightDetector | DetectionNet | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/ap50",
        lr: float | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.net = net or LightDetector()
        self.set_optimisation(optimizer, scheduler, scheduler_interval, monitor, lr)
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()
        if channels_last:
            # Convolutions take the format of their weights.
            self.net.to(memory_format=torch.channels_last)

    def forward(self, images: list[Tensor]) -> list[Detections]:
        """Find the faces.

        Args:
            images: each uint8 in 0 to 255 or floating point in 0 to 1, (3, H, W), of any sizes.
        """
        found: list[Detections] = self.net(images)
        return found

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        parts = self.net.losses(batch["image"], batch["boxes"])
        loss = torch.stack([*parts.values()]).sum()
        # One look at the device a step: at a detector's pace it costs nothing that could be measured.
        if not torch.isfinite(loss):
            raise self._diverged(parts, batch["index"])
        self.train_loss.update(loss.detach(), weight=len(batch["image"]))
        self.log("train/loss_step", loss, on_step=True, on_epoch=False, batch_size=len(batch["image"]))
        for name, part in parts.items():
            self.log(
                f"train/loss_{name}", part, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["image"])
            )
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return {"loss": loss}

    def _diverged(self, parts: dict[str, Tensor], indices: Tensor) -> FaceExprError:
        datamodule = getattr(self.trainer, "datamodule", None)
        wrong = ", ".join(f"{name} {float(part):g}" for name, part in parts.items() if not torch.isfinite(part))
        files = [datamodule.source("train", index) for index in indices.tolist()] if datamodule is not None else []
        return FaceExprError(
            f"the training loss is not finite ({wrong or 'the sum of its parts'}) at step {self.trainer.global_step} "
            f"(epoch {self.trainer.current_epoch}), on the pictures {', '.join(files)}: lower the learning rate "
            "(--model.optimizer.lr), and look at the boxes of these pictures"
        )

    def _evaluate(self, batch: dict[str, Any], with_candidates: bool) -> dict[str, Any]:
        candidates = self.net.candidates(batch["image"])
        found = [suppress(boxes, scores, self.net.suppression) for boxes, scores in candidates]
        return {"detections": found, "candidates": candidates} if with_candidates else {"detections": found}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        real = [place for place, index in enumerate(batch["index"].tolist()) if index != PADDING]
        if real:
            kept = [batch["boxes"][place][~batch["ignored"][place]] for place in real]
            parts = self.net.losses([batch["image"][place] for place in real], kept)
            self.val_loss.update(torch.stack([*parts.values()]).sum(), weight=len(real))
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(batch["image"]))
        return self._evaluate(batch, with_candidates=self.trainer.state.fn != TrainerFn.FITTING)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        return self._evaluate(batch, with_candidates=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        return {"detections": self(batch["image"])}
