"""Print KNN's accuracy for the paper's settings as a Markdown table, with and without leaked images.

    python docs/knn_table.py fer2013.csv.gz

Bank: Training. Queries: PublicTest, by which a setting is chosen, and PrivateTest. Each distance is computed once for
all K. Weights by distance, as in the paper. "Leaked" are images that are pixel-equal to a training image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor

from faceexpr.data.fer2013 import FER2013
from faceexpr.models.neighbours import class_probabilities, nearest
from faceexpr.tasks.knn import Histogram, RawPixels

KS = (1, 3, 5, 7, 9)
NORMS: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
SPLITS: tuple[Literal["val", "test"], ...] = ("val", "test")
PAPER = {("RawPixels", 1, 1): "38", ("RawPixels", 1, 3): "31.5", ("Histogram", 1, 3): "24.7"}
"""The paper's accuracies in percent (its section 6.2.1), by representation, p and K."""


def accuracies(found: Tensor, labels: Tensor, leaks: Tensor) -> tuple[str, str]:
    """Return the accuracy of probabilities (Q, C) with and without leaked images, in percent."""
    right = (found.argmax(dim=1) == labels).double()
    return f"{100 * float(right.mean()):.2f}", f"{100 * float(right[~leaks].mean()):.2f}"


def main(path: Path) -> None:
    """Print the table.

    Args:
        path: FER-2013's CSV file.
    """
    data = FER2013(str(path))
    training = data.split("train")
    assert training.targets is not None
    splits = {stage: data.split(stage) for stage in SPLITS}
    leaks = {stage: torch.from_numpy(split.find_leaked(training)) for stage, split in splits.items()}
    for stage, name in zip(SPLITS, ("PublicTest", "PrivateTest"), strict=True):
        print(f"{name}: {int(leaks[stage].sum())} of {len(splits[stage]):,} images are leaked\n")
    print("| representation | p | K | PublicTest | without leaked | PrivateTest | without leaked | paper |")
    print("|---|---|---|---|---|---|---|---|")
    for representation in (RawPixels(), Histogram()):
        name = type(representation).__name__
        bank = representation(training.images)
        for p in NORMS:
            found = {stage: nearest(bank, representation(splits[stage].images), max(KS), p) for stage in SPLITS}
            for k in KS:
                cells = [name, str(p), str(k)]
                for stage in SPLITS:
                    labels = splits[stage].targets
                    assert labels is not None
                    probabilities = class_probabilities(found[stage], training.targets, 7, k, "distance")
                    cells += accuracies(probabilities, labels, leaks[stage])
                print(f"| {' | '.join([*cells, PAPER.get((name, p, k), '')])} |")


if __name__ == "__main__":
    auto_cli(main)
