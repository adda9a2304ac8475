"""The evaluation of every face detector: metrics, figures and reports, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from faceexpr.boxes.matching import Truth
from faceexpr.boxes.suppression import Suppression
from faceexpr.callbacks import detection_reports, reports
from faceexpr.callbacks.evaluation import AUTO, Evaluation, Pass, Stage
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.metrics.detection import NEED_FACES_ONLY, DetectionScores, score_detections
from faceexpr.metrics.detection_table import DetectionCollector, DetectionTable, from_tensors
from faceexpr.metrics.over_detection import count_by_method
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.visualization import detection_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DetectionEvaluation(Evaluation[DetectionTable, DetectionScores]):
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
    option = "detection_evaluation"

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
        super().__init__(figures, figures_every_n_epochs, gallery_size, monitor)
        if max_detections < 1:
            raise FaceExprError(f"detection_evaluation.max_detections is {max_detections}; expected 1 or more")
        for name, share in (("score", score), ("iou", iou)):
            if not 0 <= share <= 1:
                raise FaceExprError(f"detection_evaluation.{name} is {share}; expected 0 to 1")
        self.least_score = score
        self.iou = iou
        self.max_detections = max_detections

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return the metrics that a stage always logs, and whether higher is better.

        Args:
            stage: ``train``, ``val`` or ``test``.
            pl_module: a detector. Metrics that its detections may leave undefined are not among the names, such as
                the average precision of large faces, or the precision in epochs that find nothing.
        """
        return {} if stage == "train" else {f"{stage}/{name}": True for name in NEED_FACES_ONLY}

    def draw_training(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Mapping[str, Figure]:
        images, boxes = batch["image"][: self.gallery_size], batch["boxes"][: self.gallery_size]
        return {"pictures": detection_pictures.training_pictures(images, boxes)}

    def collect(self, pl_module: LightningModule) -> DetectionCollector:
        return DetectionCollector()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert self._collector is not None
        counts = self._counts(pl_module, outputs, batch) if "candidates" in outputs else ()
        self._collector.update(batch["index"], outputs["detections"], batch["boxes"], batch["ignored"], counts)

    on_test_batch_end = on_validation_batch_end

    def _counts(self, pl_module: LightningModule, outputs: Any, batch: Any) -> list[NDArray[np.int64]]:
        options = getattr(getattr(pl_module, "net", None), "suppression", None) or Suppression()
        return [
            count_by_method(
                boxes,
                scores,
                Truth(faces.numpy(force=True), ignored.numpy(force=True)),
                options,
                self.least_score,
                self.iou,
            )
            for (boxes, scores), faces, ignored in zip(
                outputs["candidates"], batch["boxes"], batch["ignored"], strict=True
            )
        ]

    def score(self, table: DetectionTable, pl_module: LightningModule) -> DetectionScores:
        return self._scored(table)

    def _scored(self, table: DetectionTable) -> DetectionScores:
        return score_detections(table.truths, table.found, self.least_score, self.iou, self.max_detections)

    def values(self, scores: DetectionScores) -> Mapping[str, float | None]:
        return scores.values

    def report(
        self,
        trainer: Trainer,
        stage: Stage,
        result: Pass[DetectionTable, DetectionScores],
        full: bool,
        folder: Path | None,
    ) -> None:
        table, scores = result.table, result.scores
        if full:
            say(detection_reports.summary(stage, table, scores))
        else:
            say(detection_reports.line(f"{stage}: best{result.when}", scores))
        if folder is not None:
            reports.write_metrics(folder, stage, detection_reports.record(table, scores, result.epoch))
            data = _data(trainer)
            source = str if data is None else partial(data.source, stage)
            write_file(folder / f"detections_{stage}.csv", detection_reports.as_csv(table, scores, source))

    def draw(
        self, trainer: Trainer, stage: Stage, result: Pass[DetectionTable, DetectionScores]
    ) -> Mapping[str, Figure]:
        data = _data(trainer)
        picture = None if data is None else partial(data.picture, stage)
        title = f"{stage}{result.when}"
        return detection_reports.draw(title, result.table, result.scores, picture, self.gallery_size)

    def stored(self, result: Pass[DetectionTable, DetectionScores]) -> dict[str, Any]:
        return {"table": result.table.tensors()}

    def restored(self, state: Mapping[str, Any]) -> tuple[DetectionTable, DetectionScores]:
        table = from_tensors(state["table"])
        return table, self._scored(table)


def _data(trainer: Trainer) -> DetectionDataModule | None:
    datamodule = getattr(trainer, "datamodule", None)  # Lightning sets it at run time
    return datamodule if isinstance(datamodule, DetectionDataModule) else None
