"""Measure a model on every validation and test sample, remember the best epoch, and report: the base of evaluations."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.tensorboard.summary import hparams
from torchmetrics import Metric

from faceexpr.callbacks.record import run_folder
from faceexpr.callbacks.reports import log_values, show_figures
from faceexpr.metrics.classification import higher_is_better
from faceexpr.utils.errors import require
from faceexpr.utils.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUTO = "auto"
"""Stands for the metric by which models of a kind are chosen: their own ``main_metric``."""


class Measured(Protocol):
    """Has metrics by name, None where one is not defined."""

    @property
    def values(self) -> Mapping[str, float | None]: ...


Table = TypeVar("Table")
Scores = TypeVar("Scores", bound=Measured)
Data = TypeVar("Data")
Stage = Literal["val", "test"]
Plain = bool | int | float | str


@dataclass
class Pass(Generic[Table, Scores]):
    """The samples of one pass over a split, and their metrics; the epoch of the weights is None outside of training."""

    table: Table
    scores: Scores
    epoch: int | None

    @property
    def when(self) -> str:
        """How long the weights were trained, for people, who may count epochs from 0 or from 1."""
        return "" if self.epoch is None else f" after {counted(self.epoch + 1, 'epoch')}"


class Evaluation(Callback, Generic[Table, Scores]):
    """A callback that measures models of one kind on every validation and test sample, once each.

    A subclass says how samples are gathered, scored, reported and drawn; this class says when. Everything is computed
    from the samples of all processes, in every process alike, and reported by the first.

    Args:
        figures: draw figures, for the run folder and the loggers that can show them.
        figures_every_n_epochs: draw the validation figures after each n-th epoch as well; 0 draws those of the best
            epoch only, when training ends.
        gallery_size: largest number of images in a figure; 0 draws no images.
        monitor: the metric that tells which epoch is the best; none takes the last epoch.
    """

    measures = "probabilities"  # what the models that a subclass is for give

    def __init__(
        self, figures: bool = True, figures_every_n_epochs: int = 0, gallery_size: int = 9, monitor: str | None = AUTO
    ) -> None:
        for name, value in (("figures_every_n_epochs", figures_every_n_epochs), ("gallery_size", gallery_size)):
            require(value >= 0, name, value, "0 or more")
        self.figures = figures
        self.figures_every_n_epochs = figures_every_n_epochs
        self.gallery_size = gallery_size
        self.monitor = monitor
        self.folder: Path | None = None
        self._collector: Metric | None = None
        self.latest: Pass[Table, Scores] | None = None
        """The last pass over a split."""
        self._best: Pass[Table, Scores] | None = None
        self._best_value: float | None = None
        self._training_shown = False

    # What a subclass says.

    @staticmethod
    def logged(stage: str, pl_module: LightningModule) -> dict[str, bool]:
        """Return what a stage, ``train``, ``val`` or ``test``, always logs, and whether higher is better."""
        raise NotImplementedError

    def collect(self, pl_module: LightningModule) -> Metric:
        """Return an empty metric that gathers samples and computes their table."""
        raise NotImplementedError

    def score(self, table: Table, pl_module: LightningModule) -> Scores:
        """Return the metrics of the samples."""
        raise NotImplementedError

    def report(self, trainer: Trainer, stage: Stage, result: Pass[Table, Scores], full: bool) -> None:
        """Print, and write to the run folder where there is one; ``full`` prints all and not one line."""
        raise NotImplementedError

    def draw(self, trainer: Trainer, stage: Stage, result: Pass[Table, Scores]) -> Mapping[str, Figure]:
        """Return figures by name."""
        raise NotImplementedError

    def draw_training(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Mapping[str, Figure]:
        """Return figures of a batch as training sees it."""
        raise NotImplementedError

    def pack(self, result: Pass[Table, Scores]) -> dict[str, Any]:
        """Return the samples for a checkpoint, in plain values and tensors."""
        raise NotImplementedError

    def unpack(self, state: Mapping[str, Any]) -> tuple[Table, Scores]:
        """Return what `pack` has put into a checkpoint."""
        raise NotImplementedError

    # When.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        gives = getattr(pl_module, "gives", self.measures)
        suits = f"for models that give {self.measures}, and {type(pl_module).__name__} gives {gives}"
        require(gives == self.measures, type(self).__name__, suits, "another evaluation")
        self.folder = run_folder(trainer)
        self.monitor = resolve_monitor(self.monitor, pl_module)
        if stage == "fit":
            # A checkpoint to resume from is loaded later, and brings the best epoch with it.
            self.latest = self._best = self._best_value = None
            self._training_shown = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        shows = self.figures and self.gallery_size and isinstance(batch, Mapping)  # the model refuses others
        if not self._training_shown and shows and trainer.is_global_zero:
            self._training_shown = True
            show_figures(trainer, "train", self.draw_training(trainer, pl_module, batch), self.folder)

    # Not when training ends: a run that was killed after its last epoch is resumed, and has only this left to do.
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        best = {} if self._best is None else self._best.scores.values
        row = {f"best/val_{name}": value for name, value in best.items() if value is not None and "/" not in name}
        # Of these the table shows the last values: the curves are there already.
        curves = {name: 0.0 for name in trainer.callback_metrics if name.count("/") == 1 and name != "train/loss_step"}
        if (row or curves) and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    writer: Any = logger.experiment
                    for summary in hparams(flat_hparams(trainer, pl_module) | row, curves):
                        writer.file_writer.add_summary(summary)
        if self._best is not None:
            self._report(trainer, "val", self._best, full=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collector = self.collect(pl_module).to(pl_module.device)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._collector is not None
        table: Table = self._collector.compute()
        self._collector = None
        if trainer.sanity_checking:
            return
        stage, scores = "test" if trainer.testing else "val", self.score(table, pl_module)
        self.latest = Pass(table, scores, trainer.current_epoch if trainer.state.fn == TrainerFn.FITTING else None)
        log_values(pl_module, {f"{stage}/{name}": value for name, value in scores.values.items()})

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or self.latest is None:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            self._report(trainer, "val", self.latest, full=True)
            return
        metric = trainer.callback_metrics.get(self.monitor) if self.monitor is not None else None
        value = None if metric is None else float(metric)
        if self.monitor is None or self._best is None:
            better = True
        elif value is None or self._best_value is None:
            better = value is not None
        else:
            better = value > self._best_value if higher_is_better(self.monitor) else value < self._best_value
        if better:
            self._best, self._best_value = self.latest, value
        every = self.figures_every_n_epochs
        if self.figures and every and (trainer.current_epoch + 1) % every == 0 and trainer.is_global_zero:
            show_figures(trainer, "val", self.draw(trainer, "val", self.latest), self.folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.latest is not None:
            self._report(trainer, "test", self.latest, full=True)

    def _report(self, trainer: Trainer, stage: Stage, result: Pass[Table, Scores], full: bool) -> None:
        if not trainer.is_global_zero:
            return
        self.report(trainer, stage, result, full)
        if self.figures and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            show_figures(trainer, stage, self.draw(trainer, stage, result), self.folder)
        if self.folder is not None:
            rank_zero_info(f"{stage}: metrics and figures are in {self.folder}")

    # A resumed run still knows the best epoch from before.

    def state_dict(self) -> dict[str, Any]:
        if self._best is None:
            return {}
        chosen = {"monitor": self.monitor, "value": self._best_value, "epoch": self._best.epoch}
        return chosen | self.pack(self._best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # What was best by another metric says nothing of this one.
        if state_dict and state_dict.get("monitor", self.monitor) == self.monitor:
            self._best = Pass(*self.unpack(state_dict), state_dict["epoch"])
            self._best_value = state_dict["value"]

    def forget_best(self) -> None:
        """Choose the best epoch among those to come; for a resumed run without the earlier one's weights."""
        self._best = self._best_value = None


