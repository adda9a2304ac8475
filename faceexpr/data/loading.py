"""A data split in memory, and the loader that hands it out in whole batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from faceexpr.data.resumable import ResumableLoader

PADDING = -1
"""The ``index`` of a sample that only fills the last batch of a process; neither losses nor metrics count it."""


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


class Images(Protocol):
    """Images (N, C, H, W) of uint8: a tensor, or what reads them when they are asked for."""

    @property
    def shape(self) -> torch.Size:
        """N, C, H and W."""

    def __getitem__(self, index: Any, /) -> Tensor:
        """Return the images at an index: a number, or int64 (B,)."""


@dataclass(frozen=True)
class Selection:
    """Which images of a source are in a split, where a rule gives them their labels.

    Attributes:
        rule: what the label of an image is, as a phrase.
        left_out: number of images without a label, by the reason.
    """

    rule: str
    left_out: Mapping[str, int]


@dataclass
class FaceSplit:
    """One split of an expression data set.

    Attributes:
        images: uint8, shape (N, C, H, W) with C = 1 (grey) or 3 (RGB); may be memory-mapped, or read when they are
            asked for.
        targets: int64 class indices (N,), float32 class distributions (N, K) whose rows sum to 1, or None where the
            data have no labels.
        sources: what to call each image: a path, or a file and its line.
        failures: inputs that could not be read and are not among the images, ordered by position.
        notes: remarks by image index, such as "first of 2 frames".
        broken: reasons by image index, for images that turned out to be unreadable when they were asked for.
        selection: the rule of the labels, for data that have one; what is measured is true of these images only.
    """

    images: Images
    targets: Tensor | None
    sources: Sequence[str]
    failures: list[Failure] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    selection: Selection | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def tensor(self) -> Tensor:
        """The images of a split that is in memory."""
        assert isinstance(self.images, Tensor)
        return self.images


class BatchSampler(DistributedSampler[int]):
    """Index batches for one process, of equal number in every process.

    The samples of a step of all processes together are a stretch of the epoch's order, and each process takes its
    part of them. So the same samples meet in a step whatever the number of processes, none is left out, and none is
    seen twice: where they do not divide evenly, the missing ones are `PADDING`, never a repeated sample. In training,
    the order is drawn anew each epoch from (seed, epoch), and the parts of an incomplete last step are filled up to
    two samples, since batch normalisation cannot use a batch of one.

    Args:
        size: number of samples in the split.
        batch_size: samples in a batch of one process.
        training: balance as described above, and shuffle unless told not to.
        shuffle: draw the order of a training epoch; evaluation is never shuffled.
        drop_last: leave an incomplete last step out of the training epoch, unless it is the only one.
        seed: seed of the order; the same in every process.
        num_replicas: number of processes.
        rank: this process.
        global_batch_size: samples in a training step of all processes together; by default ``batch_size`` for each.
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
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            _Sized(size), num_replicas=num_replicas, rank=rank, shuffle=training and shuffle, seed=seed, drop_last=False
        )
        self.size = size
        self.training = training
        self.drop_last = drop_last
        self.together = (global_batch_size if training else None) or batch_size * num_replicas
        self._left_out = (0, 0)

    def leave_out(self, epoch: int, batches: int) -> None:
        """Begin one epoch after some of its batches, which a training that is resumed in its middle has done."""
        self._left_out = (epoch, batches)

    @property
    def first(self) -> int:
        """Number of the batch that the present epoch begins with."""
        epoch, batches = self._left_out
        return batches if epoch == self.epoch else 0

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.together)
        return whole + (rest > 0 and not (self.training and self.drop_last and whole > 0))

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]  # batches of indices, not single ones
        for indices, _ in self.weighted():
            yield indices

    def weighted(self) -> Iterator[tuple[list[int], float]]:
        """Yield each batch with the share of its samples in the step of all processes, times their number.

        The mean over the batch, times this, is the process's part of the mean over the step: the mean of the parts
        over all processes is exact, however unevenly the samples are spread. It is 1 in an even step.
        """
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = list(range(self.size))
        most = math.ceil(self.together / self.num_replicas)
        for start in range(self.first * self.together, len(self) * self.together, self.together):
            stretch = order[start : start + self.together]
            mine = stretch[self.rank :: self.num_replicas]
            length = math.ceil(len(stretch) / self.num_replicas)
            if self.training:
                length = max(length, min(2, most))
            yield mine + [PADDING] * (length - len(mine)), len(mine) * self.num_replicas / len(stretch)


class _Sized(Dataset[int]):
    """A length, which is all that the sampler's base class asks of a data set."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class BatchLoader(ResumableLoader):
    """Iterate over a split in whole batches.

    A split is one tensor, so a batch is one index operation, far cheaper than the worker processes and the
    collation of single samples that a ``DataLoader`` is made for.

    Args:
        split: the samples.
        sampler: which of them make up each batch.

    Yields:
        ``image`` uint8 (B, C, H, W); ``index`` int64 (B,), the sample's position in the split or `PADDING`; where the
        split has labels, ``target`` int64 (B,) or float32 (B, K); and, in training, ``share`` float32 (), what the
        mean over the batch's samples counts in the mean over the step of all processes (`BatchSampler.weighted`).
    """

    # What Lightning looks at, as in a ``DataLoader(batch_size=None)``: the sampler gives whole batches.
    batch_sampler = None

    def __init__(self, split: FaceSplit, sampler: BatchSampler) -> None:
        self.split = split
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for index, image, share in self.counted(self.read(self.sampler.weighted())):
            batch = {"image": image, "index": index}
            if self.split.targets is not None:
                batch["target"] = self.split.targets[index.clamp(min=0)]
            if self.sampler.training:
                batch["share"] = torch.tensor(share)
            yield batch

    def read(self, asked: Iterable[tuple[list[int], float]]) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield the index and the images of each batch that is asked for, and its share."""
        for indices, share in asked:
            index = torch.tensor(indices, dtype=torch.int64)
            yield index, self.split.images[index.clamp(min=0)], share
