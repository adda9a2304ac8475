"""Random numbers of samples: uniform, independent of each other, and the same wherever they are asked for."""

import numpy as np
import pytest
import torch

from faceexpr.data import augment as draws
from faceexpr.data.augment import uniform
from faceexpr.data.ferplus import drawn

N, COLUMNS = 100_000, 12
SPREAD = 1 / np.sqrt(N)  # the standard deviation of a correlation of independent numbers


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    return uniform(torch.arange(N), COLUMNS, (0, 0))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return abs(float(np.corrcoef(a, b)[0, 1]))


def test_numbers_are_uniform(numbers: np.ndarray) -> None:
    assert numbers.dtype == np.float32
    assert numbers.shape == (N, COLUMNS)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T.astype(np.float64):
        assert column.mean() == pytest.approx(0.5, abs=4.5 * SPREAD / np.sqrt(12))
        assert column.var() == pytest.approx(1 / 12, rel=4.5 * SPREAD)
        # Chi-square of 256 bins: 255 degrees of freedom, standard deviation sqrt(2 * 255).
        counts = np.bincount((column * 256).astype(int), minlength=256)
        assert abs(((counts - N / 256) ** 2 / (N / 256)).sum() - 255) < 4.5 * np.sqrt(2 * 255)


def test_neighbouring_numbers_have_nothing_to_do_with_each_other(numbers: np.ndarray) -> None:
    pairs = {f"columns {i}, {j}": (numbers[:, i], numbers[:, j]) for i in range(COLUMNS) for j in range(i)}
    for name, key in {"epoch": (0, 1), "seed": (1, 0), "swapped": (1, 1)}.items():
        other = uniform(torch.arange(N), COLUMNS, key)
        pairs |= {f"{name} {i}": (numbers[:, i], other[:, i]) for i in range(COLUMNS)}
    pairs |= {f"index {i}": (numbers[1:, i], numbers[:-1, i]) for i in range(COLUMNS)}
    pairs |= {f"index and column {i}": (numbers[1:, i - 1], numbers[:-1, i]) for i in range(1, COLUMNS)}
    worst = max(pairs, key=lambda name: correlation(*pairs[name]))
    assert correlation(*pairs[worst]) < 4.5 * SPREAD, worst


def test_seeds_and_epochs_do_not_stand_for_each_other() -> None:
    first = {key: tuple(uniform(torch.arange(4), 3, key).flatten()) for key in np.ndindex(6, 6)}
    assert len(set(first.values())) == 36


def test_a_sample_s_numbers_are_its_own(numbers: np.ndarray) -> None:
    index = torch.tensor([70_000, 3, 99_999, 3])
    np.testing.assert_array_equal(uniform(index, COLUMNS, (0, 0)), numbers[index.numpy()])
    np.testing.assert_array_equal(uniform(index, 5, (0, 0)), numbers[index.numpy(), :5])


def test_numbers_stay_as_they_are_from_version_to_version() -> None:
    # SplitMix64 from the state 0 gives this first (the article's reference code).
    with np.errstate(over="ignore"):
        assert int(draws._mixed(np.array([draws._GOLDEN]))[0]) == 0xE220A8397B1DCDAF
    found = uniform(torch.tensor([-1, 0, 1]), 2, (5, 7))
    expected = [[0.4594556093, 0.1164383292], [0.8813313246, 0.2576639056], [0.4151567221, 0.5511815548]]
    assert found.tolist() == [pytest.approx(row, abs=1e-9) for row in expected]


def test_drawn_takes_each_class_as_often_as_its_share():
    share = torch.tensor([0.0, 0.6, 0.0, 0.3, 0.1])
    labels = drawn(share.expand(20000, 5), uniform(torch.arange(20000), 5, (0,)))
    found = torch.bincount(labels, minlength=5) / 20000
    assert found[share == 0].sum() == 0
    torch.testing.assert_close(found, share, atol=0.012, rtol=0)  # about 3.5 standard deviations
