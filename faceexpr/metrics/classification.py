"""Measure an expression classifier: every metric, computed from the table of all samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceexpr.metrics.calibration import calibration_error, negative_log_likelihood
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError, require

PER_CLASS = ("precision", "recall", "f1")
MOST_RESAMPLES = 1_000_000
RESOLUTION = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Metric:
    """One line of `METRICS`.

    Args:
        label: its name in reports.
        higher_is_better: its direction.
        form: how its value is printed.
        compute: takes a table of one sample or more with labels; None for a metric that `count_scores` computes.
        of_votes: whether it is for targets that are distributions only.
    """

    label: str
    higher_is_better: bool
    form: str = "7.4f"
    compute: Callable[[SampleTable], float] | None = None
    of_votes: bool = False


def top2_accuracy(table: SampleTable) -> float:
    """Return the share of samples whose true class is among the two most probable."""
    import torch  # seconds to import

    best = torch.from_numpy(table.probabilities).topk(2, dim=1).indices.numpy()
    return float((best == table.labels[:, None]).any(axis=1).mean())


def auroc(table: SampleTable) -> float:
    """Return the area under the curve of a class against the rest, the mean over the classes that have samples.

    With samples of one class only it is NaN.
    """
    from scipy.stats import rankdata  # half a second to import

    present, counts = np.unique(table.labels, return_counts=True)
    if len(present) < 2:
        return math.nan
    # The area is the share of pairs in which the sample of the class has the higher probability (Mann and Whitney).
    ranks = rankdata(table.probabilities[:, present], axis=0) * (table.labels[:, None] == present)
    pairs = ranks.sum(axis=0) - counts * (counts + 1) / 2
    return float((pairs / (counts * (len(table.labels) - counts))).mean())


def kullback_leibler(table: SampleTable) -> float:
    """Return the mean Kullback-Leibler divergence of the prediction from the votes, in nats.

    It is what the cross-entropy (``nll``) has beyond the entropy of the votes, which no prediction can avoid. A
    probability of 0 counts as float32's resolution, as in ``nll``, and what that takes below 0 as 0.
    """
    from scipy.special import rel_entr  # half a second to import

    predicted, votes = _shares(table)
    return float(rel_entr(votes, predicted.clip(RESOLUTION, 1 - RESOLUTION)).sum(1).clip(min=0).mean())


def jensen_shannon(table: SampleTable) -> float:
    """Return the mean Jensen-Shannon divergence, in bits: 0 to 1, the same from either side.

    Lin, "Divergence measures based on the Shannon entropy", 1991.
    """
    from scipy.special import rel_entr

    predicted, votes = _shares(table)
    middle = (predicted + votes) / 2
    both = (rel_entr(votes, middle).sum(1) + rel_entr(predicted, middle).sum(1)) / (2 * np.log(2))
    return float(both.clip(0, 1).mean())


def total_variation(table: SampleTable) -> float:
    """Return the mean share of votes that would have to be moved, half the sum of the differences: 0 to 1."""
    predicted, votes = _shares(table)
    return float(np.abs(predicted - votes).sum(1).mean() / 2)


def _shares(table: SampleTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert table.targets is not None
    # As float32 first, as people's votes are stored.
    votes = table.targets.astype(np.float32).astype(np.float64)
    return table.probabilities.astype(np.float64).clip(0, 1), votes


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", True, "7.2%"),
    "top2_accuracy": Metric("top-2 accuracy", True, "7.2%", top2_accuracy),
    "balanced_accuracy": Metric("balanced accuracy", True, "7.2%"),
    "macro_f1": Metric("macro F1", True),
    "auroc": Metric("AUROC, one against the rest", True, compute=auroc),
    "ece": Metric("calibration error (ECE)", False, compute=calibration_error),
    "nll": Metric("negative log likelihood", False, compute=negative_log_likelihood),
    "kl": Metric("Kullback-Leibler, votes to prediction, nats", False, compute=kullback_leibler, of_votes=True),
    "js": Metric("Jensen-Shannon, bits", False, compute=jensen_shannon, of_votes=True),
    "total_variation": Metric("total variation", False, compute=total_variation, of_votes=True),
}
"""Every metric that is one number, in the order of reports. A line here is all that a new one needs beside its
function: it is computed, logged, recorded, printed and known to checkpoints and sweeps by its direction."""

OVERALL = tuple(name for name, metric in METRICS.items() if not metric.of_votes)
DISTANCES = tuple(name for name, metric in METRICS.items() if metric.of_votes)
"""Distances between votes and prediction, all 0 where both are the same."""

HIGHER_IS_BETTER: dict[str, bool] = {
    **{name: metric.higher_is_better for name, metric in METRICS.items()},
    **dict.fromkeys(PER_CLASS, True),
    "coverage": True,
    "set_size": False,
    "loss": False,
}
"""Direction of each metric; ``recall/Happy`` goes as ``recall`` does. ``loss`` is logged by the task."""


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
    """Compute every metric of `METRICS`, and precision, recall and F1 of each class.

    - ``accuracy``: share of samples whose true class is the most probable.
    - ``balanced_accuracy``: mean recall of the classes that have samples, as scikit-learn's.
    - ``macro_f1``: mean F1 of the classes that have samples or predictions; scikit-learn's ``f1_score`` with its
      default labels. F1 is 2 TP / (2 TP + FP + FN): 0, and not undefined, for a class that is never found.

    Distributions count as their most probable class in all but ``nll`` and the distances of votes.

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
            "in training; train it again with a lower learning rate or with gradient_clip_val 1"
        )
    confusion = np.zeros((len(class_names),) * 2, dtype=np.int64)
    np.add.at(confusion, (table.labels, table.predicted), 1)
    values, undefined = count_scores(confusion, class_names)
    votes = table.targets is not None and table.targets.ndim == 2
    for name, metric in METRICS.items():
        if metric.compute is not None and (votes or not metric.of_votes):
            values[name] = metric.compute(table)
    # All functions are of samples: what one of them cannot tell from these is not a number.
    undefined |= {name: "samples of one class only" for name, value in values.items() if math.isnan(value)}
    names = [name for name in (*metric_names(class_names), *DISTANCES) if name in values.keys() - undefined.keys()]
    ordered = {name: values[name] for name in names}
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
    values: dict[str, float] = {"accuracy": float(hits.sum() / support.sum())}
    undefined: dict[str, str] = {}
    per_class = {
        "precision": (hits, predictions, "never predicted"),
        "recall": (hits, support, "no sample"),
        "f1": (2 * hits, support + predictions, "no sample and never predicted"),
    }
    for metric, (numerators, denominators, reason) in per_class.items():
        for name, numerator, denominator in zip(class_names, numerators, denominators, strict=True):
            if denominator:
                values[f"{metric}/{name}"] = float(numerator / denominator)
            else:
                undefined[f"{metric}/{name}"] = reason
    for name, prefix in (("balanced_accuracy", "recall/"), ("macro_f1", "f1/")):
        values[name] = float(np.mean([value for key, value in values.items() if key.startswith(prefix)]))
    return values, undefined


def check_resamples(resamples: int) -> None:
    """Refuse, with a `FaceExprError`, a number of bootstrap resamples that is not 2 to `MOST_RESAMPLES`."""
    require(2 <= resamples <= MOST_RESAMPLES, "resamples", resamples, f"2 to {MOST_RESAMPLES:,}")


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
    # A batch bounds the memory: all resamples at once would take 8 * N * resamples bytes.
    batch = max(1, min(resamples, 2_000_000 // count))
    found = bootstrap(
        (correct.astype(np.float64),), np.mean, n_resamples=resamples, batch=batch, confidence_level=confidence,
        method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)
