"""Comparisons of runs against values from textbooks and against SciPy."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn import metrics as reference

from faceexpr.metrics.comparison import check_same, compare, difference_interval, holm, known_leaks, mcnemar
from faceexpr.metrics.predictions import SavedSamples
from faceexpr.utils.errors import FaceExprError

NAMES = ("a", "b", "c")


def samples(labels, predicted, leaked=None, names=NAMES, indices=None):
    return SavedSamples(
        path=Path("predictions_test.csv.gz"),
        class_names=names,
        indices=np.arange(len(labels)) if indices is None else np.array(indices),
        labels=np.array(list(labels)),
        predicted=np.array(list(predicted)),
        leaked=None if leaked is None else np.array(leaked, dtype=bool),
        probabilities=np.zeros((len(labels), len(names))),
    )


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        # Bentur et al. (2009), as in Fagerland, Lydersen and Laake, "The McNemar test for binary matched-pairs data".
        (7, 1, 0.0703125),
        (1, 8, 0.0390625),  # 2 (1 + 9) / 2^9
        (0, 6, 0.03125),
        (5, 5, 1.0),
        (0, 0, 1.0),
        # Agresti, "Categorical Data Analysis", approval of a prime minister; the chi-squared test has 3.1e-5.
        (150, 86, pytest.approx(3.7e-5, rel=0.05)),
    ],
)
def test_mcnemar_is_the_textbooks(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == (p if not isinstance(p, float) else pytest.approx(p, abs=1e-12))
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]


def test_the_paired_interval_is_that_of_resampled_pairs():
    count, only_first, only_second = 2000, 260, 180
    differences = np.repeat([1.0, -1.0, 0.0], [only_first, only_second, count - only_first - only_second])
    drawn = bootstrap(
        (differences,), np.mean, n_resamples=20_000, batch=500, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = difference_interval(only_first, only_second, count, 0.95, 20_000, 0)
    assert (low, high) == pytest.approx((drawn.low, drawn.high), abs=0.0011)
    assert low < (only_first - only_second) / count < high


def test_each_run_and_each_pair():
    rng = np.random.default_rng(3)
    labels, chosen = rng.choice(NAMES, 500), rng.random(500) < 0.7
    guesses = {name: np.where(rng.random(500) < right, labels, rng.choice(NAMES, 500))
               for name, right in (("good", 0.8), ("better", 0.9), ("bad", 0.1))}  # fmt: skip
    found = compare({name: samples(labels, predicted) for name, predicted in guesses.items()}, chosen, 2000, 0)
    right = {name: (predicted == labels)[chosen] for name, predicted in guesses.items()}
    assert [(run.run, run.count) for run in found.runs] == [(name, chosen.sum()) for name in guesses]
    for run in found.runs:
        truth, guess = labels[chosen], guesses[run.run][chosen]
        assert run.accuracy == pytest.approx(right[run.run].mean())
        assert run.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(truth, guess))
        assert run.macro_f1 == pytest.approx(reference.f1_score(truth, guess, average="macro"))
        assert run.interval[0] < run.accuracy < run.interval[1]
    assert [(pair.first, pair.second) for pair in found.pairs] == [*combinations(guesses, 2)]
    for pair in found.pairs:
        first, second = right[pair.first], right[pair.second]
        assert (pair.only_first, pair.only_second) == ((first & ~second).sum(), (second & ~first).sum())
        assert pair.difference == pytest.approx(first.mean() - second.mean())
        assert pair.p == mcnemar(pair.only_first, pair.only_second) <= pair.p_holm <= 3 * pair.p + 1e-15


def test_class_order_does_not_matter():
    first = samples("abca", "abcb")
    second = samples("abca", "abca", names=("c", "a", "b"))
    check_same({"first": first, "second": second})
    found = compare({"first": first, "second": second}, np.ones(4, dtype=bool), 100, 0)
    assert [run.accuracy for run in found.runs] == [0.75, 1.0]
    assert found.runs[0].balanced_accuracy == pytest.approx((0.5 + 1 + 1) / 3)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (samples("abca", "abca", indices=[0, 1, 2, 5]), "one has 4 samples and two has 4, of which 3 have"),
        (samples("abcb", "abcb"), "other labels for 1 of 4 samples: number 3 is a in the one and b in the other"),
        (samples("abca", "abca", names=("a", "b", "c", "d")), "one has the classes a, b, c and two has a, b, c, d"),
    ],
)
def test_runs_of_other_samples_are_refused(other, reason):
    with pytest.raises(FaceExprError, match=reason):
        check_same({"one": samples("abca", "abca"), "two": other})


def test_one_run_that_knows_of_leaks_is_enough():
    knows, ignorant = samples("abc", "abc", [0, 1, 0]), samples("abc", "abc")
    assert known_leaks({"x": ignorant, "y": knows}).tolist() == [False, True, False]
    assert known_leaks({"x": ignorant, "y": ignorant}) is None
