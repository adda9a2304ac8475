"""The table that metrics come from: the probabilities and the label of every sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SampleTable(NamedTuple):
    """Samples in the order of their split.

    Attributes:
        indices: int64 (N,), position of each sample in its split, ascending, each once.
        probabilities: float32 (N, C), in 0 to 1.
        targets: int64 class indices (N,), float32 class distributions (N, C), or None without labels.
    """

    indices: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    targets: NDArray[np.int64] | NDArray[np.float32] | None

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each sample, int64 (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The probability of the predicted class, float32 (N,)."""
        return np.asarray(self.probabilities.max(axis=1), dtype=np.float32)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true class of each sample, int64 (N,): of a distribution, its most probable class."""
        assert self.targets is not None, "the samples have no labels"
        labels = self.targets.argmax(axis=1) if self.targets.ndim == 2 else self.targets
        return np.asarray(labels, dtype=np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is right, (N,)."""
        return np.asarray(self.predicted == self.labels)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Whether all probabilities of a sample are finite, (N,)."""
        return np.asarray(np.isfinite(self.probabilities).all(axis=1))
