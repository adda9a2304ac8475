"""What every detector returns for an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detections:
    """The faces found in one image, the surest first.

    Attributes:
        boxes: float32 (F, 4), left, top, right, bottom in pixels of the image that was given, inside it.
        scores: float32 (F,), in 0 to 1, descending.
        limited: more faces were found than the detector is allowed to return, and the least sure were left out.
    """

    boxes: Tensor
    scores: Tensor
    limited: bool = False

    @property
    def labels(self) -> Tensor:
        """Class of each box, int64 (F,): all 0, since users count faces only."""
        return torch.zeros(len(self.boxes), dtype=torch.int64, device=self.boxes.device)

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Detections:
        """Return the faces with at least this score; where there are others, none that has it was left out."""
        kept = int((self.scores >= score).sum())
        return Detections(self.boxes[:kept], self.scores[:kept], self.limited and kept == len(self))

    def cpu(self) -> Detections:
        """Return the same on the host."""
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.limited)
