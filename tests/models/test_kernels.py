"""What the compiled kernels must be for the search to be fast and for its sums not to overflow."""

from __future__ import annotations

import platform

import numba
import numpy as np
import pytest
import torch

from faceexpr.models.neighbours import kernels, processors
from faceexpr.models.neighbours.search import Norm, nearest


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the names of another processor's instructions"
)
def test_sums_over_bytes_use_the_processors_own_instructions() -> None:
    compiled = numba.njit(kernels.scan_bytes.py_func)  # what comes from the cache on disk cannot be inspected
    bank = np.zeros((8, 128), np.uint8)
    compiled(bank, bank, 1, np.full((8, 1), np.inf), np.full((8, 1), -1), 0, 8)
    assembly = "".join(compiled.inspect_asm().values())
    assert assembly.count("psadbw") >= kernels._QUERIES * kernels._ROWS
    squares = assembly.count("vpdpwssd") + assembly.count("pmaddwd")
    assert squares >= kernels._QUERIES * kernels._ROWS


@pytest.mark.parametrize(
    ("p", "length", "distance"),
    [(2, 2**15 - 1, 255 * (2**15 - 1) ** 0.5), (2, 2**15 + 100, 255 * (2**15 + 100) ** 0.5)],
)
def test_black_is_as_far_from_white_as_it_is(p: Norm, length: int, distance: float) -> None:
    """The largest sums of squares, on both sides of the length from which they need more than 32 bits."""
    bank = torch.zeros(2, length, dtype=torch.uint8)
    found = nearest(bank, bank + 255, 2, p)
    assert found.indices.tolist() == [[0, 1], [0, 1]]
    np.testing.assert_allclose(found.distances, distance, rtol=1e-13)


def test_the_longest_rows_of_bytes_keep_their_sums_in_range() -> None:
    for p, limit in processors._TOO_LONG.items():
        assert (limit - 1) * 255 ** min(p, 2) < 2**31


@pytest.mark.parametrize("p", [1, 2, 3])
def test_every_distance_is_computed_when_the_bank_gets_nearer_and_nearer(p: Norm) -> None:
    """Each row beats all those before it, so that no bound rules anything out."""
    bank = torch.arange(200, 0, -1, dtype=torch.uint8).unsqueeze(1).expand(-1, 70).contiguous()
    found = nearest(bank, torch.zeros(5, 70, dtype=torch.uint8), 3, p)
    assert found.indices.tolist() == [[199, 198, 197]] * 5
    expected = torch.arange(1, 4).double() * 70 ** (1 / p)
    torch.testing.assert_close(found.distances, expected.expand(5, 3), rtol=1e-13, atol=0)
