"""The exact search on the CPU: what is computed for which norm, and how the threads share it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faceexpr.models.neighbours.kernels import refine, scan, scan_bytes

Array = npt.NDArray[Any]

# Half of a second-level cache: queries of this many bytes stay there while the bank passes by.
_QUERY_BYTES = 512 * 1024
# Rows of the bank and queries in one matrix product: large enough for its full speed, small enough for little memory.
_PRODUCT_ROWS = 2048
_PRODUCT_QUERIES = 1024
# From this many features on a sum over bytes could leave 32 bits.
_TOO_LONG = {1: 2**23, 2: 2**15, 3: 2**15}


def search(bank: Tensor, queries: Tensor, k: int, p: int) -> tuple[Tensor, Tensor]:
    """Return distances (float64) and indices (int64), both (Q, K), on the device of the bank.

    ``bank`` and ``queries`` are contiguous and of one type: uint8, float32 or float64. Uses as many threads as torch
    does; the matrix product uses as many as NumPy does.
    """
    rows, wanted = bank.cpu().numpy(), queries.cpu().numpy()
    powers = np.full((len(wanted), k), np.inf)
    indices = np.full((len(wanted), k), -1, np.int64)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        in_cache = _QUERY_BYTES // (wanted.shape[1] * wanted.itemsize)
        if rows.dtype == np.uint8 and rows.shape[1] < _TOO_LONG[p]:
            _shared(partial(scan_bytes, rows, wanted, p, powers, indices), len(wanted), in_cache, pool)
        elif p == 1:  # no cheaper bound rules out enough
            _shared(partial(scan, rows, wanted, powers, indices), len(wanted), in_cache, pool)
        else:
            _screened(rows, wanted, p, powers, indices, pool)
    distances = {1: np.positive, 2: np.sqrt, 3: np.cbrt}[p](powers)
    return torch.from_numpy(distances).to(bank.device), torch.from_numpy(indices).to(bank.device)


def _screened(bank: Array, queries: Array, p: int, powers: Array, indices: Array, pool: ThreadPoolExecutor) -> None:
    """Rule rows out by a matrix product whose error is known, and compute the others exactly."""
    kind = np.float64 if bank.dtype == np.float64 else np.float32
    length = bank.shape[1]
    # What is subtracted from both sides changes no distance; around the mean the products are smallest, and with
    # them their error. It is at most (D + 8) roundings of half an epsilon, relative to the squares (Higham, "Accuracy
    # and stability of numerical algorithms", 3.1), and, where numbers are so small that they vanish, D of those.
    relative = (length + 16) * float(np.finfo(kind).eps)
    absolute = 4 * length * float(np.finfo(kind).tiny)
    centre = bank.mean(axis=0, dtype=np.float64).astype(kind)
    for start in range(0, len(bank), _PRODUCT_ROWS):
        rows = bank[start : start + _PRODUCT_ROWS]
        centred, squares = _centred(rows, centre)
        for first in range(0, len(queries), _PRODUCT_QUERIES):
            part = slice(first, first + _PRODUCT_QUERIES)
            wanted, best, places = queries[part], powers[part], indices[part]
            wanted_centred, wanted_squares = _centred(wanted, centre)
            # NumPy's, because torch's may be told to round to fewer bits (float32_matmul_precision).
            products = wanted_centred @ centred.T
            work = partial(
                refine, rows, wanted, products, squares, wanted_squares, relative, absolute, p, start, best, places
            )
            _shared(work, len(wanted), 64, pool)


def _centred(features: Array, centre: Array) -> tuple[Array, Array]:
    """Return the features less the centre, in the centre's type, and their sums of squares in float64."""
    centred = features.astype(centre.dtype)
    centred -= centre
    return centred, np.einsum("nd,nd->n", centred, centred, dtype=np.float64)


def _shared(work: Callable[[int, int], None], total: int, largest: int, pool: ThreadPoolExecutor) -> None:
    """Do the work on the queries [first, last) in blocks of at most ``largest``, such that every thread has some."""
    size = max(4, min(largest, -(-total // torch.get_num_threads())) // 4 * 4)  # whole tiles of queries
    starts = range(0, total, size)
    list(pool.map(work, starts, (min(start + size, total) for start in starts)))
