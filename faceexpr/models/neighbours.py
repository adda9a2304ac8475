"""Find the exact nearest neighbours of feature vectors, and turn them into class probabilities.

No approximation, no sampling, no index to build. On the CPU, Numba compiles the search for the processor at hand; on a
CUDA device torch computes all the distances.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import write_file

Array = npt.NDArray[Any]
Norm = Literal[1, 2, 3]
Backend = Literal["auto", "fast", "sklearn"]
Weights = Literal["uniform", "distance"]
_Function = TypeVar("_Function", bound=Callable[..., Any])

LARGEST = 1e100
"""Magnitude of a feature above which a sum of cubes could leave the range of float64."""

FOUND = 16
"""How many neighbours a `NeighbourStore` looks for at least, so that a run with a larger K finds them there."""

# Features that the quick bound takes together, rows of the bank that stay in the first-level cache, queries a thread
# takes at once, and features between two looks at whether a row is already too far.
_BLOCK, _ROWS, _QUERIES, _CHUNK = 8, 28, 64, 256
# Rows and queries whose distances a CUDA device computes together.
_CUDA_ROWS, _CUDA_QUERIES = 8192, 1024


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The K nearest rows of a bank for each query, ascending by distance and, among equal distances, by index.

    Attributes:
        distances: float64, shape (Q, K).
        indices: int64, shape (Q, K), rows of the bank.
    """

    distances: Tensor
    indices: Tensor


def with_float64(features: Tensor) -> Tensor:
    """Return features where float64 can be computed: on CUDA if they are there, else on the CPU; MPS has none."""
    return features if features.device.type in ("cpu", "cuda") else features.cpu()


def nearest(bank: Tensor, queries: Tensor, k: int, p: Norm, backend: Backend = "auto") -> Neighbours:
    """Return each query's K nearest rows of the bank; exact, whatever the backend.

    Distances are sums in float64, which holds every sum of integers that occurs here. Where several rows are equally
    far, the lowest index wins; scikit-learn's choice among those that tie for the last place is arbitrary. A search
    that is given many queries at once is faster than one for each of its parts: every call goes over the whole bank.

    Args:
        bank: shape (N, D), uint8, other integers, or floating point; on a CUDA device the search runs there, and from
            any other the neighbours come back on the CPU.
        queries: shape (Q, D), of any of these types, on the same device.
        k: neighbours of each query, 1 to N.
        p: the norm: the sum of absolute differences, the Euclidean distance, or the cube root of the sum of cubes.
        backend: ``sklearn`` for scikit-learn's brute force in float64, on the CPU; ``fast``, and ``auto``, for ours.

    Raises:
        FaceExprError: an empty bank, more neighbours than it has rows, rows of different lengths, a feature that is
            not finite, or an unknown norm.
    """
    require(p in (1, 2, 3), "p", p, "1, 2 or 3")
    bank, queries = with_float64(bank.detach()), with_float64(queries.detach())
    scale = _check(bank, queries)
    require(1 <= k <= len(bank), "k", k, f"1 to {len(bank)}, the number of rows in the bank")
    if backend == "sklearn":
        distances, indices = _search_sklearn(bank, queries, k, p)
    elif bank.device.type == "cuda":
        distances, indices = search_cuda(bank, queries, k, p)
    else:
        distances, indices = _search_cpu(bank, queries, k, p, scale)
    return Neighbours(distances.to(bank.device), indices.to(bank.device))


def class_probabilities(neighbours: Neighbours, labels: Tensor, num_classes: int, k: int, weights: Weights) -> Tensor:
    """Return the class probabilities that scikit-learn's ``KNeighborsClassifier.predict_proba`` defines.

    One search with the largest K serves every smaller one.

    Args:
        neighbours: what `nearest` found, with ``k`` neighbours or more.
        labels: classes of the bank's rows, int64, shape (N,).
        num_classes: C.
        k: how many of the neighbours vote.
        weights: ``uniform`` for one vote each; ``distance`` for votes of 1 / distance, where neighbours at distance
            zero, if there are any, have all the weight.

    Returns:
        float64, shape (Q, C), each row with the sum 1, on the neighbours' device.

    Raises:
        FaceExprError: ``k`` is more than were found, or a label is not a class.
    """
    found = neighbours.indices.shape[1]
    require(1 <= k <= found, "k", k, f"1 to {found}, the number of neighbours that were searched for")
    labels = labels.to(neighbours.indices.device)
    strangers = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(strangers):
        row = int(strangers[0, 0])
        raise FaceExprError(f"label {row} of the bank is {int(labels[row])}; expected 0 to {num_classes - 1}")
    votes = torch.ones_like(neighbours.distances[:, :k])
    if weights == "distance":
        votes = 1 / neighbours.distances[:, :k]
        unbounded = votes.isinf()
        votes = torch.where(unbounded.any(dim=1, keepdim=True), unbounded.to(votes.dtype), votes)
    sums = votes.new_zeros(len(votes), num_classes)
    sums.scatter_add_(1, labels[neighbours.indices[:, :k]], votes)
    return sums / votes.sum(dim=1, keepdim=True)


_FIELDS = ("distances", "indices")


