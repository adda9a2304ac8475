"""The evaluation of every expression classifier: metrics, figures and reports, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torchmetrics.classification import MulticlassAccuracy

from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.split import PADDING
from faceexpr.errors import FaceExprError
from faceexpr.evaluation import figures as drawing
from faceexpr.evaluation import reports
from faceexpr.evaluation.base import AUTO, Evaluation, resolved
from faceexpr.evaluation.hparams import log_row
from faceexpr.evaluation.metrics import Scores, accuracy_interval, higher_is_better, metric_names, score
from faceexpr.evaluation.table import SampleCollector, SampleTable
from faceexpr.files import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class _Pass:
    """One pass over a split.

    Attributes:
        table: its samples.
        scores: their metrics.
        epoch: epoch of the weights, counted from 0; None outside of training.
    """

    table: SampleTable
    scores: Scores
    epoch: int | None

    @property
    def when(self) -> str:
        """How long the weights were trained, for people, who may count epochs from 0 or from 1."""
        if self.epoch is None:
            return ""
        return " after 1 epoch" if self.epoch == 0 else f" after {self.epoch + 1} epochs"


class ClassificationEvaluation(Evaluation):
    """Measure a classifier on every validation and test sample, once each, and report what was measured.

    Args:
        figures: draw confusion matrix, accuracy by class, reliability diagram, galleries of right and wrong faces, and
            a sample of the augmented training faces; for TensorBoard and the run folder.
        figures_every_n_epochs: draw the validation figures after each n-th epoch as well; 0 draws those of the best
            epoch only, when training ends.
        gallery_size: largest number of faces in a gallery; 0 draws no galleries.
        resamples: bootstrap resamples behind the confidence interval of the accuracy.
        monitor: the metric that tells which epoch is the best; none takes the last epoch.
    """

    judges = "probabilities"

    def __init__(
        self,
        figures: bool = True,
        figures_every_n_epochs: int = 0,
        gallery_size: int = 16,
        resamples: int = 2000,
        monitor: str | None = AUTO,
    ) -> None:
        for name, value, least in (
            ("figures_every_n_epochs", figures_every_n_epochs, 0),
            ("gallery_size", gallery_size, 0),
            ("resamples", resamples, 1),
        ):
            if value < least:
                raise FaceExprError(f"evaluation.{name} is {value}; expected {least} or more")
        self.figures = figures
        self.figures_every_n_epochs = figures_every_n_epochs
        self.gallery_size = gallery_size
        self.resamples = resamples
        self.monitor = monitor
        self._folder: Path | None = None
        self._collector: SampleCollector | None = None
        self._running: MulticlassAccuracy | None = None
        self._train_accuracy: float | None = None
        self._latest: _Pass | None = None
        self._best: _Pass | None = None
        self._best_value: float | None = None
        self._faces_shown = False

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return the metrics that a stage always logs, and whether higher is better.

        Args:
            stage: ``train``, ``val`` or ``test``.
            pl_module: has the class names. The precision of a class is not among the names: it is undefined, and not
                logged, in epochs that never predict the class.
        """
        names = ["accuracy"] if stage == "train" else metric_names(_class_names(pl_module))
        return {f"{stage}/{name}": higher_is_better(name) for name in names if not name.startswith("precision/")}

    # Every process has to ask for the folder, and only before the strategy is torn down.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir
        self._folder = Path(folder) if folder is not None and not _rehearsal(trainer) else None
        self.monitor = resolved(self.monitor, pl_module)
        if stage == "fit":
            # A checkpoint to resume from is loaded later, and brings the best epoch with it.
            self._latest = self._best = self._best_value = self._train_accuracy = None
            self._faces_shown = False

    # Training: nothing but a running accuracy, which never waits for the device.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        number = len(_class_names(pl_module))
        self._running = MulticlassAccuracy(number, average="micro", validate_args=False).to(pl_module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._faces_shown or not self.figures or not self.gallery_size or not trainer.is_global_zero:
            return
        self._faces_shown = True
        names = getattr(trainer.datamodule, "class_names", None) or _class_names(pl_module)  # type: ignore[attr-defined]
        targets = batch["target"][: self.gallery_size]
        labels = (targets.argmax(dim=1) if targets.ndim == 2 else targets).tolist()
        faces = [reports.face(image) for image in batch["image"][: self.gallery_size]]
        captions = [[(drawing.shortened(names[label]), "#222222")] for label in labels]
        self._show(
            trainer, "train", {"faces": drawing.gallery(faces, captions, "Training faces as the network gets them")}
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._running is None or not isinstance(outputs, Mapping) or "probabilities" not in outputs:
            return
        probabilities, target = outputs["probabilities"].detach(), outputs["target"]
        if (batch["index"] == PADDING).any():
            rows = (batch["index"] != PADDING).nonzero().flatten().to(target.device)
            probabilities, target = probabilities[rows], target[rows]
        if len(target):
            self._running.update(probabilities, target.argmax(dim=1) if target.ndim == 2 else target)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._running is not None and self._running.update_called:
            self._train_accuracy = float(self._running.compute())
            _log(pl_module, {"train/accuracy": self._train_accuracy}, progress=False)
            self._running.reset()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {} if self._train_accuracy is None else {"final/train_accuracy": self._train_accuracy}
        for when, result in (("final", self._latest), ("best", self._best)):
            if result is not None:
                metrics |= {
                    f"{when}/val_{name}": value for name, value in result.scores.values.items() if "/" not in name
                }
        if trainer.is_global_zero and not _rehearsal(trainer):
            log_row(trainer, pl_module, metrics)
        if self._best is not None:
            self._report(trainer, "val", self._best, full=False)

    # Validation and test.

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collector = SampleCollector(len(_class_names(pl_module))).to(pl_module.device)

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert self._collector is not None
        self._collector.update(batch["index"], outputs["probabilities"], outputs["target"])

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert self._collector is not None
        table: SampleTable = self._collector.compute()
        self._collector = None
        if trainer.sanity_checking:
            return
        scores = score(table, _class_names(pl_module))
        epoch = trainer.current_epoch if trainer.state.fn == TrainerFn.FITTING else None
        self._latest = _Pass(table, scores, epoch)
        _log(pl_module, {f"{stage}/{name}": value for name, value in scores.values.items()}, progress=stage == "val")

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
        return value > self._best_value if higher_is_better(self.monitor) else value < self._best_value

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._latest is not None:
            self._report(trainer, "test", self._latest, full=True)

    # Reports, by the first process alone.

    def _report(self, trainer: Trainer, stage: Literal["val", "test"], result: _Pass, full: bool) -> None:
        """Write and print; ``full`` prints the whole table and not one line."""
        if not trainer.is_global_zero:
            return
        interval = accuracy_interval(result.table.correct, reports.CONFIDENCE, self.resamples)
        if full:
            say(reports.summary(stage, result.scores, interval))
        else:
            accuracy, f1 = result.scores.values["accuracy"], result.scores.values["macro_f1"]
            say(
                f"{stage}: best{result.when}, accuracy {accuracy:.2%} ({reports.CONFIDENCE:.0%} "
                f"interval {interval[0]:.2%} to {interval[1]:.2%}), macro F1 {f1:.4f}"
            )
        if self._folder is not None:
            reports.write_metrics(self._folder, stage, reports.record(result.scores, interval, result.epoch))
            reports.write_confusion(self._folder, stage, result.scores)
        if self.figures and not _rehearsal(trainer):
            self._draw(trainer, stage, result)
        if self._folder is not None:
            rank_zero_info(f"{stage}: metrics and figures are in {self._folder}")

    def _draw(self, trainer: Trainer, stage: Literal["val", "test"], result: _Pass) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it at run time
        images = datamodule.split(stage).images if isinstance(datamodule, ExpressionDataModule) else None
        self._show(
            trainer, stage, reports.draw(stage, result.table, result.scores, images, self.gallery_size, result.when)
        )

    def _show(self, trainer: Trainer, stage: str, drawn: Mapping[str, Figure]) -> None:
        for name, figure in drawn.items():
            for logger in trainer.loggers:
                experiment: Any = getattr(logger, "experiment", None)
                if hasattr(experiment, "add_figure"):
                    experiment.add_figure(f"{stage}/{name}", figure, trainer.global_step)
            if self._folder is not None:
                reports.write_figure(self._folder, f"{stage}_{name}", figure)

    # A resumed run still knows the best epoch from before.

    def state_dict(self) -> dict[str, Any]:
        if self._best is None:
            return {}
        table = self._best.table
        return {
            "monitor": self.monitor,
            "value": self._best_value,
            "epoch": self._best.epoch,
            "class_names": list(self._best.scores.class_names),
            "table": [torch.from_numpy(column) for column in table if column is not None],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # What was best by another metric says nothing of this one.
        if state_dict and state_dict.get("monitor", self.monitor) == self.monitor:
            index, probabilities, targets = (column.numpy() for column in state_dict["table"])
            table = SampleTable(index, probabilities, targets)
            self._best = _Pass(table, score(table, state_dict["class_names"]), state_dict["epoch"])
            self._best_value = state_dict["value"]

    def forget_best(self) -> None:
        self._best = self._best_value = None


def _class_names(pl_module: LightningModule) -> tuple[str, ...]:
    names: tuple[str, ...] = tuple(pl_module.class_names)  # type: ignore[arg-type]
    return names


def _rehearsal(trainer: Any) -> bool:
    """Tell whether this is ``trainer.fast_dev_run``, which leaves nothing behind."""
    return bool(trainer.fast_dev_run)


def _log(pl_module: LightningModule, values: dict[str, float], progress: bool) -> None:
    for name, value in values.items():
        # All processes hold the same value, computed from the samples of all: their maximum is exact, a mean may round.
        pl_module.log(
            name, value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max",
            prog_bar=progress and name.endswith("/accuracy"),
        )  # fmt: skip
