"""The detections and the faces of every picture, gathered over processes: what all of evaluation is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth
from faceexpr.data.loading import PADDING
from faceexpr.metrics.over_detection import COUNTS


# Neither a tuple nor a dataclass: torchmetrics looks into those and makes a single score a scalar.
class DetectionTable:
    """Pictures in the order of their split.

    Args:
        indices: int64 (N,), position of each picture in its split, ascending, each once.
        found: the detections in each.
        truths: the faces of each.
        counts: int64 (N, 4, 4), what `count_by_method` says of each; None where the candidates are not known.
    """

    def __init__(
        self,
        indices: NDArray[np.int64],
        found: list[Detections],
        truths: list[Truth],
        counts: NDArray[np.int64] | None = None,
    ) -> None:
        self.indices = indices
        self.found = found
        self.truths = truths
        self.counts = counts

    def tensors(self) -> dict[str, Tensor]:
        """Return the table in a form that a checkpoint can hold; `from_tensors` reads it."""
        truths = [(torch.from_numpy(truth.boxes), torch.from_numpy(truth.ignored)) for truth in self.truths]
        return as_tensors(self.indices.tolist(), self.found, truths, () if self.counts is None else [*self.counts])


def as_tensors(
    index: Sequence[int],
    found: Sequence[Detections],
    truths: Sequence[tuple[Tensor, Tensor]],
    counts: Sequence[NDArray[np.int64]] = (),
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Return pictures as tensors that can be joined to those of others and gathered: all boxes in one list.

    Args:
        index: position of each picture in its split.
        found: the detections in each.
        truths: its faces, (F, 4), and which of them are ignored, (F,).
        counts: what `count_by_method` says of each, or nothing.
        device: where the tensors are to be.
    """

    def joined(parts: Sequence[Tensor], empty: Tensor) -> Tensor:
        moved = [part.detach().to(device, empty.dtype).reshape(-1, *empty.shape[1:]) for part in parts]
        return torch.cat([empty.to(device), *moved])

    def listed(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    return {
        "index": listed(index),
        "limited": listed([detections.limited for detections in found]),
        "found": listed([len(detections) for detections in found]),
        "boxes": joined([detections.boxes for detections in found], torch.zeros(0, 4)),
        "scores": joined([detections.scores for detections in found], torch.zeros(0)),
        "faces": listed([len(boxes) for boxes, _ in truths]),
        "truth": joined([boxes for boxes, _ in truths], torch.zeros(0, 4)),
        "ignored": joined([ignored for _, ignored in truths], torch.zeros(0, dtype=torch.int64)),
        "counts": joined([torch.from_numpy(row) for row in counts], torch.zeros(0, *COUNTS, dtype=torch.int64)),
    }


def from_tensors(columns: Mapping[str, Tensor]) -> DetectionTable:
    """Return the table that tensors of `as_tensors`, joined in any number, stand for."""
    columns = {name: column.cpu() for name, column in columns.items()}
    indices, rows = np.unique(columns["index"].numpy(), return_index=True)
    numbers, faces = columns["found"].tolist(), columns["faces"].tolist()
    boxes, scores = columns["boxes"].split(numbers), columns["scores"].split(numbers)
    truth, ignored = columns["truth"].split(faces), columns["ignored"].bool().split(faces)
    limited, counts = columns["limited"].tolist(), columns["counts"].numpy()
    return DetectionTable(
        indices,
        [Detections(boxes[row], scores[row], bool(limited[row])) for row in rows],
        [Truth(truth[row].numpy(), ignored[row].numpy()) for row in rows],
        counts[rows] if len(counts) else None,
    )


class DetectionCollector(Metric):
    """Keep what was found in every picture, and what is there, and gather it from all processes.

    Metrics are computed from the gathered table, in every process alike. That is exact for any number of processes and
    any batch sizes; a picture that was seen twice counts once. Pictures differ in their numbers of boxes, so all boxes
    are one list, with the number of each picture beside it. A detection takes 20 bytes, a face 17, a picture 33.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        # A process without a picture gathers tensors of the same type and number of dimensions as the others.
        for name, column in as_tensors([], [], []).items():
            self.add_state(name, default=[], dist_reduce_fx="cat")
            getattr(self, name).append(column)

    def update(
        self,
        index: Tensor,
        found: Sequence[Detections],
        boxes: Sequence[Tensor],
        ignored: Sequence[Tensor],
        counts: Sequence[NDArray[np.int64]] = (),
    ) -> None:
        """Add a batch.

        Args:
            index: int64 (B,), `PADDING` for pictures to leave out.
            found: the detections in each picture, on any device.
            boxes: its faces, (F, 4).
            ignored: which of them do not count, bool (F,).
            counts: what `count_by_method` says of each picture; for all batches or for none.
        """
        rows = [row for row, number in enumerate(index.tolist()) if number != PADDING]
        columns = as_tensors(
            index[rows].tolist(),
            [found[row] for row in rows],
            [(boxes[row], ignored[row]) for row in rows],
            [counts[row] for row in rows] if len(counts) else (),
            self.device,
        )
        for name, column in columns.items():
            getattr(self, name).append(column)

    def compute(self) -> DetectionTable:
        """Return the pictures of all processes, on the host."""
        return from_tensors({name: dim_zero_cat(getattr(self, name)) for name in self.metric_state})
