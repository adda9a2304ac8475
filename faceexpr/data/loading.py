"""Splits of a data set, and the one loader that hands their samples out in whole batches."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from faceexpr.utils.errors import FaceExprError

if TYPE_CHECKING:
    from faceexpr.data.image_reading import StreamedFaces

Value = TypeVar("Value")

Batch = dict[str, Any]

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


@dataclass(frozen=True)
class Selection:
    """Which images of a source are in a split, where a rule gives them their labels.

    Attributes:
        rule: what the label of an image is, as a phrase.
        left_out: number of images without a label, by the reason.
    """

    rule: str
    left_out: Mapping[str, int]


class BatchRequest(NamedTuple):
    """A batch of one process, before it is read.

    Attributes:
        indices: positions in the split or `PADDING`.
        share: what the mean over the batch's samples counts in the mean over the step of all processes. The mean of
            the batch times this is the process's part of the mean over the step: the mean of the parts over all
            processes is exact, however unevenly the samples are spread. It is 1 in an even step.
        epoch: number of the epoch.
        training: whether the batch is trained on.
    """

    indices: list[int]
    share: float = 1.0
    epoch: int = 0
    training: bool = False


class ReadFaces(NamedTuple):
    """Faces that were read for a batch.

    Attributes:
        indices: int64 (B,), the position of each in its split, or `PADDING` where there is none or it is broken.
        image: uint8 (B, C, H, W); in the place of a broken face another one of the batch, black where there is none.
        share: as in the `BatchRequest`; None outside of training.
        broken: reasons by position.
        notes: remarks by position.
    """

    indices: Tensor
    image: Tensor
    share: float | None
    broken: Mapping[int, str]
    notes: Mapping[int, str]


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
        advice: how to go on without images that turn out to be broken; None where that is done without asking.
    """

    images: Tensor | StreamedFaces
    targets: Tensor | None
    sources: Sequence[str]
    failures: list[Failure] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    selection: Selection | None = None
    advice: str | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def tensor(self) -> Tensor:
        """The images of a split that is in memory."""
        assert isinstance(self.images, Tensor)
        return self.images

    def find_leaked(self, training: FaceSplit) -> npt.NDArray[np.bool_]:
        """Tell which images are pixel-equal to one for training, bool (N,); both splits are in memory."""
        known = {image.tobytes() for image in training.tensor.numpy()}
        return np.fromiter((image.tobytes() in known for image in self.tensor.numpy()), np.bool_, count=len(self))

    def pick(self, kept: npt.NDArray[np.bool_]) -> FaceSplit:
        """Return a split of some of the images, bool (N,)."""
        rows = torch.from_numpy(np.flatnonzero(kept))
        return dataclasses.replace(
            self,
            images=self.images[rows] if isinstance(self.images, Tensor) else self.images.pick(rows.tolist()),
            targets=None if self.targets is None else self.targets[rows],
            sources=[self.sources[index] for index in rows.tolist()],
            notes={new: self.notes[old] for new, old in enumerate(rows.tolist()) if old in self.notes},
        )

    def read(self, request: BatchRequest) -> ReadFaces:
        """Read the images of a batch."""
        if not isinstance(self.images, Tensor):
            return self.images.read(request)
        index = torch.tensor(request.indices, dtype=torch.int64)
        return ReadFaces(index, self.images[index.clamp(min=0)], request.share if request.training else None, {}, {})

    def finish(self, faces: ReadFaces) -> Batch:
        """Return a batch, and keep account of what was found while it was read.

        Returns:
            ``image`` uint8 (B, C, H, W); ``index`` int64 (B,), the sample's position in the split or `PADDING`; where
            the split has labels, ``target`` int64 (B,) or float32 (B, K); and, in training, ``share`` float32 (), see
            `BatchRequest`.

        Raises:
            FaceExprError: an image turned out to be broken, and is not to be left out.
        """
        for place, reason in faces.broken.items():
            if self.advice is not None:
                raise FaceExprError(
                    f"{self.sources[place]} cannot be read: {reason}; repair or remove it, or {self.advice}"
                )
            self.broken[place] = reason
        self.notes.update(faces.notes)
        batch = {"image": faces.image, "index": faces.indices}
        if self.targets is not None:
            batch["target"] = self.targets[faces.indices.clamp(min=0)]
        if faces.share is not None:
            batch["share"] = torch.tensor(faces.share)
        return batch

    def share_findings(self) -> None:
        """Let every process know what all of them have found out while they read the split; all have to ask."""
        for broken, notes in gather((self.broken, self.notes)):
            self.broken.update(broken)
            self.notes.update(notes)


