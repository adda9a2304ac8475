"""The evaluation of every face detector: metrics, figures and reports, the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from faceexpr.boxes.matching import Truth
from faceexpr.boxes.suppression import Suppression
from faceexpr.data.detection import DetectionDataModule
from faceexpr.errors import FaceExprError
from faceexpr.evaluation import detection_pictures, detection_reports, reports
from faceexpr.evaluation.base import AUTO, Evaluation, can_judge, resolved
from faceexpr.evaluation.detection_metrics import NEED_FACES_ONLY, DetectionScores, score_detections
from faceexpr.evaluation.detection_table import DetectionCollector, DetectionTable, from_tensors
from faceexpr.evaluation.hparams import log_row
from faceexpr.evaluation.over_detection import count_by_method
from faceexpr.evaluation.showing import show
from faceexpr.files import say, write_file


@dataclass
class _Pass:
    """One pass over a split.

    Attributes:
        table: its pictures.
        scores: their metrics.
        epoch: epoch of the weights, counted from 0; None outside of training.
    """

    table: DetectionTable
    scores: DetectionScores
    epoch: int | None

    @property
    def when(self) -> str:
        """How long the weights were trained, for people, who may count epochs from 0 or from 1."""
        if self.epoch is None:
            return ""
        return " after 1 epoch" if self.epoch == 0 else f" after {self.epoch + 1} epochs"


class DetectionEvaluation(Evaluation):
    """Measure a face detector on every validation and test picture, once each, and report what was measured.

    Args:
        figures: draw the precision-recall curve, the effect of the score's threshold, boxes on one face before and
            after suppression, pictures with found and missed faces, and a sample of the augmented training pictures;
            for TensorBoard and the run folder.
        figures_every_n_epochs: draw the validation figures after each n-th epoch as well; 0 draws those of the best
            epoch only, when training ends.
        gallery_size: largest number of pictures in a figure; 0 draws no pictures.
        score: the score from which on a detection counts in precision, recall and F1 at a score, and in the pictures;
            0.5 is where a detector that knows how sure it is errs as often as not. The threshold with the best F1 is
            reported beside it.
        iou: overlap (intersection over union) from which on a detection has found its face, in all but the average
            precisions, which have their own.
        max_detections: detections of a picture that are looked at, the surest; the detector's own limit is the
            suppression's ``max_faces``.
        monitor: the metric that tells which epoch is the best; none takes the last epoch.
    """

    judges = "detections"

    def __init__(
        self,
        figures: bool = True,
        figures_every_n_epochs: int = 0,
        gallery_size: int = 9,
        score: float = 0.5,
        iou: float = 0.5,
        max_detections: int = 300,
        monitor: str | None = AUTO,
    ) -> None:
        for name, value, least in (
            ("figures_every_n_epochs", figures_every_n_epochs, 0),
            ("gallery_size", gallery_size, 0),
            ("max_detections", max_detections, 1),
        ):
            if value < least:
                raise FaceExprError(f"detection_evaluation.{name} is {value}; expected {least} or more")
        for name, share in (("score", score), ("iou", iou)):
            if not 0 <= share <= 1:
                raise FaceExprError(f"detection_evaluation.{name} is {share}; expected 0 to 1")
        self.figures = figures
        self.figures_every_n_epochs = figures_every_n_epochs
        self.gallery_size = gallery_size
        self.score = score
        self.iou = iou
        self.max_detections = max_detections
        self.monitor = monitor
        self._folder: Path | None = None
        self._collector: DetectionCollector | None = None
        self._latest: _Pass | None = None
        self._best: _Pass | None = None
        self._best_value: float | None = None
        self._pictures_shown = False

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return the metrics that a stage always logs, and whether higher is better.

        Args:
            stage: ``train``, ``val`` or ``test``.
            pl_module: a detector. Metrics that its detections may leave undefined are not among the names, such as
                the average precision of large faces, or the precision in epochs that find nothing.
        """
        return {} if stage == "train" else {f"{stage}/{name}": True for name in NEED_FACES_ONLY}

    # Every process has to ask for the folder, and only before the strategy is torn down.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir
        self._folder = Path(folder) if folder is not None and not _rehearsal(trainer) else None
        self.monitor = resolved(self.monitor, pl_module)
        if stage == "fit":
            # A checkpoint to resume from is loaded later, and brings the best epoch with it.
            self._latest = self._best = self._best_value = None
            self._pictures_shown = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._pictures_shown or not self.figures or not self.gallery_size or not trainer.is_global_zero:
            return
        self._pictures_shown = True
        if can_judge(self, pl_module):
            images, boxes = batch["image"][: self.gallery_size], batch["boxes"][: self.gallery_size]
            figure = detection_pictures.training_pictures(images, boxes)
            show(trainer, self._folder, "train", {"pictures": figure})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not can_judge(self, pl_module):
            return
        metrics: dict[str, float] = {}
        for when, result in (("final", self._latest), ("best", self._best)):
            values = {} if result is None else result.scores.values
            metrics |= {f"{when}/val_{name}": value for name, value in values.items() if value is not None}
        if trainer.is_global_zero and not _rehearsal(trainer):
            log_row(trainer, pl_module, metrics)
        if self._best is not None:
            self._report(trainer, "val", self._best, full=False)

    # Validation and test.

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collector = DetectionCollector().to(pl_module.device) if can_judge(self, pl_module) else None

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self._collector is not None:
            counts = self._counts(pl_module, outputs, batch) if "candidates" in outputs else ()
            self._collector.update(batch["index"], outputs["detections"], batch["boxes"], batch["ignored"], counts)

    on_test_batch_end = on_validation_batch_end

    def _counts(self, pl_module: LightningModule, outputs: Any, batch: Any) -> list[NDArray[np.int64]]:
        options = getattr(getattr(pl_module, "net", None), "suppression", None) or Suppression()
        return [
            count_by_method(
                boxes, scores, Truth(faces.numpy(force=True), ignored.numpy(force=True)), options, self.score, self.iou
            )
            for (boxes, scores), faces, ignored in zip(
                outputs["candidates"], batch["boxes"], batch["ignored"], strict=True
            )
        ]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._collector is None:
            return
        table: DetectionTable = self._collector.compute()
        self._collector = None
        if trainer.sanity_checking:
            return
        scores = self._scored(table)
        self._latest = _Pass(table, scores, trainer.current_epoch if trainer.state.fn == TrainerFn.FITTING else None)
        for name, value in scores.values.items():
            if value is not None:
                # All processes hold the same value, computed from the pictures of all: their maximum is exact.
                pl_module.log(
                    f"{stage}/{name}", value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max",
                    prog_bar=stage == "val" and name == "ap50", batch_size=1,
                )  # fmt: skip

    def _scored(self, table: DetectionTable) -> DetectionScores:
        return score_detections(table.truths, table.found, self.score, self.iou, self.max_detections)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or self._latest is None:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            self._report(trainer, "val", self._latest, full=True)
            return
        value = trainer.callback_metrics.get(self.monitor) if self.monitor is not None else None
        if self._is_best(None if value is None else float(value)):
            self._best, self._best_value = self._latest, None if value is None else float(value)
        every = self.figures_every_n_epochs
        if self.figures and every and (trainer.current_epoch + 1) % every == 0 and trainer.is_global_zero:
            self._draw(trainer, "val", self._latest)

    def _is_best(self, value: float | None) -> bool:
        if self.monitor is None or self._best is None:
            return True
        if value is None or self._best_value is None:
            return value is not None
        return value < self._best_value if self.monitor.endswith("loss") else value > self._best_value

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._latest is not None:
            self._report(trainer, "test", self._latest, full=True)

    # Reports, by the first process alone.

    def _report(self, trainer: Trainer, stage: Literal["val", "test"], result: _Pass, full: bool) -> None:
        """Write and print; ``full`` prints all of it and not one line."""
        if not trainer.is_global_zero:
            return
        scores = result.scores
        say(
            detection_reports.summary(stage, result.table, scores)
            if full
            else detection_reports.line(f"{stage}: best{result.when}", scores)
        )
        if self._folder is not None:
            reports.write_metrics(self._folder, stage, detection_reports.record(result.table, scores, result.epoch))
            data = _data(trainer)
            source = str if data is None else partial(data.source, stage)
            rows = detection_reports.as_csv(result.table, scores, source)
            write_file(self._folder / f"detections_{stage}.csv", rows)
        if self.figures and not _rehearsal(trainer):
            self._draw(trainer, stage, result)
        if self._folder is not None:
            rank_zero_info(f"{stage}: metrics and figures are in {self._folder}")

    def _draw(self, trainer: Trainer, stage: Literal["val", "test"], result: _Pass) -> None:
        data = _data(trainer)
        drawn = detection_reports.draw(
            f"{stage}{result.when}", result.table, result.scores,
            None if data is None else partial(data.picture, stage), self.gallery_size,
        )  # fmt: skip
        show(trainer, self._folder, stage, drawn)

    # A resumed run still knows the best epoch from before.

    def state_dict(self) -> dict[str, Any]:
        if self._best is None:
            return {}
        return {
            "monitor": self.monitor,
            "value": self._best_value,
            "epoch": self._best.epoch,
            "table": self._best.table.tensors(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # What was best by another metric says nothing of this one.
        if state_dict and state_dict.get("monitor", self.monitor) == self.monitor:
            table = from_tensors(state_dict["table"])
            self._best = _Pass(table, self._scored(table), state_dict["epoch"])
            self._best_value = state_dict["value"]

    def forget_best(self) -> None:
        self._best = self._best_value = None


def _data(trainer: Trainer) -> DetectionDataModule | None:
    datamodule = getattr(trainer, "datamodule", None)  # Lightning sets it at run time
    return datamodule if isinstance(datamodule, DetectionDataModule) else None


def _rehearsal(trainer: Any) -> bool:
    """Tell whether this is ``trainer.fast_dev_run``, which leaves nothing behind."""
    return bool(trainer.fast_dev_run)
