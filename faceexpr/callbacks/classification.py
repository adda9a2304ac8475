"""The evaluation of every expression classifier: metrics, figures and reports, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torchmetrics.classification import MulticlassAccuracy

from faceexpr.callbacks import reports
from faceexpr.callbacks.evaluation import AUTO, Evaluation, Pass, Stage, log
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.loading import PADDING
from faceexpr.metrics.classification import (
    Scores,
    accuracy_interval,
    check_resamples,
    higher_is_better,
    metric_names,
    score,
)
from faceexpr.metrics.distributions import DISTANCES
from faceexpr.metrics.predictions import write_samples
from faceexpr.metrics.sets import recorded, set_figures, set_values
from faceexpr.metrics.tables import SampleCollector, SampleTable
from faceexpr.utils.files import say
from faceexpr.visualization import classification as drawing
from faceexpr.visualization.explain import class_maps, explained_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPLAIN = "evaluation.explain"


class ClassificationEvaluation(Evaluation[SampleTable, Scores]):
    """Measure a classifier on every validation and test sample, once each, and report what was measured.

    Args:
        figures: draw confusion matrix, accuracy by class, reliability diagram, galleries of right and wrong faces, and
            a sample of the augmented training faces; for TensorBoard and the run folder.
        figures_every_n_epochs: draw the validation figures after each n-th epoch as well; 0 draws those of the best
            epoch only, when training ends.
        gallery_size: largest number of faces in a gallery; 0 draws no galleries.
        resamples: bootstrap resamples behind the confidence interval of the accuracy.
        monitor: the metric that tells which epoch is the best; none takes the last epoch.
        explain: lay over each face of the galleries, in a second picture beside it, which parts speak for the
            prediction; for networks, in ``test`` and ``validate``, where their weights are those that have predicted.
    """

    judges = "probabilities"
    option = "evaluation"

    def __init__(
        self,
        figures: bool = True,
        figures_every_n_epochs: int = 0,
        gallery_size: int = 16,
        resamples: int = 2000,
        monitor: str | None = AUTO,
        explain: bool = False,
    ) -> None:
        super().__init__(figures, figures_every_n_epochs, gallery_size, monitor)
        self.explain = explain
        check_resamples("evaluation.resamples", resamples)
        self.resamples = resamples
        self._running: MulticlassAccuracy | None = None
        self._counts = False
        self._train_accuracy: float | None = None

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return the metrics that a stage always logs, and whether higher is better.

        Args:
            stage: ``train``, ``val`` or ``test``.
            pl_module: has the class names. The precision of a class is not among the names: it is undefined, and not
                logged, in epochs that never predict the class.
        """
        names = ["accuracy"] if stage == "train" else metric_names(_class_names(pl_module))
        if stage != "train" and _gives_distributions(pl_module, stage):
            names += DISTANCES
        return {f"{stage}/{name}": higher_is_better(name) for name in names if not name.startswith("precision/")}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.explain:
            explained_network(pl_module, EXPLAIN)
        if stage == "fit":
            self._train_accuracy = None

    # Training: nothing but a running accuracy, which never waits for the device.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        number = len(_class_names(pl_module))
        self._counts = False
        self._running = MulticlassAccuracy(number, average="micro", validate_args=False).to(pl_module.device)

    def draw_training(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Mapping[str, Figure]:
        names = getattr(trainer.datamodule, "class_names", None) or _class_names(pl_module)  # type: ignore[attr-defined]
        targets = batch["target"][: self.gallery_size]
        labels = (targets.argmax(dim=1) if targets.ndim == 2 else targets).tolist()
        faces = [reports.face(image) for image in batch["image"][: self.gallery_size]]
        captions = [[(drawing.shortened(names[label]), "#222222")] for label in labels]
        return {"faces": drawing.gallery(faces, captions, "Training faces as the network gets them")}

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
            self._train_accuracy = float(self._running.compute())
            log(pl_module, {"train/accuracy": self._train_accuracy})
            self._running.reset()

    def training_metrics(self) -> Mapping[str, float]:
        return {} if self._train_accuracy is None else {"final/train_accuracy": self._train_accuracy}

    # Validation and test.

    def collect(self, pl_module: LightningModule) -> SampleCollector:
        return SampleCollector(len(_class_names(pl_module)))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert self._collector is not None
        self._collector.update(batch["index"], outputs["probabilities"], outputs["target"])

    on_test_batch_end = on_validation_batch_end

    def score(self, table: SampleTable, pl_module: LightningModule) -> Scores:
        scores = score(table, _class_names(pl_module))
        scores.values.update(set_values(table, getattr(pl_module, "calibration", None)))
        return scores

    def values(self, scores: Scores) -> Mapping[str, float]:
        return scores.values

    def report(
        self, trainer: Trainer, stage: Stage, result: Pass[SampleTable, Scores], full: bool, folder: Path | None
    ) -> None:
        interval = accuracy_interval(result.table.correct, reports.CONFIDENCE, self.resamples)
        datamodule = _expressions(trainer)
        selection = None if datamodule is None else datamodule.split(stage).selection
        if full:
            say(reports.summary(stage, result.scores, interval, selection))
        else:
            accuracy, f1 = result.scores.values["accuracy"], result.scores.values["macro_f1"]
            say(
                f"{stage}: best{result.when}, accuracy {accuracy:.2%} ({reports.CONFIDENCE:.0%} "
                f"interval {interval[0]:.2%} to {interval[1]:.2%}), macro F1 {f1:.4f}"
            )
        if folder is not None:
            reports.write_metrics(folder, stage, reports.record(result.scores, interval, result.epoch, selection))
            reports.write_confusion(folder, stage, result.scores)
            leaked = None if datamodule is None else datamodule.leaked(stage)
            write_samples(folder, stage, result.table, result.scores.class_names, leaked)

    def draw(self, trainer: Trainer, stage: Stage, result: Pass[SampleTable, Scores]) -> Mapping[str, Figure]:
        datamodule = _expressions(trainer)
        images = None if datamodule is None else datamodule.split(stage).images
        maps = None
        if self.explain and result.epoch is None:
            maps = partial(class_maps, explained_network(trainer.lightning_module, EXPLAIN))
        # Where a calibration is only being found, the samples are still without it.
        calibration = getattr(trainer.lightning_module, "calibration", None) if recorded(result.scores.values) else None
        sets = set_figures(result.table, result.scores.class_names, calibration, f"{stage}{result.when}")
        return sets | reports.draw(stage, result.table, result.scores, images, self.gallery_size, result.when, maps)

    def stored(self, result: Pass[SampleTable, Scores]) -> dict[str, Any]:
        return {
            "class_names": list(result.scores.class_names),
            "table": [torch.from_numpy(column) for column in result.table if column is not None],
        }

    def restored(self, state: Mapping[str, Any]) -> tuple[SampleTable, Scores]:
        index, probabilities, targets = (column.numpy() for column in state["table"])
        table = SampleTable(index, probabilities, targets)
        return table, score(table, state["class_names"])


def _expressions(trainer: Trainer) -> ExpressionDataModule | None:
    """Return the data of a run, where they are the product's own and not somebody's loaders."""
    datamodule = getattr(trainer, "datamodule", None)
    return datamodule if isinstance(datamodule, ExpressionDataModule) else None


def _gives_distributions(pl_module: LightningModule, stage: str) -> bool:
    """Tell whether the targets of a stage, ``val`` or ``test``, are distributions over the classes."""
    datamodule = _expressions(pl_module.trainer)
    targets = None if datamodule is None else datamodule.split("val" if stage == "val" else "test").targets
    return targets is not None and targets.ndim == 2


def _class_names(pl_module: LightningModule) -> tuple[str, ...]:
    names: tuple[str, ...] = tuple(pl_module.class_names)  # type: ignore[arg-type]
    return names
