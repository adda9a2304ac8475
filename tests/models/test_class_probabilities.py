"""Votes of the neighbours against scikit-learn's classifier."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from faceexpr.models.neighbours.search import Neighbours, Norm, Weights, class_probabilities, nearest
from faceexpr.utils.errors import FaceExprError

CLASSES = 7
SEVERAL = (1, 3, 5, 8)


@pytest.fixture(scope="module", params=[2, 256], ids=["two values", "bytes"])
def data(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bank with doubled rows, its labels, and queries of which some are rows."""
    random = torch.Generator().manual_seed(request.param)
    rows = torch.randint(0, request.param, (260, 20), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, CLASSES, (200,), generator=random)
    labels[:CLASSES] = torch.arange(CLASSES)
    rows[100:130] = rows[:30]
    return rows[:200], labels, torch.cat([rows[:20], rows[200:]])


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_several_k_from_one_search_are_scikit_learns(data: tuple, p: Norm, weights: Weights) -> None:
    bank, labels, queries = data
    found = nearest(bank, queries, max(SEVERAL) + 1, p)
    compared = 0
    for k in SEVERAL:
        reference = KNeighborsClassifier(k, weights=weights, algorithm="brute", p=p).fit(bank.double(), labels)
        expected = torch.from_numpy(reference.predict_proba(queries.double()))
        # Where a tie crosses K, which of the equally far rows vote is arbitrary in scikit-learn.
        clear = found.distances[:, k - 1] < found.distances[:, k]
        probabilities = class_probabilities(found, labels, CLASSES, k, weights)
        torch.testing.assert_close(probabilities[clear], expected[clear], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(queries), dtype=torch.float64))
        compared += int(clear.sum())
    assert compared > 30


def test_a_distance_of_zero_has_all_the_weight() -> None:
    found = Neighbours(torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 4.0]]).double(), torch.tensor([[2, 0, 1], [0, 1, 2]]))
    probabilities = class_probabilities(found, torch.tensor([0, 1, 2]), 3, 3, "distance")
    assert probabilities.tolist() == [[0.5, 0, 0.5], [1 / 1.75, 0.5 / 1.75, 0.25 / 1.75]]
    assert class_probabilities(found, torch.tensor([0, 1, 2]), 4, 1, "distance").tolist() == [
        [0, 0, 1, 0],
        [1, 0, 0, 0],
    ]


def test_what_is_wrong_in_one_sentence() -> None:
    found = Neighbours(torch.ones(1, 2).double(), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(FaceExprError, match="k is 3; expected 1 to 2, the number of neighbours that were searched for"):
        class_probabilities(found, torch.tensor([0]), 7, 3, "uniform")
    with pytest.raises(FaceExprError, match="label 1 of the bank is 7; expected 0 to 6"):
        class_probabilities(found, torch.tensor([0, 7]), 7, 1, "uniform")