class EveryInput:
    """All inputs of a split in their order, those that could not be read too, each with its source and its note.

    Args:
        split: where an input could not be read, the ``index`` in a batch is `PADDING`, and its note says why.
    """

    def __init__(self, split: FaceSplit) -> None:
        self.split = split
        self.failures = {failure.position: failure for failure in split.failures}
        number = len(split) + len(self.failures)
        self.index = np.full(number + 1, PADDING)  # the last is that of padding
        self.index[np.setdiff1d(np.arange(number), [*self.failures])] = np.arange(len(split))

    def __len__(self) -> int:
        return len(self.index) - 1

    def read(self, request: BatchRequest) -> tuple[list[int], ReadFaces]:
        """Read the images of a batch of positions among all inputs."""
        places = self.index[request.indices].tolist()
        if len(self.split):
            return request.indices, self.split.read(request._replace(indices=places))
        black = torch.zeros(len(places), *self.split.images.shape[1:], dtype=torch.uint8)
        return request.indices, ReadFaces(torch.tensor(places), black, None, {}, {})

    def finish(self, found: tuple[list[int], ReadFaces]) -> Batch:
        """Return a batch of the split's, with ``source`` and ``note``, two lists of str."""
        batch = self.split.finish(found[1])
        told = [self._describe(position) for position in found[0]]
        return {**batch, "source": [source for source, _ in told], "note": [note for _, note in told]}

    def _describe(self, position: int) -> tuple[str, str]:
        if failure := self.failures.get(position):
            return failure.source, failure.reason
        index = int(self.index[position])
        if index == PADDING:
            return "", ""
        return self.split.sources[index], self.split.broken.get(index) or self.split.notes.get(index, "")


