"""Whether one classifier is better than another on the same samples, or only luckier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from faceexpr.metrics.classification import accuracy_interval, count_scores
from faceexpr.metrics.predictions import SavedSamples
from faceexpr.utils.errors import FaceExprError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class RunScores:
    """What one run reaches on ``count`` samples; the interval of its accuracy is the 95% bootstrap."""

    run: str
    count: int
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class PairTest:
    """One run against another.

    Attributes:
        difference: accuracy of the first less that of the second; ``interval`` is its paired bootstrap one, 95%.
        only_first: samples that only the first has right; ``only_second`` that only the second has.
        p: of McNemar's exact test, two-sided; ``p_holm`` is corrected by Holm for the number of pairs.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    only_first: int
    only_second: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Runs on the same samples, in the order given, and each with each."""

    runs: list[RunScores]
    pairs: list[PairTest]


def compare(runs: Mapping[str, SavedSamples], chosen: NDArray[np.bool_], resamples: int, seed: int) -> Comparison:
    """Compare each of two or more runs of the same samples (see `check_same`) with each other.

    It is done on the ``chosen`` samples, bool (N,), one or more; the seed is that of the bootstrap.
    """
    count = int(chosen.sum())
    right, scores = {}, []
    for name, run in runs.items():
        right[name] = (run.predicted == run.labels)[chosen]
        truth, predicted = (
            (names[chosen, None] == run.class_names).astype(np.int64) for names in (run.labels, run.predicted)
        )
        confusion = truth.T @ predicted
        values, _ = count_scores(confusion, run.class_names)
        interval = accuracy_interval(right[name], CONFIDENCE, resamples, seed)
        balanced, f1 = values["balanced_accuracy"], values["macro_f1"]
        scores.append(RunScores(name, count, values["accuracy"], interval, balanced, f1))
    tested = []
    for first, second in combinations(right, 2):
        ours, theirs = int((right[first] & ~right[second]).sum()), int((right[second] & ~right[first]).sum())
        interval, p = difference_interval(ours, theirs, count, CONFIDENCE, resamples, seed), mcnemar(ours, theirs)
        tested.append(PairTest(first, second, (ours - theirs) / count, interval, ours, theirs, p, p_holm=p))
    corrected = holm([pair.p for pair in tested])
    return Comparison(scores, [replace(pair, p_holm=p) for pair, p in zip(tested, corrected, strict=True)])


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test (McNemar, 1947; the binomial form of Edwards, 1948).

    If neither classifier were better, each sample that only one of them has right would be a fair coin's.
    """
    from scipy.stats import binomtest  # half a second to import

    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's step-down procedure (1979), in the order given.

    With these, the chance of any false finding among all of them is at most the level that is asked for.
    """
    order = np.argsort(values, kind="stable")
    steps = np.minimum(1, np.asarray(values)[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate(steps)
    return [float(value) for value in corrected]


def difference_interval(
    only_first: int, only_second: int, count: int, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the difference of two accuracies on the same samples.

    A sample adds 1, 0 or -1 to the difference, so that drawing samples with replacement is drawing from a multinomial
    distribution over these three: the same numbers at no cost.

    Of ``count`` samples, ``only_first`` and ``only_second`` are those that only one of both has right. The interval
    covers the true difference with the probability ``confidence``.
    """
    shares = np.array([only_first, only_second, count - only_first - only_second]) / count
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    differences = (drawn[:, 0] - drawn[:, 1]) / count
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def check_same(runs: Mapping[str, SavedSamples]) -> None:
    """Refuse runs that were not measured on the same samples.

    Raises:
        FaceExprError: other classes, other samples, or other labels; it says which.
    """
    (name, first), *others = runs.items()
    for other, run in others:
        if set(run.class_names) != set(first.class_names):
            raise FaceExprError(
                f"{name} has the classes {', '.join(first.class_names)} and {other} has {', '.join(run.class_names)}; "
                "expected runs with the same classes"
            )
        if not np.array_equal(run.indices, first.indices):
            shared = len(np.intersect1d(first.indices, run.indices))
            raise FaceExprError(
                f"{name} has {len(first.indices):,} samples and {other} has {len(run.indices):,}, of which {shared:,} "
                "have the same place in their split; expected runs on the same samples"
            )
        differing = np.flatnonzero(run.labels != first.labels)
        if len(differing):
            row = differing[0]
            raise FaceExprError(
                f"{name} and {other} have other labels for {len(differing):,} of {len(first.labels):,} samples: number "
                f"{first.indices[row]} is {first.labels[row]} in the one and {run.labels[row]} in the other; expected "
                "runs on the same data"
            )


def known_leaks(runs: Mapping[str, SavedSamples]) -> NDArray[np.bool_] | None:
    """Return which samples any of the runs, all of the same samples, knows to be in the training data too; or None."""
    known = [run.leaked for run in runs.values() if run.leaked is not None]
    return np.logical_or.reduce(known) if known else None