class NeighbourStore:
    """Keep the neighbours that were found in a folder, by bank, queries and norm, so that several K need one search.

    Args:
        folder: made when it is needed; may be removed at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bank: tuple[int, str] | None = None

    def nearest(self, bank: Tensor, queries: Tensor, k: int, p: Norm, backend: Backend = "auto") -> Neighbours:
        """Return what `nearest` returns, or more neighbours than k, from the folder where they are known."""
        # The bank stays the same for a whole pass, and reading it takes longer than a batch of queries.
        if self._bank is None or self._bank[0] != id(bank):
            self._bank = (id(bank), _digest(bank))
        key = hashlib.sha256(f"{self._bank[1]} {_digest(queries)} {p} {backend}".encode()).hexdigest()
        path = self.folder / f"{key}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as known:
                place = with_float64(bank).device
                distances, indices = (torch.from_numpy(known[name]).to(place) for name in _FIELDS)
            if indices.shape[1] >= k:
                return Neighbours(distances, indices)
        found = nearest(bank, queries, max(k, min(FOUND, len(bank))), p, backend)
        archive = io.BytesIO()
        np.savez(archive, **{name: getattr(found, name).cpu().numpy() for name in _FIELDS})
        write_file(path, archive.getvalue())
        return found


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(values.tobytes() + f"{values.dtype} {values.shape}".encode()).hexdigest()


def _check(bank: Tensor, queries: Tensor) -> float:
    """Refuse what cannot be searched, and return the largest magnitude of a feature."""
    for name, features in (("bank", bank), ("queries", queries)):
        if features.ndim != 2:
            raise FaceExprError(f"the {name} has the shape {tuple(features.shape)}; expected (rows, features)")
    if len(bank) == 0:
        raise FaceExprError("the bank has no rows; expected one or more to search in")
    if bank.shape[1] != queries.shape[1] or bank.shape[1] == 0:
        raise FaceExprError(
            f"the bank has {bank.shape[1]} features a row and the queries have {queries.shape[1]}; expected the same "
            "number, 1 or more"
        )
    if bank.device != queries.device:
        raise FaceExprError(
            f"the bank is on {bank.device} and the queries are on {queries.device}; expected one device"
        )
    largest = 0.0
    for name, features in (("bank", bank), ("queries", queries)):
        ends = [float(end) for end in features.aminmax()] if features.numel() else [0.0]  # NaN passes through both
        if not all(map(math.isfinite, ends)):
            row = int((~features.isfinite()).any(dim=1).nonzero()[0, 0])
            raise FaceExprError(f"row {row} of the {name} has a feature that is not finite; expected numbers only")
        largest = max(largest, *map(abs, ends))
    if largest > LARGEST:
        raise FaceExprError(f"a feature has the magnitude {largest:g}; expected {LARGEST:g} at most")
    return largest


def _search_sklearn(bank: Tensor, queries: Tensor, k: int, p: int) -> tuple[Tensor, Tensor]:
    """Search by scikit-learn's brute force, which the paper used; it chooses among rows that tie for the last place."""
    from sklearn.neighbors import NearestNeighbors

    if not len(queries):
        return torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.int64)
    finder = NearestNeighbors(n_neighbors=k, algorithm="brute", p=p).fit(bank.double().cpu().numpy())
    distances, indices = finder.kneighbors(queries.double().cpu().numpy())
    order = np.lexsort((indices, distances))
    return tuple(torch.from_numpy(np.take_along_axis(found, order, 1)) for found in (distances, indices))  # type: ignore[return-value]


def search_cuda(bank: Tensor, queries: Tensor, k: int, p: int) -> tuple[Tensor, Tensor]:
    """Return distances (float64) and indices (int64), both (Q, K), by computing all distances in float64.

    Directly and not by a matrix product, which loses what is small against the features.
    """
    parts = []
    for wanted in queries.double().split(_CUDA_QUERIES):
        best = wanted.new_empty(len(wanted), 0)
        indices = torch.empty_like(best, dtype=torch.int64)
        for start in range(0, len(bank), _CUDA_ROWS):
            rows = bank[start : start + _CUDA_ROWS].double()
            distances = torch.cdist(wanted, rows, p=p, compute_mode="donot_use_mm_for_euclid_dist")
            numbers = torch.arange(start, start + len(rows), device=bank.device).expand(len(wanted), -1)
            # Those found before come first and the sort is stable: the lowest index wins a tie.
            best, order = torch.cat([best, distances], dim=1).sort(dim=1, stable=True)
            best, indices = best[:, :k], torch.cat([indices, numbers], dim=1).gather(1, order[:, :k])
        parts.append((best, indices))
    return torch.cat([best for best, _ in parts]), torch.cat([indices for _, indices in parts])


