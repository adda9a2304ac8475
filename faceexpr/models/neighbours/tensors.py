"""The exact search by torch alone: for CUDA devices, where Numba's kernels for the CPU do not run."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 8192
_QUERIES = 1024
_PAIR_BYTES = 256 * 1024 * 1024
"""Memory for the differences of pairs that are computed together."""


def search(bank: Tensor, queries: Tensor, k: int, p: int) -> tuple[Tensor, Tensor]:
    """Return distances (float64) and indices (int64), both (Q, K), on the device of the bank.

    All arithmetic is float64: exact for integers, and not subject to the lower precisions that torch may be told to
    take for float32 (float32_matmul_precision).
    """
    found = [_block(bank, queries[start : start + _QUERIES], k, p) for start in range(0, len(queries), _QUERIES)]
    if not found:
        return bank.new_empty(0, k, dtype=torch.float64), bank.new_empty(0, k, dtype=torch.int64)
    powers = torch.cat([powers for powers, _ in found])
    roots = powers if p == 1 else powers.sqrt() if p == 2 else powers.pow(1 / 3)
    return roots, torch.cat([indices for _, indices in found])


def _block(bank: Tensor, queries: Tensor, k: int, p: int) -> tuple[Tensor, Tensor]:
    """Go over the bank in parts and keep the K best; powers of the distances and indices."""
    powers = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=bank.device)
    indices = torch.full((len(queries), k), len(bank), device=bank.device)
    centre = bank.double().mean(dim=0) if p > 1 else bank.new_zeros(bank.shape[1], dtype=torch.float64)
    wanted = queries.double() - centre
    for start in range(0, len(bank), _ROWS):
        rows = bank[start : start + _ROWS].double() - centre
        if p == 1:
            distances = torch.cdist(wanted, rows, p=1)
            limit = distances.topk(min(k, len(rows)), dim=1, largest=False).values[:, -1:]
            query, row = (distances <= torch.minimum(limit, powers[:, -1:])).nonzero(as_tuple=True)
            candidates = distances[query, row]
        else:
            query, row = _candidates(rows, wanted, powers, bank[start : start + _ROWS], queries, k, p)
            candidates = _powers(bank[start : start + _ROWS], queries, row, query, p)
        powers, indices = _best(query, row + start, candidates, powers, indices)
    return powers, indices


def _candidates(
    rows: Tensor, wanted: Tensor, powers: Tensor, bank: Tensor, queries: Tensor, k: int, p: int
) -> tuple[Tensor, Tensor]:
    """Return the pairs (query, row) that a matrix product cannot rule out from being among the K nearest.

    ``rows`` and ``wanted`` are the centred ``bank`` and ``queries``; ``powers`` are those of the K best so far.
    """
    length = rows.shape[1]
    scale = rows.square().sum(dim=1) + wanted.square().sum(dim=1, keepdim=True)
    # As in `processors`: the error of a sum of D products, in whatever order, and of the centring.
    error = (length + 16) * torch.finfo(torch.float64).eps * scale + 4 * length * torch.finfo(torch.float64).tiny
    squares = torch.addmm(scale, wanted, rows.T, alpha=-2)
    nearest = squares.topk(min(k, len(rows)), dim=1, largest=False).indices
    query = torch.arange(len(wanted), device=rows.device).repeat_interleave(nearest.shape[1])
    limit = powers[:, -1:]
    if len(rows) >= k:  # fewer say nothing about the K-th
        farthest = _powers(bank, queries, nearest.flatten(), query, p).view_as(nearest).amax(dim=1, keepdim=True)
        limit = torch.minimum(limit, farthest)
    # With p = 3 by Hölder's inequality: the sum of cubes is at least (sum of squares)^(3/2) / sqrt(D).
    reach = limit if p == 2 else (limit * length**0.5).pow(2 / 3)
    candidates = (squares - error <= reach * (1 + 1e-12)).nonzero(as_tuple=True)
    return candidates[0], candidates[1]


def _powers(bank: Tensor, queries: Tensor, row: Tensor, query: Tensor, p: int) -> Tensor:
    """Return the sum of the p-th powers of the differences for each pair of a query and a row, float64."""
    at_once = max(1, _PAIR_BYTES // (8 * bank.shape[1]))
    parts = [bank.new_empty(0, dtype=torch.float64)]
    for rows, wanted in zip(row.split(at_once), query.split(at_once), strict=True):
        differences = (bank[rows].double() - queries[wanted].double()).abs_()
        powers = differences.square()
        if p == 3:
            powers.mul_(differences)
        parts.append(_tree_sum(powers))
    return torch.cat(parts)


def _tree_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension, equal rows to equal sums: torch's own order depends on how many rows there are."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        middle = values[:, half : values.shape[1] - half]  # the odd one out, if there is one
        values = torch.cat([values[:, :half] + values[:, values.shape[1] - half :], middle], dim=1)
    return values[:, 0]


def _best(query: Tensor, row: Tensor, power: Tensor, powers: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the K best of the pairs and of those found before, ascending by power and index."""
    count, k = powers.shape
    before = torch.arange(count, device=powers.device).repeat_interleave(k)
    query, row, power = (
        torch.cat([before, query]),
        torch.cat([indices.flatten(), row]),
        torch.cat([powers.flatten(), power]),
    )
    order = row.argsort(stable=True)
    order = order[power[order].argsort(stable=True)]
    order = order[query[order].argsort(stable=True)]
    # Each query's pairs follow one another now, with K of them or more: take the first K.
    counts = query.bincount(minlength=count)
    first = counts.cumsum(0) - counts
    chosen = order[first.unsqueeze(1) + torch.arange(k, device=powers.device)]
    return power[chosen], row[chosen]
