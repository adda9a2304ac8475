"""What is measured for every expression classifier, computed from the table of all samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from faceexpr.metrics.distributions import DISTANCES, distances
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError

HIGHER_IS_BETTER: dict[str, bool] = {
    "accuracy": True,
    "top2_accuracy": True,
    "balanced_accuracy": True,
    "macro_f1": True,
    "auroc": True,
    "ece": False,
    "nll": False,
    "loss": False,
    "kl": False,
    "js": False,
    "total_variation": False,
    "coverage": True,
    "set_size": False,
    "precision": True,
    "recall": True,
    "f1": True,
}
"""Direction of each metric; ``recall/Happy`` goes as ``recall`` does. ``loss`` is logged by the task, the rest here."""

OVERALL = ("accuracy", "top2_accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece", "nll")
PER_CLASS = ("precision", "recall", "f1")
CALIBRATION_BINS = 15
MOST_RESAMPLES = 1_000_000


@dataclass(frozen=True)
class Scores:
    """The metrics of one pass over a split.

    Attributes:
        class_names: names of the classes in index order.
        values: metric by name (see `metric_names`), all finite.
        undefined: names of metrics without a value, each with the reason.
        confusion: int64 (C, C), number of samples by true class (row) and predicted class (column).
    """

    class_names: tuple[str, ...]
    values: dict[str, float]
    undefined: dict[str, str]
    confusion: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.confusion.sum())


def metric_names(class_names: Sequence[str]) -> list[str]:
    """Return the names of all metrics in the order of reports; logged, they follow ``val/`` or ``test/``.

    Those of a class that has no sample, the precision of a class that is never predicted, and the AUROC of a single
    class are undefined: they are not among the values of that epoch.
    """
    return [*OVERALL, *(f"{metric}/{name}" for metric in PER_CLASS for name in class_names)]


def higher_is_better(name: str) -> bool:
    """Return the direction of a metric, with or without ``val/`` before and ``/Class`` after its name.

    A metric that is not in `HIGHER_IS_BETTER`, logged by somebody's own task, is taken for a score.
    """
    base = name.removeprefix("val/").removeprefix("test/").removeprefix("train/").split("/")[0]
    return HIGHER_IS_BETTER.get(base, True)


def score(table: SampleTable, class_names: Sequence[str]) -> Scores:
    """Compute every metric.

    - ``accuracy``, ``top2_accuracy``: share of samples whose true class is the most probable, or among the two most.
    - ``balanced_accuracy``: mean recall of the classes that have samples, as scikit-learn's.
    - ``macro_f1``: mean F1 of the classes that have samples or predictions; scikit-learn's ``f1_score`` with its
      default labels. F1 is 2 TP / (2 TP + FP + FN): 0, and not undefined, for a class that is never found.
    - ``auroc``: mean over the classes of the area under the curve of that class against the rest.
    - ``ece``: expected calibration error, 15 equal bins of confidence, L1 (Guo et al., "On Calibration of Modern
      Neural Networks", 2017).
    - ``nll``: mean negative log likelihood in nats; for targets that are distributions, their cross-entropy. A
      probability of 0 counts as float32's resolution, 1.2e-7, as in scikit-learn.

    Distributions count as their most probable class in all but ``nll``; for them there are the distances of
    `faceexpr.metrics.distributions` too.

    Args:
        table: one row or more, with labels.
        class_names: names of the C >= 2 classes.

    Raises:
        FaceExprError: a probability is not finite, so that no number computed from it would mean anything.
    """
    broken = int((~table.finite).sum())
    if broken:
        raise FaceExprError(
            f"the probabilities of {broken:,} of {len(table.indices):,} samples are not finite: the network diverged "
            "in training; train it again with a lower learning rate or with --trainer.gradient_clip_val 1"
        )
    number = len(class_names)
    # Rounding may carry a probability just above 1, which torchmetrics would take for a logit.
    probabilities = torch.from_numpy(table.probabilities).clamp(0, 1)
    labels = torch.from_numpy(table.labels)
    confusion: NDArray[np.int64] = multiclass_confusion_matrix(probabilities, labels, number).numpy().astype(np.int64)
    counted, undefined = count_scores(confusion, class_names)
    values = counted | {
        "top2_accuracy": float(multiclass_accuracy(probabilities, labels, number, average="micro", top_k=2)),
        "ece": calibration_error(table),
        "nll": negative_log_likelihood(table),
    }
    present = confusion.sum(axis=1).nonzero()[0]
    if len(present) > 1:
        areas = [binary_auroc(probabilities[:, index], (labels == index).long()) for index in present]
        values["auroc"] = float(torch.stack(areas).double().mean())
    else:
        undefined["auroc"] = "samples of one class only"
    if table.targets is not None and table.targets.ndim == 2:
        values |= distances(table.probabilities, table.targets.astype(np.float32))
    ordered = {name: float(values[name]) for name in (*metric_names(class_names), *DISTANCES) if name in values}
    return Scores(tuple(class_names), ordered, undefined, confusion)


def count_scores(confusion: NDArray[np.int64], class_names: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Compute the metrics that need no more than counts: accuracy, balanced accuracy, macro F1 and those of a class.

    Args:
        confusion: int64 (C, C), number of samples by true class (row) and predicted class (column); one or more.
        class_names: names of the C classes.

    Returns:
        Metrics by name, and the names of those that are not defined with the reason; see `score`.
    """
    support, predictions, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    values: dict[str, float] = {"accuracy": hits.sum() / support.sum()}
    undefined: dict[str, str] = {}
    per_class = {
        "precision": (hits, predictions, "never predicted"),
        "recall": (hits, support, "no sample"),
        "f1": (2 * hits, support + predictions, "no sample and never predicted"),
    }
    for metric, (numerators, denominators, reason) in per_class.items():
        for name, numerator, denominator in zip(class_names, numerators, denominators, strict=True):
            if denominator:
                values[f"{metric}/{name}"] = numerator / denominator
            else:
                undefined[f"{metric}/{name}"] = reason
    values["balanced_accuracy"] = _mean(values, "recall/")
    values["macro_f1"] = _mean(values, "f1/")
    return {name: float(value) for name, value in values.items()}, undefined


def _mean(values: dict[str, float], prefix: str) -> float:
    return float(np.mean([value for name, value in values.items() if name.startswith(prefix)]))


def calibration_error(table: SampleTable) -> float:
    """Return the expected calibration error, ``ece`` of `score`; probabilities have to be finite."""
    # Rounding may carry a probability just above 1, which torchmetrics would take for a logit.
    probabilities, labels = torch.from_numpy(table.probabilities).clamp(0, 1), torch.from_numpy(table.labels)
    number = probabilities.shape[1]
    return float(multiclass_calibration_error(probabilities, labels, number, n_bins=CALIBRATION_BINS, norm="l1"))


def negative_log_likelihood(table: SampleTable) -> float:
    """Return the mean negative log likelihood, ``nll`` of `score`."""
    resolution = np.finfo(np.float32).eps
    logs = np.log(table.probabilities.astype(np.float64).clip(resolution, 1 - resolution))
    if table.targets is not None and table.targets.ndim == 2:
        return float(-(table.targets * logs).sum(axis=1).mean())
    return float(-logs[np.arange(len(logs)), table.labels].mean())


def check_resamples(option: str, resamples: int) -> None:
    """Refuse a number of bootstrap resamples that gives no interval, or that nobody would wait for.

    Raises:
        FaceExprError: it names the option.
    """
    if not 2 <= resamples <= MOST_RESAMPLES:
        raise FaceExprError(f"{option} is {resamples}; expected 2 to {MOST_RESAMPLES:,}")


def accuracy_interval(
    correct: NDArray[np.bool_], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return a confidence interval of the accuracy: how far it may be off because the split is a sample.

    It is the percentile bootstrap over samples. Where all predictions are right, or all wrong, resampling would give
    an interval without width; there it is the exact binomial one (Clopper and Pearson, 1934).

    Args:
        correct: whether each prediction is right, (N,), N >= 1.
        confidence: probability that the interval covers the true accuracy, between 0 and 1.
        resamples: number of bootstrap resamples, 2 or more.
        seed: seed of the resampling.
    """
    # SciPy takes half a second to import.
    from scipy.stats import binomtest, bootstrap

    right, count = int(correct.sum()), len(correct)
    if right in (0, count):
        exact = binomtest(right, count).proportion_ci(confidence_level=confidence, method="exact")
        return float(exact.low), float(exact.high)
    result = bootstrap(
        (correct.astype(np.float64),),
        np.mean,
        n_resamples=resamples,
        # Bounds the memory: all resamples at once would take 8 * N * resamples bytes.
        batch=max(1, min(resamples, 2_000_000 // count)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