def _search_cpu(bank: Tensor, queries: Tensor, k: int, p: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return distances (float64) and indices (int64), both (Q, K), by as many threads as torch uses.

    Most rows are ruled out by the means of blocks of features: the sum of the powers of a block's differences is at
    least the block's size times the power of the difference of its means (Jensen's inequality).
    """
    dtype = torch.float64
    if bank.dtype == queries.dtype and bank.dtype in (torch.uint8, torch.float32):
        dtype = bank.dtype
    rows, wanted = (features.to(dtype).contiguous().numpy() for features in (bank, queries))
    scale = scale or 1.0
    row_means, query_means = _means(bank, scale), _means(queries, scale)
    powers = np.full((len(wanted), k), np.inf)
    indices = np.full((len(wanted), k), -1, np.int64)

    def work(start: int) -> None:
        part = slice(start, start + size)
        _scan(rows, wanted[part], row_means, query_means[part], (0,) * p, scale, powers[part], indices[part])

    size = max(1, min(_QUERIES, -(-len(wanted) // torch.get_num_threads())))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(work, range(0, len(wanted), size)))
    distances = {1: np.positive, 2: np.sqrt, 3: np.cbrt}[p](powers)
    return torch.from_numpy(distances), torch.from_numpy(indices)


def _means(features: Tensor, scale: float) -> Array:
    """Return the means of blocks of features, float32, -1 to 1; rows of infinity fill up the last four."""
    padded = torch.nn.functional.pad(features, (0, -features.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    kind = torch.promote_types(features.dtype, torch.float32)
    means = torch.cat([(part.to(kind) / scale).float().mean(dim=2) for part in padded.split(1024)])
    return torch.nn.functional.pad(means, (0, 0, 0, -len(means) % 4), value=torch.inf).numpy()


def _compiled(function: _Function) -> _Function:
    # Sums in any order, so that they are vectorised; always the same order for the same lengths, so that equal rows
    # are equally far.
    compiled = numba.njit(function, nogil=True, fastmath={"reassoc", "contract", "nsz"})
    with contextlib.suppress(RuntimeError):  # no folder to keep the compiled code in: compile in each process
        compiled.enable_caching()
    return cast(_Function, compiled)


@_compiled
def _raised(difference: float, norm: tuple[int, ...]) -> float:
    # The length of a tuple is known when the function is compiled, so that the loops around it are vectorised.
    p = len(norm)
    difference = abs(difference)
    if p == 1:
        return difference
    return difference * difference if p == 2 else difference * difference * difference


@_compiled
def _power_below(a: Array, b: Array, norm: tuple[int, ...], limit: float) -> float:
    """Return the p-th power of the distance, or something above ``limit`` when it is."""
    total = 0.0
    for start in range(0, len(a), _CHUNK):
        x, y = a[start : start + _CHUNK], b[start : start + _CHUNK]
        if a.itemsize == 1:  # a chunk's sum of cubes of bytes is below 2**32
            whole = np.uint32(0)
            for place in range(len(x)):
                gap = np.uint32(abs(np.int32(np.int32(x[place]) - np.int32(y[place]))))
                whole = np.uint32(whole + np.uint32(_raised(gap, norm)))
            part = np.float64(whole)
        else:
            part = 0.0
            for place in range(len(x)):
                part += _raised(np.float64(x[place]) - np.float64(y[place]), norm)
        total += part
        if total > limit:
            break
    return total


@_compiled
def _scan(
    bank: Array,
    queries: Array,
    row_means: Array,
    query_means: Array,
    norm: tuple[int, ...],
    scale: float,
    powers: Array,
    indices: Array,
) -> None:
    """Keep for each query the K best so far, ascending, in ``powers`` of the distance and ``indices``, (Q, K).

    Rows of the bank are visited in ascending order, and a row replaces only what is farther: the lowest index wins.
    """
    p, blocks = len(norm), row_means.shape[1]
    # Roundings of float32: of the sums, relative to them, and of the means, which are at most 1.
    relative, absolute = 1 + blocks * 2.0**-22, blocks ** (1 / p) * 2.0**-19
    reach = np.full(len(queries), np.inf, np.float32)
    sums = np.empty(4, np.float32)
    for first in range(0, len(row_means), _ROWS):
        for query in range(len(queries)):
            wanted, best, places = query_means[query], powers[query], indices[query]
            for row in range(first, min(first + _ROWS, len(row_means)), 4):
                # Four at once, because a query's means are then read once for all of them.
                a, b, c, d = row_means[row], row_means[row + 1], row_means[row + 2], row_means[row + 3]
                e, f, g, h = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for block in range(blocks):
                    mean = wanted[block]
                    e += _raised(mean - a[block], norm)
                    f += _raised(mean - b[block], norm)
                    g += _raised(mean - c[block], norm)
                    h += _raised(mean - d[block], norm)
                if min(e, f, g, h) >= reach[query]:
                    continue
                sums[0], sums[1], sums[2], sums[3] = e, f, g, h
                for offset in range(4):
                    if sums[offset] >= reach[query]:
                        continue
                    power = _power_below(queries[query], bank[row + offset], norm, best[-1])
                    if power < best[-1]:
                        last = len(best) - 1
                        while last > 0 and best[last - 1] > power:
                            best[last], places[last] = best[last - 1], places[last - 1]
                            last -= 1
                        best[last], places[last] = power, row + offset
                        limit = (best[-1] / _BLOCK) ** (1 / p) / scale
                        reach[query] = (limit * relative + absolute) ** p
