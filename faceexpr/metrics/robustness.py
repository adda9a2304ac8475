"""Measure a classifier under corruptions of its test images: counts of every pass, and the record made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS
from faceexpr.metrics.classification import count_scores

MEASURED = ("accuracy", "balanced_accuracy", "macro_f1")
"""The metrics that are reported of each pass."""


class CorruptionCounts(Metric):
    """Number of samples by true and predicted class, for several passes over the same samples.

    Counts of all processes add up, and take the same space however many samples there are.

    Args:
        passes: number of passes.
        num_classes: C.
    """

    full_state_update = False

    confusion: Tensor
    broken: Tensor

    def __init__(self, passes: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        empty = torch.zeros(passes, num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", empty, dist_reduce_fx="sum")
        self.add_state("broken", torch.zeros(passes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, place: int, probabilities: Tensor, target: Tensor, rows: Tensor) -> None:
        """Add a batch.

        Args:
            place: number of the pass.
            probabilities: (B, C).
            target: class indices (B,), or distributions (B, C), which count as their most probable class.
            rows: int64 (M,), which of them to count; on the device of the others, like everything here.
        """
        probabilities = probabilities.detach()[rows]
        labels = (target.argmax(dim=1) if target.ndim == 2 else target)[rows]
        self.broken[place] += (~torch.isfinite(probabilities)).any(dim=1).sum()
        self.confusion[place] += multiclass_confusion_matrix(
            probabilities.argmax(dim=1), labels, self.num_classes, validate_args=False
        )

    def compute(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the counts of all processes, (passes, C, C), and the samples whose numbers are not finite, (passes,).

        The latter are among the former.
        """
        return self.confusion.cpu().numpy(), self.broken.cpu().numpy()


def score_robustness(
    confusion: NDArray[np.int64], corruptions: Sequence[str], class_names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Compute the metrics of each pass, as plain values for ``robustness.json``.

    Args:
        confusion: int64 (1 + corruptions * strengths, C, C), number of samples by true class (row) and predicted class
            (column): of the clean pass, then of each corruption's strengths in turn.
        corruptions: their names.
        class_names: names of the C classes.
        seed: of what was drawn at random.

    Returns:
        ``n``, ``seed``, the metrics of the ``clean`` images, their ``mean`` over all passes (of the accuracy, the mean
        corruption accuracy), the ``relative_drop`` from clean to mean, None where clean is 0, and under
        ``corruptions`` for each its unit, its mean and its strengths.
    """
    passes = []
    for counts in confusion:
        values, _ = count_scores(counts, class_names)
        passes.append({"n": int(counts.sum()), **{name: values[name] for name in MEASURED}})
    clean, *others = passes
    number, mean = len(STRENGTHS), _mean(others)
    found = {}
    for place, name in enumerate(corruptions):
        own = others[place * number : (place + 1) * number]
        strengths = [
            {"strength": strength, "value": value, **measured}
            for strength, value, measured in zip(STRENGTHS, CORRUPTIONS[name].values, own, strict=True)
        ]
        found[name] = {"unit": CORRUPTIONS[name].unit, "mean": _mean(own), "strengths": strengths}
    return {
        "n": clean["n"],
        "seed": seed,
        "clean": {metric: clean[metric] for metric in MEASURED},
        "mean": mean,
        "relative_drop": {metric: 1 - mean[metric] / clean[metric] if clean[metric] else None for metric in MEASURED},
        "corruptions": found,
    }


def _mean(passes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {metric: float(np.mean([one[metric] for one in passes])) for metric in MEASURED}