def data_of(trainer: Trainer, kind: type[Data]) -> Data | None:
    """Return the data of a run, where they are the product's own of this kind and not somebody's loaders."""
    datamodule = getattr(trainer, "datamodule", None)
    return datamodule if isinstance(datamodule, kind) else None


def resolve_monitor(monitor: str | None, pl_module: LightningModule) -> str | None:
    """Return the metric that an option ``monitor`` means: of ``auto``, the model's own."""
    return str(getattr(pl_module, "main_metric", "val/accuracy")) if monitor == AUTO else monitor


TRAINER_OPTIONS: dict[str, Plain | None] = {
    "precision": "32-true", "accumulate_grad_batches": 1, "gradient_clip_val": None, "world_size": 1,
}  # fmt: skip
"""Options of the trainer that change what is learnt, and the value of each that would be a column for nothing."""


def flat_hparams(trainer: Trainer, pl_module: LightningModule) -> dict[str, Plain]:
    """Return what tells one run from another, for its row in TensorBoard's table of hyper-parameters.

    Classes appear by their name (``net``: ``SimpleCNN``) with their arguments under it (``net.relu_on_logits``);
    ``lr``, ``batch_size``, ``epochs``, ``seed`` and ``data`` always have these names. Of the data's options, its
    augmentation's and the trainer's there are those that differ from their defaults.
    """
    values = {
        key: value
        for key, value in pl_module.hparams.items()
        if key[0] != "_" and key not in ("class_names", "monitor")
    }
    row = dict(_flatten("", values))
    # The peak of a schedule that has one; the optimizer's own default where no configuration names a learning rate.
    rates = [row.get("lr"), row.get("scheduler.max_lr"), row.pop("optimizer.lr", None)]
    rates += [one.defaults.get("lr") for one in trainer.optimizers]
    options = {name: getattr(trainer, name, default) for name, default in TRAINER_OPTIONS.items()}
    more: dict[str, Any] = {
        "lr": next((rate for rate in rates if rate is not None), None),
        "epochs": trainer.max_epochs,
        "seed": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else None,
        **{name: value for name, value in options.items() if value != TRAINER_OPTIONS[name]},
    }
    data = getattr(trainer, "datamodule", None)
    if data is not None:
        # A class hands options on to its base, which has their defaults.
        signatures = [inspect.signature(cls).parameters for cls in reversed(type(data).__mro__)]
        defaults = {name: one.default for parameters in signatures for name, one in parameters.items()}
        chosen = {name: value for name, value in data.hparams.items() if value != defaults.get(name, value)}
        more["data"] = type(data).__name__
        more |= {f"data.{key}": chosen[key] for key in chosen if key not in ("batch_size", "augment", "class_names")}
        more["batch_size"] = getattr(data, "batch_size", None)
        augment: Any = getattr(data, "augment", None)
        if dataclasses.is_dataclass(augment):
            usual = {field.name: field.default for field in dataclasses.fields(augment)}
            more["augment"] = {name: value for name, value in vars(augment).items() if value != usual.get(name, value)}
    return row | dict(_flatten("", more))


def _flatten(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Plain]]:
    """Yield the plain values of a mapping: a class with its arguments, or a mapping, under dotted names."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and "class_path" in value:
            yield name, str(value["class_path"]).rpartition(".")[2]
            value = value.get("init_args", {})
        if isinstance(value, Mapping):
            yield from _flatten(f"{name}.", value)
        elif isinstance(value, bool | int | float | str):
            yield name, value
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value))
