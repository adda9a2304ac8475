"""Faces that need more memory than allowed: decoded each time they are asked for, by worker processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import get_worker_info

from faceexpr.data.broken_pictures import check_all
from faceexpr.data.face_reading import FaceReader
from faceexpr.data.file_names import FileNames
from faceexpr.data.loading import PADDING, BatchLoader, BatchSampler, FaceSplit, Failure
from faceexpr.data.together import gathered
from faceexpr.data.workers import PreparedBatches, Workers
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError

MANY = 10_000
"""Images whose check at the start takes long enough to be announced."""


def needs_streaming(number: int, reader: FaceReader, memory_gib: float) -> bool:
    """Tell whether so many decoded faces need more memory than allowed."""
    return number * torch.Size(reader.shape).numel() > memory_gib * 2**30


class FaceBatch(NamedTuple):
    """Faces that were asked for.

    Attributes:
        indices: int64 (B,), the position of each in its split, or `PADDING` where there is none or it is broken.
        image: uint8 (B, C, H, W); in the place of a broken face another one of the batch, black where there is none.
        share: as asked, see `BatchSampler.weighted`.
        broken: reasons by position.
        notes: remarks by position.
    """

    indices: Tensor
    image: Tensor
    share: float
    broken: dict[int, str]
    notes: dict[int, str]


class FaceFiles:
    """Faces in files, which look like the tensor (N, C, H, W) that they are too large for.

    Args:
        files: one for each face.
        reader: reads them.
    """

    def __init__(self, files: FileNames, reader: FaceReader) -> None:
        self.files = files
        self.reader = reader

    @property
    def shape(self) -> torch.Size:
        """N, C, H and W."""
        return torch.Size((len(self.files), *self.reader.shape))

    def __getitem__(self, index: int | Tensor, /) -> Tensor:
        """Return faces, uint8 (C, H, W) or (B, C, H, W).

        Raises:
            ImageError: one cannot be read.
        """
        if isinstance(index, Tensor):
            return torch.stack([self[row] for row in index.tolist()])
        return self.reader.read(self.files[index])[0]

    def prepare(self, asked: tuple[list[int], float]) -> FaceBatch:
        """Read a batch: positions in the split or `PADDING`, and the share that comes back with it."""
        indices, share = asked
        image = torch.empty((len(indices), *self.reader.shape), dtype=torch.uint8)
        if get_worker_info() is not None:
            image.share_memory_()  # read into it, and not copied there to be handed over
        batch = FaceBatch(torch.tensor(indices, dtype=torch.int64), image, share, broken={}, notes={})
        gaps: list[int] = []
        for row, index in enumerate(indices):
            try:
                image[row], notes = self.reader.read(self.files[max(index, 0)])
            except ImageError as error:
                gaps.append(row)
                if index != PADDING:
                    batch.broken[index] = error.reason
                continue
            if notes and index != PADDING:
                batch.notes[index] = "; ".join(notes)
        batch.indices[gaps] = PADDING
        if gaps:
            # Batch normalisation looks at all of a batch, so what fills a gap has to be a face.
            read = next((row for row in range(len(indices)) if row not in gaps), None)
            image[gaps] = torch.zeros_like(image[0]) if read is None else image[read].clone()
        return batch


class StreamLoader(BatchLoader):
    """Iterate over a split whose images are `FaceFiles`.

    A face that turns out to be broken becomes `PADDING`, and the split keeps account of it.

    Args:
        split: the samples.
        sampler: which of them make up each batch.
        workers: who reads them.
        advice: how to go on without broken images; None where it is done without asking.
    """

    def __init__(self, split: FaceSplit, sampler: BatchSampler, workers: Workers, advice: str | None = None) -> None:
        super().__init__(split, sampler)
        assert isinstance(split.images, FaceFiles)
        self.advice = advice
        self._prepared: PreparedBatches[tuple[list[int], float], FaceBatch] = PreparedBatches(split.images, workers)

    def close(self) -> None:
        """End the workers."""
        self._prepared.close()

    def read(self, asked: Iterable[tuple[list[int], float]]) -> Iterator[tuple[Tensor, Tensor, float]]:
        for batch in self._prepared.batches(asked):
            for index, reason in batch.broken.items():
                if self.advice is not None:
                    raise FaceExprError(
                        f"{self.split.sources[index]} cannot be read: {reason}; repair or remove it, or {self.advice}"
                    )
                self.split.broken[index] = reason
            self.split.notes.update(batch.notes)
            yield batch.indices, batch.image, batch.share


def streamed(files: FileNames, reader: FaceReader) -> FaceSplit:
    """Return a split of faces that are read when they are asked for.

    Every file is looked at, each process of a run taking its part; those that are seen to be broken are failures.
    What is damaged inside shows later.

    Args:
        files: in the order of the result.
        reader: reads each.

    Raises:
        FaceExprError: not all processes see the same files.
    """
    start = time.perf_counter()
    if len(set(gathered(files.digest))) > 1:
        raise FaceExprError(
            f"the processes of this run see different files, the first being {files[0]}; expected the same files, "
            "under the same names, on every machine"
        )
    bad = check_all(lambda position: reader.check(files[position]), len(files))
    failures = [Failure(position, files[position], reason) for position, reason in bad.items()]
    if len(files) >= MANY:
        rank_zero_info(f"looked at the headers of {len(files):,} images in {time.perf_counter() - start:.0f} s")
    kept = files.picked(position for position in range(len(files)) if position not in bad) if bad else files
    return FaceSplit(images=FaceFiles(kept, reader), targets=None, sources=kept, failures=failures)


def share_findings(split: FaceSplit) -> None:
    """Let every process know what all of them have found out about a split while they read it; all have to ask."""
    for broken, notes in gathered((split.broken, split.notes)):
        split.broken.update(broken)
        split.notes.update(notes)
