"""What was measured under corruptions: a record for machines, rows for a spreadsheet, a table for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS
from faceexpr.metrics.classification import count_scores
from faceexpr.utils.text import counted

MEASURED = ("accuracy", "balanced_accuracy", "macro_f1")
"""The metrics that are reported of each pass."""


@dataclass(frozen=True)
class Measured:
    """One pass over the test split.

    Attributes:
        count: number of samples.
        values: `MEASURED` by name.
    """

    count: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """All passes over the test split.

    Attributes:
        clean: the images as they are.
        corrupted: for each corruption by name, a pass for each of `STRENGTHS`.
        seed: of what was drawn at random.
    """

    clean: Measured
    corrupted: Mapping[str, Sequence[Measured]]
    seed: int

    def mean(self, metric: str, corruption: str | None = None) -> float:
        """Return the mean over all strengths, of one corruption or of all: of the accuracy, the mean corruption one."""
        names = self.corrupted if corruption is None else [corruption]
        return float(np.mean([one.values[metric] for name in names for one in self.corrupted[name]]))

    def relative_drop(self, metric: str) -> float | None:
        """Return the share of the clean value that is lost in the mean; None where that value is 0."""
        clean = self.clean.values[metric]
        return 1 - self.mean(metric) / clean if clean else None


def result(confusion: NDArray[np.int64], corruptions: Sequence[str], class_names: Sequence[str], seed: int) -> Result:
    """Compute the metrics of each pass.

    Args:
        confusion: int64 (1 + corruptions * strengths, C, C), number of samples by true class (row) and predicted class
            (column): of the clean pass, then of each corruption's strengths in turn.
        corruptions: their names.
        class_names: names of the C classes.
        seed: of what was drawn at random.
    """
    passes = []
    for counts in confusion:
        values, _ = count_scores(counts, class_names)
        passes.append(Measured(int(counts.sum()), {name: values[name] for name in MEASURED}))
    clean, *others = passes
    number = len(STRENGTHS)
    corrupted = {name: others[place * number : (place + 1) * number] for place, name in enumerate(corruptions)}
    return Result(clean, corrupted, seed)


def record(found: Result) -> dict[str, Any]:
    """Return everything as plain values, for ``robustness.json``."""
    return {
        "n": found.clean.count,
        "seed": found.seed,
        "clean": dict(found.clean.values),
        "mean": {metric: found.mean(metric) for metric in MEASURED},
        "relative_drop": {metric: found.relative_drop(metric) for metric in MEASURED},
        "corruptions": {
            name: {
                "unit": CORRUPTIONS[name].unit,
                "mean": {metric: found.mean(metric, name) for metric in MEASURED},
                "strengths": [
                    {"strength": strength, "value": value, "n": one.count, **one.values}
                    for strength, value, one in zip(STRENGTHS, CORRUPTIONS[name].values, passes, strict=True)
                ],
            }
            for name, passes in found.corrupted.items()
        },
    }


def as_csv(found: Result) -> str:
    """Return a row for each pass; that of the clean one comes first, with strength 0 and without a value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["corruption", "strength", "value", "n", *MEASURED])
    writer.writerow(["none", 0, "", found.clean.count, *found.clean.values.values()])
    for name, passes in found.corrupted.items():
        for strength, value, one in zip(STRENGTHS, CORRUPTIONS[name].values, passes, strict=True):
            writer.writerow([name, strength, value, one.count, *one.values.values()])
    return text.getvalue()


def summary(found: Result) -> str:
    """Return the accuracies as a table for the console."""
    width = max(len("corruption"), *map(len, found.corrupted))
    clean, mean, drop = found.clean.values["accuracy"], found.mean("accuracy"), found.relative_drop("accuracy")
    lines = [
        f"robustness: {counted(found.clean.count, 'sample')}, accuracy by strength; clean {clean:.2%}",
        f"  {'corruption':<{width}} {''.join(f'{strength:>8}' for strength in STRENGTHS)} {'mean':>8}",
    ]
    for name, passes in found.corrupted.items():
        cells = "".join(f"{one.values['accuracy']:8.2%}" for one in passes)
        lines.append(f"  {name:<{width}} {cells} {found.mean('accuracy', name):8.2%}")
    lost = "" if drop is None else f", {drop:.1%} below the clean one"
    lines.append(f"  mean accuracy under {counted(len(found.corrupted), 'corruption')}: {mean:.2%}{lost}")
    return "\n".join(lines)
