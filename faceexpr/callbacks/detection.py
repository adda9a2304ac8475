"""Measure every face detector: metrics, figures and reports, the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from faceexpr.boxes.matching import Truth, judge
from faceexpr.boxes.suppression import Suppression
from faceexpr.callbacks.evaluation import Evaluation, Pass, Stage, data_of
from faceexpr.callbacks.reports import write_metrics
from faceexpr.data.base import SPLITS
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.metrics.detection import (
    METHODS,
    NEED_FACES_ONLY,
    WIDER_LEVELS,
    DetectionCollector,
    DetectionScores,
    DetectionTable,
    Levelled,
    by_method,
    count_by_method,
    from_tensors,
    level_by_height,
    read_wider_levels,
    score_detections,
    wider_precision,
)
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted, csv_text, some
from faceexpr.visualization.detection import draw_evaluation, training_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

LABELS = {
    "ap": "AP, IoU 0.50 to 0.95",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP, small faces (to 32 px)",
    "ap_medium": "AP, medium faces (to 96 px)",
    "ap_large": "AP, large faces",
    **{f"wider_{level}": f"WIDER FACE's AP, {level}" for level in WIDER_LEVELS},
}

HEIGHTS = "heights"

LIMITS = "the suppression's max_faces", "the evaluation's max_detections"
"""What to raise where more was found in an image than is returned or looked at."""


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
        wider: measure by WIDER FACE's own protocol too, as ``wider_easy``, ``wider_medium`` and ``wider_hard``, by the
            levels in a folder with the benchmark's ``wider_{face,easy,medium,hard}_val.mat``, for its validation
            photographs or some of them; or of any images, ``heights``: all faces of more than 50, 30 and 10 pixels,
            which is nearly the same.
        kwargs: see `Evaluation`.
    """

    measures = "detections"
    limits = LIMITS

    def __init__(
        self, score: float = 0.5, iou: float = 0.5, max_detections: int = 300, wider: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(max_detections >= 1, "max_detections", max_detections, "1 or more")
        for name, share in (("score", score), ("iou", iou)):
            require(0 <= share <= 1, name, share, "0 to 1")
        self.least_score = score
        self.iou = iou
        self.max_detections = max_detections
        self.wider = wider
        self._levels: dict[str, Levelled] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.wider in (None, HEIGHTS):
            return
        self._levels = read_wider_levels(Path(self.wider))
        for name in SPLITS[stage]:
            paths = self._paths(trainer, name) if name in ("val", "test") else []
            unknown = [str(path) for path in paths if _photograph(path) not in self._levels]
            if unknown:
                raise FaceExprError(
                    f"wider: {len(unknown):,} of {counted(len(paths), 'image')} of the {name} split are not among the "
                    f"{len(self._levels):,} photographs of {self.wider}: {some(unknown)}; expected EVENT/NAME as "
                    f"there, or {HEIGHTS}"
                )

    def _paths(self, trainer: Trainer, stage: Stage) -> list[Path]:
        data = data_of(trainer, DetectionDataModule)
        if data is None:
            raise FaceExprError(f"wider is {self.wider}; expected {HEIGHTS} for images without names")
        return [record.path for record in data.split(stage).records]

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
        scores = score_detections(table.truths, table.found, self.least_score, self.iou, self.max_detections)
        if self.wider is None or pl_module is None:
            return scores
        if self.wider == HEIGHTS:
            known = list(map(level_by_height, table.truths))
        else:
            paths = self._paths(pl_module.trainer, "test" if pl_module.trainer.testing else "val")
            known = [self._levels[_photograph(paths[index])] for index in table.indices.tolist()]
        return _add_wider(scores, wider_precision(table.found, known))

    def report(self, trainer: Trainer, stage: Stage, result: Pass[DetectionTable, DetectionScores], full: bool) -> None:
        table, scores, data = result.table, result.scores, data_of(trainer, DetectionDataModule)
        if full:
            say(summarise(stage, table, scores, self.limits))
            if self._levels:
                say(f"  WIDER FACE's levels are of {len(table.found):,} of its {len(self._levels):,} photographs")
        else:
            named = (("ap50", "AP50"), ("ap", "AP"), ("best_f1", "best F1"))
            values = ", ".join(f"{label} {_value(scores, name)}" for name, label in named)
            say("\n".join([f"{stage}: best{result.when}, {values}", *_limit_note(table, scores, self.limits)]))
        if self.folder is not None:
            epoch = {} if result.epoch is None else {"epoch": result.epoch}
            protocol = {} if self.wider is None else {"wider": self.wider}
            write_metrics(self.folder, stage, {**epoch, **make_record(table, scores), **protocol})
            source = str if data is None else partial(data.source, stage)
            write_file(self.folder / f"detections_{stage}.csv", list_boxes(table, scores, source))

    def draw(
        self, trainer: Trainer, stage: Stage, result: Pass[DetectionTable, DetectionScores]
    ) -> Mapping[str, Figure]:
        data = data_of(trainer, DetectionDataModule)
        images = None if data is None else data.split(stage).pixels
        return draw_evaluation(f"{stage}{result.when}", result.table, result.scores, images, self.gallery_size)

    def pack(self, result: Pass[DetectionTable, DetectionScores]) -> dict[str, Any]:
        wider = {level: result.scores.values.get(f"wider_{level}") for level in WIDER_LEVELS}
        return {"table": result.table.tensors(), **({} if self.wider is None else {"wider": wider})}

    def unpack(self, state: Mapping[str, Any]) -> tuple[DetectionTable, DetectionScores]:
        table = from_tensors(state["table"])
        return table, _add_wider(self.score(table), state.get("wider", {}))


def _photograph(path: Path) -> str:
    """Return what WIDER FACE calls a photograph: its event and its name without the ending."""
    return f"{path.parent.name}/{path.stem}"


def _add_wider(scores: DetectionScores, precision: Mapping[str, float | None]) -> DetectionScores:
    """Return metrics with those of WIDER FACE's protocol, by level."""
    values = {f"wider_{level}": value for level, value in precision.items()}
    reasons = {name: "no face counts at this level" for name, value in values.items() if value is None}
    return replace(scores, values=scores.values | values, undefined=scores.undefined | reasons)


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


def summarise(stage: str, table: DetectionTable, scores: DetectionScores, limits: Sequence[str] = LIMITS) -> str:
    """Return the metrics of a pass over a split as tables for the console; ``stage`` says what was evaluated."""
    ignored = f" and {scores.ignored:,} ignored" if scores.ignored else ""
    unsure = [float(each[-1]) for each in _scores_looked_at(table, scores) if len(each)]
    least = f", down to a score of {min(unsure):.2g}" if unsure else ""
    lines = [
        f"{stage}: {counted(scores.images, 'image')}, {counted(scores.faces, 'face')}{ignored}, "
        f"{counted(scores.detections, 'detection')}{least}"
    ]
    lines += [f"  {label:<28} {_value(scores, name)}" for name, label in LABELS.items() if name in scores.values]
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
    lines += _limit_note(table, scores, limits)
    if table.counts is not None:
        boxes = f"boxes, score >= {scores.score:g}"
        lines.append(f"  {boxes:<28} {'all':>7} {'faces found':>12} {'beyond one':>11} {'false':>7}")
        lines += [
            f"  {METHODS[method]:<28} {counts.boxes:7,} {counts.found:12,} {counts.extra:11,} {counts.false:7,}"
            for method, counts in by_method(table.counts).items()
        ]
    return "\n".join(lines)


def _scores_looked_at(table: DetectionTable, scores: DetectionScores) -> list[Tensor]:
    """Return for each image the scores of those detections that are measured, the surest first."""
    return [found.scores[: scores.max_detections] for found in table.found]


def _limit_note(table: DetectionTable, scores: DetectionScores, limits: Sequence[str] = LIMITS) -> list[str]:
    """Say in how many images more was found than may be returned that is sure enough to matter, if in any."""
    sure = min(scores.score, scores.values["best_f1_threshold"] or 1.0)
    cut = sum(
        (found.limited or len(found) > scores.max_detections) and bool(each[-1] >= sure)
        for found, each in zip(table.found, _scores_looked_at(table, scores), strict=True)
    )
    if not cut:
        return []
    return [
        f"  in {counted(cut, 'image')} more was found than the detector may return or the metrics look at "
        f"({scores.max_detections} an image): raise {' and '.join(limits)}"
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
