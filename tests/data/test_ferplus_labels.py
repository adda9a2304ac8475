"""The rule from FER+'s votes to labels."""

from pathlib import Path

import numpy as np
import pytest

from faceexpr.data.ferplus import COLUMNS, majority_labels, read_votes, soft_labels
from faceexpr.utils.labels import FERPLUS_NAMES

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "fer2013"


def counts(**votes):
    return np.array([[votes.get(NAMES.get(column, column), 0) for column in COLUMNS]])


NAMES = {
    "Angry": "anger",
    "Disgust": "disgust",
    "Fear": "fear",
    "Happy": "happiness",
    "Sad": "sadness",
    "Surprise": "surprise",
    "Neutral": "neutral",
    "Contempt": "contempt",
}


@pytest.mark.parametrize(
    ("votes", "classes", "majority", "soft"),
    [
        # Exactly half is no majority; single votes count for nothing, neither as an emotion nor in the sum.
        ({"fear": 5, "surprise": 3, "neutral": 2}, 7, "no majority", {"Fear": 0.5, "Surprise": 0.3, "Neutral": 0.2}),
        ({"fear": 4, "surprise": 3, "neutral": 1, "anger": 1, "NF": 1}, 7, "Fear", {"Fear": 4 / 7, "Surprise": 3 / 7}),
        # Contempt below the best emotion: with 7 classes left out of the fractions, never moved to another class.
        ({"neutral": 6, "contempt": 4}, 7, "Neutral", {"Neutral": 1.0}),
        ({"neutral": 6, "contempt": 4}, 8, "Neutral", {"Neutral": 0.6, "Contempt": 0.4}),
        ({"neutral": 4, "contempt": 4, "sadness": 2}, 7, "no majority", "contempt"),
        ({"neutral": 4, "unknown": 4, "sadness": 2}, 8, "no majority", "unknown"),
        ({"neutral": 4, "unknown": 3, "sadness": 3}, 8, "no majority", {"Neutral": 4 / 7, "Sad": 3 / 7}),
        ({"NF": 10}, 8, "not a face", "not a face"),
        ({"unknown": 5, "NF": 5}, 8, "no majority", "not a face"),
        ({"contempt": 9, "unknown": 1}, 8, "Contempt", {"Contempt": 1.0}),
        ({"contempt": 9, "unknown": 1}, 7, "contempt", "contempt"),
        ({}, 8, "no two votes agree", "no two votes agree"),
    ],
)
def test_a07_rule(votes, classes, majority, soft):
    hard, fractions = majority_labels(counts(**votes), classes), soft_labels(counts(**votes), classes)
    found = next(iter(hard.counts()), FERPLUS_NAMES[int(hard.targets[0])])
    assert found == majority
    if isinstance(soft, str):
        assert fractions.counts() == {soft: 1}
        assert fractions.targets.sum() == 0
    else:
        expected = [soft.get(name, 0) for name in FERPLUS_NAMES[:classes]]
        np.testing.assert_allclose(fractions.targets[0], expected, rtol=1e-6)


def test_a07_all_possible_votes_give_finite_distributions():
    votes = np.random.default_rng(0).multinomial(10, np.ones(10) / 10, size=20000)
    for classes in (7, 8):
        labels = soft_labels(votes, classes)
        assert np.isfinite(labels.targets).all()
        np.testing.assert_allclose(labels.targets[labels.kept].sum(1), 1, rtol=1e-6)
        assert (labels.targets[~labels.kept] == 0).all()
        assert sum(labels.counts().values()) == (~labels.kept).sum() > 0
        hard = majority_labels(votes, classes)
        assert (labels.kept[hard.kept]).all()
        np.testing.assert_array_equal(labels.targets[hard.kept].argmax(1), hard.targets[hard.kept])


def test_the_highest_share_is_the_majority_label():
    rng = np.random.default_rng(0)
    counts = np.stack([rng.multinomial(10, shares) for shares in rng.dirichlet(np.full(10, 0.3), 5000)])
    for classes in (7, 8):
        majority, soft = majority_labels(counts, classes), soft_labels(counts, classes)
        assert 1000 < majority.kept.sum() < 4500
        assert soft.kept[majority.kept].all()
        np.testing.assert_array_equal(soft.targets.argmax(1)[majority.kept], majority.targets[majority.kept])


@pytest.mark.skipif(not REAL.exists(), reason="FER+ is not here")
def test_real_votes_give_the_counts_of_the_reference_code():
    votes = read_votes(str(REAL))
    kept = {classes: majority_labels(votes.counts, classes).kept for classes in (7, 8)}
    assert [int((kept[8] & (votes.usages == code)).sum()) for code in range(3)] == [25060, 3199, 3153]
    assert [int((kept[7] & (votes.usages == code)).sum()) for code in range(3)] == [24941, 3186, 3137]
    test = majority_labels(votes.counts, 8).targets[kept[8] & (votes.usages == 2)]
    assert dict(zip(FERPLUS_NAMES, np.bincount(test).tolist(), strict=True)) == {
        "Neutral": 1090,
        "Happy": 893,
        "Surprise": 396,
        "Sad": 384,
        "Angry": 273,
        "Fear": 83,
        "Disgust": 18,
        "Contempt": 16,
    }
