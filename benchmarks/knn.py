"""Time the exact nearest-neighbour search against scikit-learn and faiss.

In one run, in turns, for all of FER-2013's training images as the bank and all of PublicTest as queries: for each
norm our search, scikit-learn's brute force and faiss's flat index, on the same cores.

Scikit-learn and faiss are timed on a sample of the queries and scaled up; ours is always timed on all. What Numba
compiles is kept on disk; the first call's time is printed on its own and is in no other figure.

    python benchmarks/knn.py [--path fer2013.csv.gz] [--sample 256] [--rounds 3]

Prints seconds (median of the rounds), the ratios (median of each round's ratio), the largest difference of the
distances, and the memory that our search needs beside the data (Linux only).
"""

from __future__ import annotations

import importlib
import importlib.util
import mmap
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from faceexpr.data.fer2013 import FER2013
from faceexpr.models.neighbours import Norm, nearest

K = 9
"""The largest number of neighbours of the paper's Figure 8."""

TRAIN, VALIDATION, FEATURES = 28_709, 3_589, 48 * 48
NORMS: tuple[Norm, ...] = (1, 2, 3)

Search = Callable[[Tensor], Tensor]
"""Queries in, distances (Q, K) out, ascending."""


def faces(path: str | None) -> tuple[Tensor, Tensor]:
    """Return the bank and the queries, uint8, shape (N, 2304)."""
    if path:
        data = FER2013(path)
        return data.split("train").tensor.flatten(1).clone(), data.split("val").tensor.flatten(1).clone()
    random = torch.Generator().manual_seed(0)
    # Coarse noise under fine noise: like photographs, some pairs are much nearer than others.
    coarse = torch.rand(TRAIN + VALIDATION, 1, 6, 6, generator=random)
    images = torch.nn.functional.interpolate(coarse, size=48, mode="bilinear").flatten(1)
    noise = torch.randint(0, 56, images.shape, dtype=torch.uint8, generator=random)
    rows = images.mul_(200).to(torch.uint8) + noise
    return rows[:TRAIN].clone(), rows[TRAIN:].clone()


def ours(bank: Tensor, p: Norm) -> Search:
    return lambda queries: nearest(bank, queries, K, p).distances


def scikit_learn(bank: Tensor, p: Norm) -> Search:
    finder = NearestNeighbors(n_neighbors=K, algorithm="brute", p=p).fit(bank.double().numpy())
    return lambda queries: torch.from_numpy(finder.kneighbors(queries.double().numpy())[0])


def faiss_flat(bank: Tensor, p: Norm) -> Search:
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlat(bank.shape[1], {1: faiss.METRIC_L1, 2: faiss.METRIC_L2, 3: faiss.METRIC_Lp}[p])
    index.metric_arg = p
    index.add(bank.float().numpy())

    def search(queries: Tensor) -> Tensor:
        powers = torch.from_numpy(index.search(queries.float().numpy(), K)[0]).double()
        return powers if p == 1 else powers.clamp(min=0) ** (1 / p)  # faiss takes no root

    return search


class Memory:
    """The most resident memory while the block runs, less what there was before, in MB; NaN where unknown."""

    def __enter__(self) -> Memory:
        self.before = self.most = self._now()
        self.stop = threading.Event()
        self.watch = threading.Thread(target=self._run)
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.watch.join()

    @property
    def added(self) -> float:
        return (self.most - self.before) / 2**20

    def _run(self) -> None:
        while not self.stop.wait(0.002):
            self.most = max(self.most, self._now())

    @staticmethod
    def _now() -> float:
        statm = Path("/proc/self/statm")
        return float(int(statm.read_text().split()[1]) * mmap.PAGESIZE) if statm.exists() else float("nan")


def timed(search: Search, queries: Tensor) -> tuple[float, Tensor]:
    start = time.perf_counter()
    distances = search(queries)
    return time.perf_counter() - start, distances


def compare(bank: Tensor, queries: Tensor, p: Norm, sample: int, rounds: int) -> None:
    """Time one norm and print what was found."""
    search = ours(bank, p)
    with Memory() as memory:
        first, _ = timed(search, queries[:8])
        search(queries)
    others = {"scikit-learn": scikit_learn(bank, p)}
    if importlib.util.find_spec("faiss") is not None:
        others["faiss"] = faiss_flat(bank, p)
    times: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    differences = dict.fromkeys(others, 0.0)
    few = queries[:sample]
    for _ in range(rounds):
        duration, distances = timed(search, queries)
        times["ours"].append(duration)
        for name, other in others.items():
            duration, found = timed(other, few)
            times[name].append(duration * len(queries) / len(few))
            differences[name] = float(
                ((found - distances[: len(few)]).abs() / distances[: len(few)].clamp(min=1)).max()
            )
    print(
        f"p = {p}: first call {first:.2f} s; {memory.added:.0f} MB beside the data; {len(few)} queries for the others"
    )
    for name, values in times.items():
        line = f"  {name:<18}{statistics.median(values):9.3f} s  ({min(values):.3f} to {max(values):.3f})"
        if name != "ours":
            ratios = [value / our for value, our in zip(values, times["ours"], strict=True)]
            line += f"  {statistics.median(ratios):7.2f} times ours"
        if name in differences:
            line += f"  largest relative difference {differences[name]:.1e}"
        print(line, flush=True)


def main(
    path: str | None = None,
    sample: int = 256,
    rounds: int = 3,
    everything: bool = False,
    norms: Sequence[Norm] = NORMS,
) -> None:
    """Time the search in turns.

    Args:
        path: FER-2013; made-up images of the same number and size without it.
        sample: queries that scikit-learn and faiss are timed on; an eighth of them for scikit-learn's slow p = 3.
        rounds: how often each is timed.
        everything: time the others on all the queries too (minutes a round).
        norms: which of 1, 2 and 3.
    """
    bank, queries = faces(path)
    if importlib.util.find_spec("faiss") is None:
        print("faiss is not installed and is left out: pip install faiss-cpu")
    megabytes = (bank.numel() + queries.numel()) / 2**20
    print(
        f"{len(queries)} queries in {len(bank)} x {bank.shape[1]} uint8 ({megabytes:.0f} MB), K = {K}, "
        f"{torch.get_num_threads()} threads, {rounds} rounds"
    )
    for p in norms:
        count = len(queries) if everything else sample // 8 if p == 3 else sample
        compare(bank, queries, p, count, rounds)


if __name__ == "__main__":
    auto_cli(main)
