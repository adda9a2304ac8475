"""A data split in memory, and the loader that hands it out in whole batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

PADDING = -1
"""The ``index`` of a sample that only fills the last batch of a process; evaluation leaves it out."""


@dataclass(frozen=True)
class Failure:
    """An input that could not be read.

    Attributes:
        position: its place among all inputs, counted from 0.
        source: the path, or the file and row.
        reason: what was wrong, as a phrase.
    """

    position: int
    source: str
    reason: str


@dataclass
class FaceSplit:
    """One split of an expression data set.

    Attributes:
        images: uint8, shape (N, C, H, W) with C = 1 (grey) or 3 (RGB); may be memory-mapped.
        targets: int64 class indices (N,), float32 class distributions (N, K) whose rows sum to 1, or None where the
            data have no labels.
        sources: what to call each image: a path, or a file and its line.
        failures: inputs that could not be read and are not among the images, ordered by position.
        notes: remarks by image index, such as "first of 2 frames".
    """

    images: Tensor
    targets: Tensor | None
    sources: Sequence[str]
    failures: list[Failure] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.images.shape[0]


class BatchSampler(DistributedSampler[int]):
    """Index batches for one process, of equal number in every process.

    Evaluation needs each sample exactly once, and processes that stay in step need the same number of batches each:
    where the samples do not divide evenly, the missing ones are `PADDING`, never a repeated sample. In training, the
    order is drawn anew each epoch from (seed, epoch), a remainder of one sample joins the batch before it (batch
    normalisation cannot use a batch of one), and the few samples beyond an even division are left out of the epoch.

    Args:
        size: number of samples in the split.
        batch_size: samples in a batch of one process.
        training: balance as described above, and shuffle unless told not to.
        shuffle: draw the order of a training epoch; evaluation is never shuffled.
        drop_last: leave an incomplete last batch out of the training epoch, unless it is the only one.
        seed: seed of the order; the same in every process.
        num_replicas: number of processes.
        rank: this process.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        training: bool,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(
            _Sized(size), num_replicas=num_replicas, rank=rank, shuffle=training and shuffle, seed=seed, drop_last=False
        )
        self.size = size
        self.batch_size = batch_size
        self.training = training
        self.drop_last = drop_last
        # Every process trains on the same number of samples, or gradient synchronisation would wait for ever.
        self.share = size // num_replicas if training and size >= num_replicas else math.ceil(size / num_replicas)

    def _lengths(self) -> list[int]:
        full, rest = divmod(self.share, self.batch_size)
        lengths = [self.batch_size] * full
        if rest and not (self.training and self.drop_last and full):
            if rest == 1 and self.training and full:
                lengths[-1] += 1
            else:
                lengths.append(rest)
        return lengths

    def __len__(self) -> int:
        return len(self._lengths())

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]  # batches of indices, not single ones
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = list(range(self.size))
        mine = order[self.rank :: self.num_replicas][: self.share]
        mine += [PADDING] * (self.share - len(mine))
        start = 0
        for length in self._lengths():
            yield mine[start : start + length]
            start += length


class _Sized(Dataset[int]):
    """A length, which is all that the sampler's base class asks of a data set."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class BatchLoader:
    """Iterate over a split in whole batches.

    A split is one tensor, so a batch is one index operation, far cheaper than the worker processes and the
    collation of single samples that a ``DataLoader`` is made for.

    Args:
        split: the samples.
        sampler: which of them make up each batch.

    Yields:
        ``image`` uint8 (B, C, H, W); ``index`` int64 (B,), the sample's position in the split or `PADDING`; and,
        where the split has labels, ``target`` int64 (B,) or float32 (B, K).
    """

    # What Lightning looks at, as in a ``DataLoader(batch_size=None)``: the sampler gives whole batches.
    batch_sampler = None

    def __init__(self, split: FaceSplit, sampler: BatchSampler) -> None:
        self.split = split
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for indices in self.sampler:
            index = torch.tensor(indices, dtype=torch.int64)
            rows = index.clamp(min=0)
            batch = {"image": self.split.images[rows], "index": index}
            if self.split.targets is not None:
                batch["target"] = self.split.targets[rows]
            yield batch
