"""Measure every face detector: metrics, figures and reports, the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from faceexpr.boxes.matching import Truth, judge
from faceexpr.boxes.suppression import Suppression
from faceexpr.callbacks.evaluation import Evaluation, Pass, Stage, data_of
from faceexpr.callbacks.reports import write_metrics
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.metrics.detection import (
    METHODS,
    NEED_FACES_ONLY,
    DetectionCollector,
    DetectionScores,
    DetectionTable,
    by_method,
    count_by_method,
    from_tensors,
    score_detections,
)
from faceexpr.utils.errors import require
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted, csv_text
from faceexpr.visualization.detection import draw_evaluation, training_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "ap": "AP, IoU 0.50 to 0.95",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP, small faces (to 32 px)",
    "ap_medium": "AP, medium faces (to 96 px)",
    "ap_large": "AP, large faces",
}


class DetectionEvaluation(Evaluation[DetectionTable, DetectionScores]):
    """Measure a face detector on every validation and test image, once each, and report what was measured.

    The figures are the precision-recall curve, the effect of the score's threshold, boxes on one face before and after
    suppression, images with found and missed faces, and a sample of the augmented training images.

    Args:
        score: the score from which on a detection counts in precision, recall and F1 at a score, and in the images;
            0.5 is where a detector that knows how sure it is errs as often as not. The threshold with the best F1 is
            reported beside it.
        iou: overlap (intersection over union) from which on a detection has found its face, in all but the average
            precisions, which have their own.
        max_detections: detections of an image that are looked at, the surest; the detector's own limit is the
            suppression's ``max_faces``.
        kwargs: see `Evaluation`.
    """

    def __init__(self, score: float = 0.5, iou: float = 0.5, max_detections: int = 300, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(max_detections >= 1, "max_detections", max_detections, "1 or more")
        for name, share in (("score", score), ("iou", iou)):
            require(0 <= share <= 1, name, share, "0 to 1")
        self.least_score = score
        self.iou = iou
        self.max_detections = max_detections

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return the metrics that a stage always logs, and whether higher is better.

        Those that may be undefined are not among them, such as the precision in epochs that find nothing.
        """
        return {} if stage == "train" else {f"{stage}/{name}": True for name in NEED_FACES_ONLY}

    def draw_training(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Mapping[str, Figure]:
        images, boxes = batch["image"][: self.gallery_size], batch["boxes"][: self.gallery_size]
        return {"pictures": training_images(images, boxes)}

    def collect(self, pl_module: LightningModule) -> DetectionCollector:
        return DetectionCollector()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert self._collector is not None
        options = getattr(getattr(pl_module, "net", None), "suppression", None) or Suppression()
        known = zip(batch["boxes"], batch["ignored"], strict=True)
        truths = [Truth(faces.numpy(force=True), ignored.numpy(force=True)) for faces, ignored in known]
        counts = [
            count_by_method(boxes, scores, truth, options, self.least_score, self.iou)
            for (boxes, scores), truth in zip(outputs.get("candidates", ()), truths, strict=False)
        ]
        self._collector.update(batch["index"], outputs["detections"], truths, counts)

    on_test_batch_end = on_validation_batch_end

    def score(self, table: DetectionTable, pl_module: LightningModule | None = None) -> DetectionScores:
        return score_detections(table.truths, table.found, self.least_score, self.iou, self.max_detections)

    def report(self, trainer: Trainer, stage: Stage, result: Pass[DetectionTable, DetectionScores], full: bool) -> None:
        table, scores, data = result.table, result.scores, data_of(trainer, DetectionDataModule)
        if full:
            say(summarise(stage, table, scores))
        else:
            named = (("ap50", "AP50"), ("ap", "AP"), ("best_f1", "best F1"))
            values = ", ".join(f"{label} {_value(scores, name)}" for name, label in named)
            say("\n".join([f"{stage}: best{result.when}, {values}", *_limit_note(scores)]))
        if self.folder is not None:
            epoch = {} if result.epoch is None else {"epoch": result.epoch}
            write_metrics(self.folder, stage, {**epoch, **make_record(table, scores)})
            source = str if data is None else partial(data.source, stage)
            write_file(self.folder / f"detections_{stage}.csv", list_boxes(table, scores, source))

    def draw(
        self, trainer: Trainer, stage: Stage, result: Pass[DetectionTable, DetectionScores]
    ) -> Mapping[str, Figure]:
        data = data_of(trainer, DetectionDataModule)
        images = None if data is None else data.split(stage).pixels
        return draw_evaluation(f"{stage}{result.when}", result.table, result.scores, images, self.gallery_size)

    def pack(self, result: Pass[DetectionTable, DetectionScores]) -> dict[str, Any]:
        return {"table": result.table.tensors()}

    def unpack(self, state: Mapping[str, Any]) -> tuple[DetectionTable, DetectionScores]:
        table = from_tensors(state["table"])
        return table, self.score(table)


def make_record(table: DetectionTable, scores: DetectionScores) -> dict[str, Any]:
    """Return everything measured in a pass as plain values; what is undefined is None, and listed with its reason."""
    record: dict[str, Any] = {
        "images": scores.images,
        "faces": scores.faces,
        "ignored_faces": scores.ignored,
        "detections": scores.detections,
        "images_at_the_limit": scores.limited,
        "max_detections": scores.max_detections,
        "score": scores.score,
        "iou": scores.iou,
        **scores.values,
        "undefined": scores.undefined,
    }
    if table.counts is not None:
        record["over_detection"] = {method: counts._asdict() for method, counts in by_method(table.counts).items()}
    return record


def summarise(stage: str, table: DetectionTable, scores: DetectionScores) -> str:
    """Return the metrics of a pass over a split as tables for the console; ``stage`` says what was evaluated."""
    ignored = f" and {scores.ignored:,} ignored" if scores.ignored else ""
    lines = [
        f"{stage}: {counted(scores.images, 'image')}, {counted(scores.faces, 'face')}{ignored}, "
        f"{counted(scores.detections, 'detection')}"
    ]
    lines += [f"  {label:<28} {_value(scores, name)}" for name, label in LABELS.items()]
    lines.append(f"  {'recall, any score':<28} {_value(scores, 'recall')}   (IoU {scores.iou:g}, as below)")
    threshold = scores.values["best_f1_threshold"]
    best = "best F1" if threshold is None else f"best F1: score >= {threshold:.3f}"
    for label, f1, metrics in (
        (f"score >= {scores.score:g}", "f1_at_score", ("precision_at_score", "recall_at_score")),
        (best, "best_f1", ("best_f1_precision", "best_f1_recall")),
    ):
        line = f"  {label:<28} F1 {_value(scores, f1)}"
        for name, metric in zip(("precision", "recall"), metrics, strict=True):
            # One reason is enough.
            if scores.values[metric] is not None or scores.undefined[metric] != scores.undefined.get(f1):
                line += f"   {name} {_value(scores, metric)}"
        lines.append(line)
    lines += _limit_note(scores)
    if table.counts is not None:
        boxes = f"boxes, score >= {scores.score:g}"
        lines.append(f"  {boxes:<28} {'all':>7} {'faces found':>12} {'beyond one':>11} {'false':>7}")
        lines += [
            f"  {METHODS[method]:<28} {counts.boxes:7,} {counts.found:12,} {counts.extra:11,} {counts.false:7,}"
            for method, counts in by_method(table.counts).items()
        ]
    return "\n".join(lines)


def _limit_note(scores: DetectionScores) -> list[str]:
    """Say in how many images more was found than may be returned, if in any."""
    if not scores.limited:
        return []
    return [
        f"  in {counted(scores.limited, 'image')} more was found than the detector may return or the metrics look at "
        f"({scores.max_detections} an image): raise the suppression's max_faces and the evaluation's max_detections"
    ]


def _value(scores: DetectionScores, name: str) -> str:
    value = scores.values[name]
    return f"{value:.4f}" if value is not None else f"not defined: {scores.undefined[name]}"


def list_boxes(table: DetectionTable, scores: DetectionScores, source: Callable[[int], str]) -> str:
    """Return a CSV with one row for each detection and each missed face.

    ``outcome`` is ``true``, ``false``, ``ignored`` (of a face that does not count), or ``missed`` (no score), at the
    scores' overlap and whatever the detection's score. ``source`` says what to call the image of an index.
    """
    rows: list[list[object]] = []
    for index, found, truth in zip(table.indices.tolist(), table.found, table.truths, strict=True):
        outcome, name = judge(truth, found, scores.iou), source(index)
        kinds = np.where(outcome.true, "true", np.where(outcome.false, "false", "ignored")).tolist()
        certain = [f"{score:.9g}" for score in found.scores.tolist()]
        judged = [*zip(found.boxes.tolist(), certain, kinds, strict=True)]
        judged += [(box, "", "missed") for box in truth.boxes[outcome.missed].tolist()]
        rows += [[name, index, *(f"{value:.7g}" for value in box), score, kind] for box, score, kind in judged]
    return csv_text(["source", "index", "left", "top", "right", "bottom", "score", "outcome"], rows)
