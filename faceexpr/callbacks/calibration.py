"""Calibrate a trained classifier on the validation split, and write the checkpoint that holds the calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.callbacks.checkpointing import WholeCheckpointIO
from faceexpr.callbacks.record import note_calibrated, run_folder
from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from faceexpr.metrics.calibration import calibration_error, negative_log_likelihood
from faceexpr.metrics.collecting import SampleCollector
from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import (
    HIGHEST,
    LOWEST,
    Calibration,
    as_percent,
    balanced,
    calibrated,
    check_coverage,
    fit_temperature,
    fit_threshold,
    fit_vector,
)
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import say
from faceexpr.utils.text import counted
from faceexpr.weights.checkpoints import CALIBRATED, calibrated_copy, read_checkpoint
from faceexpr.weights.model_file import is_model_file

Method: TypeAlias = Literal["temperature", "bias", "vector"]

CLEAN = ""
"""Stands for the images as they are, where others stand under the name of their corruption."""

FEW = 50
"""Samples; a calibration on fewer is worth little (docs/real_faces.md)."""

BALANCES = (0, 0.25, 0.5, 0.75, 1)
"""Whose accuracies are told."""

PARTS = 5
"""Into which the samples are divided to tell what a method is worth on others than those that it was fitted on."""


class Calibrate(Callback):
    """Find the temperature of a classifier and the thresholds of its prediction sets on the validation split.

    What is found is written into a copy of the checkpoint, ``calibrated.ckpt`` beside it, which all verbs take like any
    other. Nothing is fitted on the test split.

    Args:
        enabled: do so in ``faceexpr validate``, whose own metrics are then those without a calibration.
        coverages: how often prediction sets shall hold the true expression: for each of these, between 0 and 1, a
            threshold is found; by default 0.8, 0.9, 0.95 and 0.99.
        method: ``temperature``, which changes no prediction; ``bias``, a shift for each class beside it, which also
            mends what is predicted too often; or ``vector``, a scale and a shift for each class. What each is worth is
            told, measured on parts of the split that it was not fitted on.
        balance: how far decisions are moved from the shares that the classes have in the split towards equal ones, 0
            to 1: at 0.5 the probabilities are those of faces whose classes have the square roots of these shares. Rare
            classes are then found more often, and frequent ones less. What each is worth is told.
        corruptions: strength, 1 to 5, of the corruptions of ``--robustness`` under each of which the prediction sets
            shall hold the true expression as often as stated, too; by default 0, on the images as they are.
    """

    def __init__(
        self,
        enabled: bool = False,
        coverages: list[float] | None = None,
        method: Method = "temperature",
        balance: float = 0.0,
        corruptions: int = 0,
    ) -> None:
        require(0 <= balance <= 1, "balance", balance, "0 to 1")
        require(corruptions in (0, *STRENGTHS), "corruptions", corruptions, "0 (none) or a strength of 1 to 5")
        self.enabled = enabled
        self.method = method
        self.coverages = [0.8, 0.9, 0.95, 0.99] if coverages is None else sorted(set(coverages))
        for coverage in self.coverages:
            check_coverage(coverage, "coverages")
        self.balance = balance
        self.corruptions = corruptions
        self._collectors: dict[str, SampleCollector] = {}
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.enabled or stage != "validate":
            return
        refused = f"enabled is true for the calibration of {type(pl_module).__name__}, which has no"
        if not isinstance(pl_module, ExpressionClassifier):
            raise FaceExprError(f"{refused} logits to be divided by a temperature; expected an ExpressionClassifier")
        if "calibration" not in pl_module.hparams:
            raise FaceExprError(
                f"{refused} argument calibration, so that its checkpoint cannot keep one; expected a class that takes "
                "it and hands it on"
            )
        self._folder = run_folder(trainer, needed=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.enabled and isinstance(pl_module, ExpressionClassifier) and trainer.state.fn == TrainerFn.VALIDATING:
            pl_module.calibrate(None)
            for name in (CLEAN, *(CORRUPTIONS if self.corruptions else ())):
                self._collectors[name] = SampleCollector(len(pl_module.class_names)).to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        for name, collector in self._collectors.items():
            probabilities = outputs["probabilities"]
            if name != CLEAN:
                spoilt = {**batch, "image": corrupt(batch["image"], batch["index"], name, self.corruptions)}
                # Through the strategy, which knows the precision of the run and how the model is spread over devices.
                found: Mapping[str, Tensor] = trainer.strategy.predict_step(spoilt, batch_idx)
                probabilities = found["probabilities"]
            collector.update(batch["index"], probabilities, outputs["target"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._collectors:
            return
        assert isinstance(pl_module, ExpressionClassifier)
        # All processes compute the same from the samples of all.
        tables: dict[str, SampleTable] = {name: each.compute() for name, each in self._collectors.items()}
        self._collectors = {}
        data = type(trainer.datamodule).__name__  # type: ignore[attr-defined]  # set at run time
        origin = f"{data}, validation split"
        if self.corruptions:
            origin += f", as it is and under {counted(len(CORRUPTIONS), 'corruption')} of strength {self.corruptions}"
        table = tables.pop(CLEAN)
        found = fit_calibration(table, self.coverages, self.method, origin, self.balance, [*tables.values()])
        found = replace(found, corruptions=self.corruptions)
        pl_module.calibrate(found)
        if not trainer.is_global_zero:
            return
        say(summarise(table, found))
        if trainer.ckpt_path is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            source = Path(trainer.ckpt_path)
            target = name_calibrated(source, self._folder)
            checkpoint = read_checkpoint(source)
            # No weight differs; the temperature is that of the probabilities as they are made now.
            checkpoint["hyper_parameters"] |= {name: pl_module.hparams[name] for name in ("mirror", "calibration")}
            WholeCheckpointIO().save_checkpoint(checkpoint, target)
            note_calibrated(source, target)
            say(f"the same weights with this calibration: {target}")


def fit_calibration(
    table: SampleTable,
    coverages: list[float],
    method: Method,
    source: str,
    balance: float = 0.0,
    spoilt: Sequence[SampleTable] = (),
) -> Calibration:
    """Find a calibration on samples with labels, whose probabilities are not calibrated.

    Of votes the most frequent is the label of a probability, which is to be how often that is right: that is less
    modest than the shares of the votes. A prediction set is to hold what one of the voters says, which is more modest,
    since others label other faces.

    Args:
        table: the samples.
        coverages: between 0 and 1.
        method: how.
        source: which samples these are.
        balance: how far the classes' shares are made equal, 0 to 1.
        spoilt: the same samples under corruptions: the thresholds are the highest that any of these or ``table`` needs.

    Raises:
        FaceExprError: a probability is not finite.
    """
    broken = int((~table.finite).sum())
    if broken:
        raise FaceExprError(
            f"the probabilities of {broken:,} of {len(table.indices):,} samples are not finite; expected finite ones "
            "to calibrate: look at the network"
        )
    if len(table.labels) < FEW:
        rank_zero_warn(
            f"{counted(len(table.labels), 'sample')} to calibrate on; expected {FEW} or more, or it says little"
        )
    absent = table.probabilities.shape[1] - len(np.unique(table.labels))
    if absent and method != "temperature":
        rank_zero_warn(
            f"no sample of {counted(absent, 'class', 'classes')} is in this split, to which {method} scaling gives "
            "almost no probability; expected samples of every class, or the method temperature"
        )
    found = _scaling(table, method)
    if min(found.temperature / LOWEST, HIGHEST / found.temperature) < 1.01:
        rank_zero_warn(
            f"the temperature is {found.temperature:.3g}, the end of what is tried: these samples are too few or too "
            "easy to calibrate on"
        )
    found = balanced(found, _class_shares(table), balance)
    thresholds: dict[str, float] = {}
    for each in (table, *spoilt):
        assert each.targets is not None, "the samples have no labels"
        moved = calibrated(each.probabilities, found)
        for level in (f"{coverage:g}" for coverage in coverages):
            thresholds[level] = max(thresholds.get(level, 0.0), fit_threshold(moved, each.targets, level))
    return replace(found, thresholds=thresholds, samples=len(table.labels), source=source, method=method)


def _scaling(table: SampleTable, method: Method) -> Calibration:
    temperature = fit_temperature(table.probabilities, table.labels)
    if method == "temperature":
        return Calibration(temperature)
    return fit_vector(table.probabilities, table.labels, temperature, tied=method == "bias")


def _class_shares(table: SampleTable) -> NDArray[np.float64]:
    """Return the share of each class in the labels (K,)."""
    return np.bincount(table.labels, minlength=table.probabilities.shape[1]) / len(table.labels)


def cross_fit(table: SampleTable, method: Method) -> SampleTable:
    """Return 2 samples or more, each with what a calibration on the other parts makes of its probabilities."""
    probabilities = np.empty_like(table.probabilities)
    parts = np.random.default_rng(0).permutation(len(table.indices)) % PARTS
    for part in range(PARTS):
        own = parts == part
        others = SampleTable(table.indices[~own], table.probabilities[~own], table.labels[~own])
        probabilities[own] = calibrated(table.probabilities[own], _scaling(others, method))
    return table._replace(probabilities=probabilities)


def summarise(table: SampleTable, found: Calibration) -> str:
    """Return what was found, and what each method is worth, for the console."""
    table = table._replace(targets=table.labels)  # the likelihood is that of the labels, too
    lines = [f"calibration on {counted(found.samples, 'sample')} ({found.source}): temperature {found.temperature:.4f}"]
    if found.scales:
        lines[0] += f", {'a shift' if len(set(found.scales)) == 1 else 'a scale and a shift'} for each class"
    rows = {"as it is": table, "calibrated": table._replace(probabilities=calibrated(table.probabilities, found))}
    if len(table.indices) >= PARTS * 2:
        rows |= {f"{method}, fitted on other parts": cross_fit(table, method) for method in get_args(Method)}
    for label, measured in rows.items():
        lines.append(
            f"  {label:<34} ECE {calibration_error(measured):.2%}   negative log likelihood "
            f"{negative_log_likelihood(measured):.4f}   accuracy {measured.correct.mean():.2%}"
        )
    shares = _class_shares(table)
    plain = balanced(found, shares, -found.balance)
    for balance in BALANCES:
        moved = calibrated(table.probabilities, balanced(plain, shares, balance))
        right = moved.argmax(axis=1) == table.labels
        recalls = [right[table.labels == label].mean() for label in np.unique(table.labels)]
        lines.append(
            f"  {f'balance {balance:g}':<34} accuracy {right.mean():.2%}   balanced accuracy {np.mean(recalls):.2%}"
        )
    for level, threshold in found.thresholds.items():
        note = "" if threshold < 1 else ": all expressions, since there are too few samples for less"
        lines.append(f"  prediction sets at {as_percent(level):<6} threshold {threshold:.4f}{note}")
    return "\n".join(lines)


def name_calibrated(path: Path, folder: Path | None) -> Path:
    """Return where the calibrated copy of a checkpoint is written: beside it; of a calibrated one, over it.

    That of a model file, which may lie among the files of the program, is written to the run folder.
    """
    return (folder or Path()) / "checkpoints" / CALIBRATED if is_model_file(path) else calibrated_copy(path)
