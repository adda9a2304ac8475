"""Training and evaluation of a network that finds faces."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import suppress
from faceexpr.data.loading import PADDING
from faceexpr.models.detector import DetectionNet
from faceexpr.models.light_detector import LightDetector
from faceexpr.tasks.base import Task
from faceexpr.tasks.optimisation import Optimised, mean_over_processes
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.text import kind_of


class FaceDetector(Optimised, Task):
    """Train a network to find the faces in images.

    With several processes, each counts in a training step with its share of the images. What a network's losses are
    divided by, such as the number of faces or of boxes looked at, is that of a process's own images: a step of
    several processes is nearly, and not exactly, that of one with all their images.

    Args:
        net: the network: a class of `faceexpr.models`, or yours derived from ``DetectionNet``; the light one-stage
            detector by default.
        optimizer: any optimizer of torch.
        monitor: metric that a ``ReduceLROnPlateau`` scheduler without a monitor of its own watches.
    """

    gives = "detections"
    main_metric = "val/ap50"

    def __init__(
        self,
        # The first is the class of a net of which only options are given, such as net.suppression.method.
        net: LightDetector | DetectionNet | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        monitor: str = "val/ap50",
        **kwargs: Any,
    ) -> None:
        require(net is None or isinstance(net, DetectionNet), "net", kind_of(net), "a network, such as LightDetector()")
        super().__init__(optimizer=optimizer, monitor=monitor, **kwargs)
        self.net: DetectionNet = net or LightDetector()
        self.prepare_network()
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()
        self.part_losses = nn.ModuleDict({name: MeanMetric() for name in self.net.loss_names})

    def forward(self, images: list[Tensor]) -> list[Detections]:
        """Find the faces.

        Args:
            images: each uint8 in 0 to 255 or floating point in 0 to 1, (3, H, W), of any sizes.
        """
        found: list[Detections] = self.net(images)
        return found

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        real = _real(batch)
        # Without an image of its own, a process takes part in the step with padding and gradients of 0.
        places = real or range(len(batch["image"]))
        parts = self.net.losses(
            [batch["image"][place] for place in places], [batch["boxes"][place] for place in places]
        )
        mean = torch.stack([*parts.values()]).sum()
        # One look at the device a step: at a detector's pace it costs nothing that could be measured.
        if not torch.isfinite(mean):
            raise self._diverged(parts, [int(batch["index"][place]) for place in real])
        # The mean of this over all processes is the mean over the step's images.
        loss = mean * batch["share"]
        self.train_loss.update(mean.detach(), weight=len(real))
        # Lightning averages the numbers of images over the processes, and cuts what is not whole.
        count = len(real) * self.trainer.world_size
        self.log("train/loss_step", mean_over_processes(loss), on_step=True, on_epoch=False, batch_size=count)
        for name, part in parts.items():
            if name in self.part_losses:
                metric: Any = self.part_losses[name]
                metric.update(part.detach(), weight=len(real))
                self.log(f"train/loss_{name}", metric, on_step=False, on_epoch=True)
            else:
                self.log(f"train/loss_{name}", part, on_step=False, on_epoch=True, sync_dist=True, batch_size=count)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return {"loss": loss}

    def _diverged(self, parts: dict[str, Tensor], indices: list[int]) -> FaceExprError:
        datamodule = getattr(self.trainer, "datamodule", None)
        wrong = ", ".join(f"{name} {float(part):g}" for name, part in parts.items() if not torch.isfinite(part))
        files = [datamodule.source("train", index) for index in indices] if datamodule is not None else []
        return FaceExprError(
            f"the training loss is not finite ({wrong or 'the sum of its parts'}) at step {self.trainer.global_step} "
            f"(epoch {self.trainer.current_epoch + 1}), on the images {', '.join(files)}: lower the learning rate, "
            "and look at the boxes of these images"
        )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        real = _real(batch)
        if real:
            kept = [batch["boxes"][place][~batch["ignored"][place]] for place in real]
            parts = self.net.losses([batch["image"][place] for place in real], kept)
            self.val_loss.update(torch.stack([*parts.values()]).sum(), weight=len(real))
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(batch["image"]))
        found = self.test_step(batch, batch_idx)
        if self.is_fitting:
            del found["candidates"]  # which are counted for each way of suppression, after training only
        return found

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        candidates = self.net.candidates(batch["image"])
        found = [suppress(boxes, scores, self.net.suppression) for boxes, scores in candidates]
        return {"detections": found, "candidates": candidates}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        return {"detections": self(batch["image"])}


def _real(batch: dict[str, Any]) -> list[int]:
    """Return the places of a batch's images that are no padding."""
    return [place for place, index in enumerate(batch["index"].tolist()) if index != PADDING]
