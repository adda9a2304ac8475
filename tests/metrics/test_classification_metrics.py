"""Metrics against scikit-learn, and the gathering of samples in one process and in two."""

import numpy as np
import pytest
import torch
from evaluation_runs import make_table
from gathering import compute_together
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn import metrics as reference

from faceexpr.metrics.classification import (
    DISTANCES,
    HIGHER_IS_BETTER,
    METRICS,
    accuracy_interval,
    higher_is_better,
    metric_names,
    score,
)
from faceexpr.metrics.collecting import SampleCollector
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


def test_every_metric_equals_scikit_learn():
    table = make_table()
    truth, guess = table.labels, table.predicted
    values = score(table, FER_NAMES).values
    assert list(values) == metric_names(FER_NAMES)
    assert values["accuracy"] == reference.accuracy_score(truth, guess)
    assert values["top2_accuracy"] == pytest.approx(
        reference.top_k_accuracy_score(truth, table.probabilities, k=2), abs=1e-6
    )
    assert values["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, guess), abs=1e-12)
    assert values["macro_f1"] == pytest.approx(reference.f1_score(truth, guess, average="macro"), abs=1e-12)
    assert values["nll"] == pytest.approx(reference.log_loss(truth, table.probabilities), abs=1e-5)
    assert values["auroc"] == pytest.approx(
        reference.roc_auc_score(truth, table.probabilities.astype(np.float64), multi_class="ovr"), abs=1e-5
    )
    precision, recall, f1, _ = reference.precision_recall_fscore_support(truth, guess)
    for index, name in enumerate(FER_NAMES):
        found = (values[f"precision/{name}"], values[f"recall/{name}"], values[f"f1/{name}"])
        assert found == pytest.approx((precision[index], recall[index], f1[index]), abs=1e-12)
    np.testing.assert_array_equal(score(table, FER_NAMES).confusion, reference.confusion_matrix(truth, guess))


def test_a_class_without_samples_is_left_out_as_in_scikit_learn():
    table = make_table(labels=np.random.default_rng(1).choice([0, 2, 3, 4, 5, 6], 500))
    scores, (truth, guess) = score(table, FER_NAMES), (table.labels, table.predicted)
    assert (guess == 1).any()
    assert scores.undefined == {"recall/Disgust": "no sample"}
    assert "recall/Disgust" not in scores.values
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        assert scores.values["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, guess))
    # Disgust has predictions, so it counts with an F1 of 0, as scikit-learn's default labels make it count.
    assert scores.values["f1/Disgust"] == 0
    assert scores.values["macro_f1"] == pytest.approx(reference.f1_score(truth, guess, average="macro"), abs=1e-12)
    areas = [reference.roc_auc_score(truth == index, table.probabilities[:, index]) for index in np.unique(truth)]
    assert scores.values["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_one_class_only_has_no_auroc_and_no_invented_numbers():
    probabilities = np.array([[0.2, 0.8, 0.0], [0.6, 0.4, 0.0]], dtype=np.float32)
    scores = score(SampleTable(np.arange(2), probabilities, np.array([1, 1])), ("a", "b", "c"))
    assert set(scores.undefined) == {"auroc", "recall/a", "recall/c", "precision/c", "f1/c"}
    assert not set(scores.undefined) & set(scores.values)
    assert scores.values["accuracy"] == scores.values["balanced_accuracy"] == 0.5
    assert scores.values["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_a_probability_of_zero_or_just_above_one_gives_finite_numbers():
    table = SampleTable(np.arange(3), rows([1.0000002, 0], [0, 1], [0.5, 0.5]), np.array([0, 0, 1]))
    values = score(table, ("a", "b")).values
    eps = np.finfo(np.float32).eps
    assert values["nll"] == pytest.approx((-np.log(1 - eps) - np.log(eps) - np.log(0.5)) / 3)
    assert values["ece"] == pytest.approx((abs(1 / 2 - 1) * 2 + 0.5) / 3, abs=1e-5)


def test_probabilities_that_are_not_finite_are_refused():
    table = make_table(4)
    table.probabilities[2, 3] = np.nan
    with pytest.raises(FaceExprError, match="1 of 4 samples are not finite"):
        score(table, FER_NAMES)


def test_as_many_class_names_as_probabilities():
    collector = SampleCollector(num_classes=7)
    with pytest.raises(FaceExprError, match="gives 8 probabilities a face but has 7 class names"):
        collector.update(torch.arange(2), torch.full((2, 8), 0.125), torch.zeros(2, dtype=torch.int64))


def test_every_metric_has_a_direction():
    for name in metric_names(FER_NAMES):
        assert name.split("/")[0] in HIGHER_IS_BETTER
    assert [higher_is_better(name) for name in ("val/recall/Happy", "accuracy", "somebodys")] == [True] * 3
    assert not any(map(higher_is_better, ("val/loss", "test/ece", *DISTANCES)))


def test_accuracy_interval_is_reproducible_and_as_wide_as_theory():
    correct = np.arange(3589) < 2400
    low, high = accuracy_interval(correct)
    accuracy = correct.mean()
    assert (low, high) == accuracy_interval(correct)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(accuracy * (1 - accuracy) / 3589), rel=0.08)
    # A flawless sample, and one without any right, has the exact binomial interval, which is not without width.
    assert accuracy_interval(np.ones(5, dtype=bool)) == pytest.approx((0.025 ** (1 / 5), 1))
    assert accuracy_interval(np.zeros(5, dtype=bool)) == pytest.approx((0, 1 - 0.025 ** (1 / 5)))


def distances(probabilities, targets):
    table = SampleTable(np.arange(len(targets)), probabilities, targets)
    return {name: METRICS[name].compute(table) for name in DISTANCES}


def rows(*values):
    return np.array(values, dtype=np.float32)


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    predicted, votes = rng.dirichlet(np.ones(7), 200), rng.multinomial(10, np.full(7, 1 / 7), 200) / 10
    found = distances(predicted.astype(np.float32), votes.astype(np.float32))
    assert found["kl"] == pytest.approx(entropy(votes, predicted, axis=1).mean(), abs=1e-5)
    assert found["js"] == pytest.approx((jensenshannon(votes, predicted, base=2, axis=1) ** 2).mean(), abs=1e-6)
    assert found["total_variation"] == pytest.approx(np.abs(votes - predicted).sum(1).mean() / 2, abs=1e-6)
    # Nothing in common: both bounds are reached, and KL is finite, as nll is.
    found = distances(rows([0, 1]), rows([1, 0]))
    assert (found["js"], found["total_variation"]) == pytest.approx((1, 1))
    assert found["kl"] == pytest.approx(-np.log(np.finfo(np.float32).eps))
    same = np.concatenate([np.eye(7), np.full((3, 7), 1 / 7), np.eye(7) * 0.5 + 0.5 / 7]).astype(np.float32)
    assert all(0 <= value < 1e-6 for value in distances(same, same).values())


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "share",
    [
        ([[4, 2], [0]], [[1, 3], [-1]]),  # uneven
        ([[0, 1, 2], [3, 4]], [[-1, -1, -1], [-1, -1]]),  # a process with padding only
        ([[0, 1, 2], [3, 4]], [[3, 4], [0, -1]]),  # samples twice
    ],
)
def test_two_processes_measure_each_sample_once(share, soft):  # case E11
    identity, collectors = torch.eye(3), [SampleCollector(num_classes=3), SampleCollector(num_classes=3)]
    for collector, batches in zip(collectors, share, strict=True):
        for index in map(torch.tensor, batches):
            labels = index.clamp(min=0) % 3
            guesses = (labels + (index == 3).long()) % 3
            collector.update(index, identity[guesses] * 0.8 + 0.2 / 3, identity[labels] if soft else labels)
    for table in compute_together(collectors):
        assert table.indices.tolist() == [0, 1, 2, 3, 4]
        assert table.labels.tolist() == [0, 1, 2, 0, 1]
        assert score(table, ("a", "b", "c")).values["accuracy"] == 0.8
