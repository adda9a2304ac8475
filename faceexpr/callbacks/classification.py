"""Measure every expression classifier: metrics, figures and reports, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torchmetrics.classification import MulticlassAccuracy

from faceexpr.callbacks.evaluation import Evaluation, Pass, Stage, data_of
from faceexpr.callbacks.reports import class_names, log_values, write_metrics
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.loading import PADDING, Selection
from faceexpr.metrics.calibration import COVERAGE, SIZE, select_set_values, set_values
from faceexpr.metrics.classification import (
    DISTANCES,
    METRICS,
    OVERALL,
    PER_CLASS,
    Scores,
    accuracy_interval,
    check_resamples,
    higher_is_better,
    metric_names,
    score,
)
from faceexpr.metrics.collecting import SampleCollector
from faceexpr.metrics.predictions import write_samples
from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import as_percent
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted, csv_text
from faceexpr.visualization.classification import draw_evaluation, training_faces
from faceexpr.visualization.explain import class_maps, explained_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95


class ClassificationEvaluation(Evaluation[SampleTable, Scores]):
    """Measure a classifier on every validation and test sample, once each, and report what was measured.

    The figures are confusion matrix, accuracy by class, reliability diagram, prediction sets of a calibrated model,
    galleries of right and wrong faces, and a sample of the augmented training faces.

    Args:
        gallery_size: largest number of faces in a gallery; 0 draws no galleries.
        resamples: bootstrap resamples behind the confidence interval of the accuracy.
        explain: lay over each face of the galleries, in a second image beside it, which parts speak for the
            prediction; for networks, in ``test`` and ``validate``, where their weights are those that have predicted.
        kwargs: see `Evaluation`.
    """

    def __init__(self, gallery_size: int = 16, resamples: int = 2000, explain: bool = False, **kwargs: Any) -> None:
        super().__init__(gallery_size=gallery_size, **kwargs)
        check_resamples(resamples)
        self.explain = explain
        self.resamples = resamples
        self._running: MulticlassAccuracy | None = None
        self._counts = False

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return the metrics that a stage always logs, and whether higher is better.

        The precision of a class is not among them: it is undefined in epochs that never predict the class.
        """
        if stage == "train":
            return {"train/accuracy": True}
        data = data_of(pl_module.trainer, ExpressionDataModule)
        targets = None if data is None else data.split("val" if stage == "val" else "test").targets
        votes = targets is not None and targets.ndim == 2
        names = [*metric_names(class_names(pl_module)), *(DISTANCES if votes else ())]
        return {f"{stage}/{name}": higher_is_better(name) for name in names if not name.startswith("precision/")}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.explain:
            explained_network(pl_module)

    # Training: nothing but a running accuracy, which never waits for the device.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        number = len(class_names(pl_module))
        self._counts = False
        self._running = MulticlassAccuracy(number, average="micro", validate_args=False).to(pl_module.device)

    def draw_training(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Mapping[str, Figure]:
        names = getattr(trainer.datamodule, "class_names", None) or class_names(pl_module)  # type: ignore[attr-defined]
        images, targets = batch["image"][: self.gallery_size], batch["target"][: self.gallery_size]
        return {"faces": training_faces(images, targets, names)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._running is None or not isinstance(outputs, Mapping) or "probabilities" not in outputs:
            return
        probabilities, target = outputs["probabilities"].detach(), outputs["target"]
        if (batch["index"] == PADDING).any():
            rows = (batch["index"] != PADDING).nonzero().flatten().to(target.device)
            probabilities, target = probabilities[rows], target[rows]
        self._counts = True
        if len(target):
            self._running.update(probabilities, target.argmax(dim=1) if target.ndim == 2 else target)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # All processes compute together, also one that has had no sample.
        if self._running is not None and self._counts:
            accuracy = float(self._running.compute())
            log_values(pl_module, {"train/accuracy": accuracy})
            self._running.reset()

    # Validation and test.

    def collect(self, pl_module: LightningModule) -> SampleCollector:
        return SampleCollector(len(class_names(pl_module)))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert self._collector is not None
        self._collector.update(batch["index"], outputs["probabilities"], outputs["target"])

    on_test_batch_end = on_validation_batch_end

    def score(self, table: SampleTable, pl_module: LightningModule) -> Scores:
        scores = score(table, class_names(pl_module))
        scores.values.update(set_values(table, getattr(pl_module, "calibration", None)))
        return scores

    def report(self, trainer: Trainer, stage: Stage, result: Pass[SampleTable, Scores], full: bool) -> None:
        scores, data = result.scores, data_of(trainer, ExpressionDataModule)
        interval = accuracy_interval(result.table.correct, CONFIDENCE, self.resamples)
        selection = None if data is None else data.split(stage).selection
        accuracy, f1 = scores.values["accuracy"], scores.values["macro_f1"]
        short = f"best{result.when}, accuracy {accuracy:.2%} ({_interval_text(interval)}), macro F1 {f1:.4f}"
        say(summarise(stage, scores, interval, selection) if full else f"{stage}: {short}")
        if self.folder is not None:
            write_metrics(self.folder, stage, make_record(scores, interval, result.epoch, selection))
            rows = zip(scores.class_names, scores.confusion.tolist(), strict=True)
            matrix = csv_text(["true \\ predicted", *scores.class_names], [[name, *row] for name, row in rows])
            write_file(self.folder / f"confusion_matrix_{stage}.csv", matrix)
            leaked = None if data is None else data.leaked(stage)
            write_samples(self.folder, stage, result.table, scores.class_names, leaked)

    def draw(self, trainer: Trainer, stage: Stage, result: Pass[SampleTable, Scores]) -> Mapping[str, Figure]:
        data, model = data_of(trainer, ExpressionDataModule), trainer.lightning_module
        return draw_evaluation(
            f"{stage}{result.when}",
            result.table,
            result.scores,
            None if data is None else data.split(stage).images,
            self.gallery_size,
            partial(class_maps, explained_network(model)) if self.explain and result.epoch is None else None,
            # Where a calibration is only being found, the samples are still without it.
            getattr(model, "calibration", None) if select_set_values(result.scores.values) else None,
        )

    def pack(self, result: Pass[SampleTable, Scores]) -> dict[str, Any]:
        return {
            "class_names": list(result.scores.class_names),
            "table": [torch.from_numpy(column) for column in result.table if column is not None],
        }

    def unpack(self, state: Mapping[str, Any]) -> tuple[SampleTable, Scores]:
        table = SampleTable(*(column.numpy() for column in state["table"]))
        return table, score(table, state["class_names"])


def _interval_text(interval: tuple[float, float]) -> str:
    return f"{CONFIDENCE:.0%} interval {interval[0]:.2%} to {interval[1]:.2%}"


def make_record(
    scores: Scores, interval: tuple[float, float], epoch: int | None, selection: Selection | None = None
) -> dict[str, Any]:
    """Return everything measured as plain values; what is undefined is None, and listed with its reason.

    Args:
        scores: of one pass over a split.
        interval: of the accuracy, with a confidence of 95 %.
        epoch: of the weights, counted from 0, where it is known.
        selection: the rule by which images have a label, where there is one.
    """
    support, predictions = scores.confusion.sum(axis=1), scores.confusion.sum(axis=0)
    return {
        **({} if epoch is None else {"epoch": epoch}),
        "n": scores.count,
        "accuracy": scores.values["accuracy"],
        "accuracy_interval": list(interval),
        "accuracy_interval_confidence": CONFIDENCE,
        **({} if selection is None else {"labels": {"rule": selection.rule, "left_out": dict(selection.left_out)}}),
        **{name: scores.values.get(name) for name in OVERALL if name != "accuracy"},
        **{name: scores.values[name] for name in DISTANCES if name in scores.values},
        **select_set_values(scores.values),
        "class_names": list(scores.class_names),
        "per_class": {
            name: {
                "n": int(support[index]),
                "predicted": int(predictions[index]),
                **{metric: scores.values.get(f"{metric}/{name}") for metric in PER_CLASS},
            }
            for index, name in enumerate(scores.class_names)
        },
        "confusion_matrix": scores.confusion.tolist(),
        "undefined": scores.undefined,
    }


def summarise(stage: str, scores: Scores, interval: tuple[float, float], selection: Selection | None = None) -> str:
    """Return the metrics as a table for the console; see `make_record`."""
    values = scores.values
    lines = [f"{stage}: {counted(scores.count, 'sample')}"]
    for name in OVERALL:
        metric = METRICS[name]
        text = format(values[name], metric.form) if name in values else f"not defined: {scores.undefined[name]}"
        note = f"   ({_interval_text(interval)})" if name == "accuracy" else ""
        lines.append(f"  {metric.label:<28} {text}{note}")
    if any(name in values for name in DISTANCES):
        lines.append("  mean distance to the votes:")
        lines += [f"    {METRICS[name].label:<44} {values[name]:{METRICS[name].form}}" for name in DISTANCES]
    for name, value in values.items():
        if name.startswith(COVERAGE):
            level = name.removeprefix(COVERAGE)
            lines.append(
                f"  prediction sets at {as_percent(level)}: cover {value:.1%} of {scores.count:,}, "
                f"{values[f'{SIZE}{level}']:.2f} expressions on average"
            )
    if selection is not None:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in selection.left_out.items() if count)
        lines.append(
            f"  accuracy {values['accuracy']:.2%} of {counted(scores.count, 'image')}: {selection.rule}; "
            f"{sum(selection.left_out.values()):,} left out{f' ({reasons})' if reasons else ''}"
        )
    width = max(len("class"), *map(len, scores.class_names))
    lines.append(f"  {'class':<{width}} {'recall':>8} {'precision':>9} {'F1':>7} {'n':>7}")
    for name, count in zip(scores.class_names, scores.confusion.sum(axis=1), strict=True):
        cells = [
            format(values[f"{metric}/{name}"], form) if f"{metric}/{name}" in values else "-".rjust(int(form[0]))
            for metric, form in (("recall", "8.2%"), ("precision", "9.2%"), ("f1", "7.4f"))
        ]
        lines.append(f"  {name:<{width}} {' '.join(cells)} {count:7,}")
    return "\n".join(lines)