@dataclass(eq=False)
class BatchSampler(Sampler[BatchRequest]):
    """Say what the batches of one process hold; they are of equal number in every process.

    The samples of a step of all processes together are a stretch of the epoch's order, and each process takes its
    part of them. So the same samples meet in a step whatever the number of processes, none is left out, and none is
    seen twice: where they do not divide evenly, the missing ones are `PADDING`, never a repeated sample. In training,
    the order is drawn anew each epoch from (seed, epoch), and the parts of an incomplete last step are filled up to
    two samples, since batch normalisation cannot use a batch of one.

    Attributes:
        left_out: an epoch, and the number of its batches to begin after, as a training that is resumed within it does.

    Args:
        size: number of samples in the split.
        batch_size: samples in a batch of one process.
        training: balance as described above, and shuffle unless told not to.
        shuffle: draw the order of a training epoch; evaluation is never shuffled.
        drop_last: leave an incomplete last step out of the training epoch, unless it is the only one.
        seed: seed of the order; the same in every process.
        world_size: number of processes.
        rank: this process.
        global_batch_size: samples in a training step of all processes together; by default ``batch_size`` for each.
    """

    size: int
    batch_size: int
    training: bool
    shuffle: bool = True
    drop_last: bool = False
    seed: int = 0
    world_size: int = 1
    rank: int = 0
    global_batch_size: int | None = None

    def __post_init__(self) -> None:
        self.step_size = (self.global_batch_size if self.training else None) or self.batch_size * self.world_size
        self.epoch = 0
        self.left_out = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch; Lightning does so for each."""
        self.epoch = epoch

    @property
    def first(self) -> int:
        """Number of the batch that the present epoch begins with."""
        epoch, batches = self.left_out
        return batches if epoch == self.epoch else 0

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.step_size)
        return whole + (rest > 0 and not (self.training and self.drop_last and whole > 0))

    def __iter__(self) -> Iterator[BatchRequest]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        shuffled = self.training and self.shuffle
        order = torch.randperm(self.size, generator=generator).tolist() if shuffled else list(range(self.size))
        most = math.ceil(self.step_size / self.world_size)
        for start in range(self.first * self.step_size, len(self) * self.step_size, self.step_size):
            stretch = order[start : start + self.step_size]
            mine = stretch[self.rank :: self.world_size]
            length = math.ceil(len(stretch) / self.world_size)
            if self.training:
                length = max(length, min(2, most))
            share = len(mine) * self.world_size / len(stretch)
            yield BatchRequest(mine + [PADDING] * (length - len(mine)), share, self.epoch, self.training)


class BatchSource(Protocol):
    """What a loader takes batches from: a `FaceSplit`, or a split of images with boxes.

    Worker processes call ``read`` on a copy, so nothing that it changes is seen elsewhere; ``finish`` makes a batch of
    what was read in the training process.
    """

    def read(self, request: BatchRequest, /) -> Any: ...

    def finish(self, found: Any, /) -> Batch: ...


class BatchLoader:
    """Iterate over a split in whole batches, prepared by worker processes where there are any.

    Lightning saves and restores the loader's position by `state_dict` and `load_state_dict`. It is that of the
    training, not that of workers which prepare batches in advance. The order of an epoch is a function of its seed and
    its number, so a resumed epoch leaves out the batches that were trained, and none of them is read.

    Workers start with the first batch and stay until `close`, so that no later epoch waits for them to start.

    Args:
        source: reads the batches.
        sampler: which samples make up each batch.
        num_workers: processes that read; 0 reads in this one.
        pin_memory: hand batches out in memory that a GPU copies from without waiting.
    """

    # What Lightning looks at, as in a ``DataLoader(batch_size=None)``: the sampler gives whole batches.
    batch_sampler = None

    def __init__(
        self, source: BatchSource, sampler: BatchSampler, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.source = source
        self.sampler = sampler
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._loader: DataLoader[Any] | None = None
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None
        self._given = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        self._running = weakref.ref(batches)
        return batches

    def _batches(self) -> Generator[Batch, None, None]:
        if self._loader is None and self.num_workers:
            self._loader = DataLoader(
                _Requested(self.source),
                sampler=self.sampler,
                batch_size=None,  # whole batches are asked for, so nothing is left to collate
                num_workers=self.num_workers,
                persistent_workers=True,
                pin_memory=self.pin_memory,
                # Else each epoch would draw a number from the generator of everything else.
                generator=torch.Generator(),
            )
        self._given = self.sampler.first
        try:
            # Without workers, torch's loader would cost a third of a batch that is in memory.
            for found in self._loader or map(self.source.read, self.sampler):
                self._given += 1
                yield self.source.finish(found)
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            spawned = multiprocessing.get_start_method() != "fork"
            if spawned and "signal" not in str(error) and self._given == self.sampler.first:
                raise FaceExprError(
                    "the processes that prepare batches have ended as they began, since each runs the script anew; "
                    'expected its training below `if __name__ == "__main__":`, or num_workers 0'
                ) from error
            raise FaceExprError(
                "the system has ended a process that prepares batches, as it does where memory runs out; try a "
                f"smaller num_workers than {self.num_workers} or a smaller batch_size"
            ) from error

    def close(self) -> None:
        """End the workers; they start anew where further batches are asked for."""
        # They end when nothing refers to torch's loader and to the iterator of an epoch that was not finished.
        running = self._running() if self._running is not None else None
        if running is not None:
            running.close()
        self._loader = None

    def state_dict(self) -> dict[str, int]:
        """Return the number of the epoch, of the batches that were taken from it, and of the samples in a step."""
        sampler = self.sampler
        return {"epoch": sampler.epoch, "batches": self._given, "samples": sampler.step_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave those batches out when that epoch is iterated over; any other epoch is whole.

        Raises:
            FaceExprError: the state is from within an epoch, whose steps had another number of samples.
        """
        sampler = self.sampler
        if sampler.step_size != state["samples"] and 0 < state["batches"] * state["samples"] < sampler.size:
            raise FaceExprError(
                f"the checkpoint was saved within an epoch with {state['samples']} samples in a step, and this "
                f"training has {sampler.step_size}; expected as many, or a checkpoint from the end of an epoch"
            )
        sampler.set_epoch(state["epoch"])
        sampler.left_out = state["epoch"], state["batches"]
        self._given = state["batches"]


class _Requested(Dataset[Any]):
    """A source as torch's workers ask for it."""

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitem__(self, request: BatchRequest) -> Any:
        return self.source.read(request)


def stratify(labels: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sort places so that any number of the first ones come from each class in proportion.

    Args:
        labels: int64 (N,).
        order: the places in the order that they are taken in within a class, and among classes where it is a tie.
    """
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(share[order], kind="stable")]


def find_process() -> tuple[int, int]:
    """Return this process's rank among those of the run, and their number."""
    together = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)


def gather(value: Value) -> list[Value]:
    """Return the values of all processes, by rank; every process has to ask."""
    world_size = find_process()[1]
    if world_size == 1:
        return [value]
    values: list[Value | None] = [None] * world_size
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # all are filled
