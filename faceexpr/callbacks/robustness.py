"""Measure how a classifier stands what cameras and detectors do to faces: its accuracy under corruptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from faceexpr.callbacks.record import run_folder
from faceexpr.callbacks.reports import class_names, log_values, show_figures
from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from faceexpr.data.loading import PADDING
from faceexpr.metrics.classification import count_scores
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted, csv_text
from faceexpr.visualization.classification import corrupted_faces, robustness_curves

MEASURED = ("accuracy", "balanced_accuracy", "macro_f1")
"""The metrics that are reported of each pass."""


class Robustness(Callback):
    """Measure a classifier on the test images once more under each corruption, in five strengths.

    Each batch is corrupted after it has reached the device, as uint8 and before the network's own pre-processing. The
    numbers do not depend on the number of processes or on the batch size.

    Args:
        enabled: do so in ``faceexpr test``; the test then takes as many times longer as there are corruptions times
            strengths.
        corruptions: names out of blur, noise, low_resolution, darker, brighter, contrast, jpeg, rotation and shift;
            by default all of them.
        seed: seed of the noise and of the directions of rotation and shift. It is not the training's, so that all
            models are measured on the same images.
        figures: draw the accuracy over the strengths, and a drawn face under each corruption.
    """

    def __init__(
        self, enabled: bool = False, corruptions: list[str] | None = None, seed: int = 0, figures: bool = True
    ) -> None:
        known = corruptions != [] and {*(corruptions or ())} <= CORRUPTIONS.keys()
        require(known, "corruptions", corruptions, f"one or more of {', '.join(CORRUPTIONS)}")
        self.enabled = enabled
        self.corruptions = list(CORRUPTIONS if corruptions is None else dict.fromkeys(corruptions))
        self.seed = seed
        self.figures = figures
        self._folder: Path | None = None
        self._counts: Tensor | None = None
        self._result: dict[str, Any] | None = None

    @property
    def _conditions(self) -> list[tuple[str, int]]:
        return [(name, strength) for name in self.corruptions for strength in STRENGTHS]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.enabled or stage != "test":
            return
        fits = getattr(pl_module, "gives", "probabilities") == "probabilities"
        found = f"true for the robustness of {type(pl_module).__name__}, which is a detector"
        require(fits, "enabled", found, "a classifier of expressions")
        self._folder = run_folder(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._result = None
        if self.enabled:
            rank_zero_info(
                f"robustness: each test image is classified {len(self._conditions)} times more, under "
                f"{counted(len(self.corruptions), 'corruption')} in {len(STRENGTHS)} strengths"
            )
            # By pass, true and predicted class; one more class is predicted where probabilities are not finite.
            passes, number = 1 + len(self._conditions), len(class_names(pl_module)) + 1
            self._counts = torch.zeros(passes, number, number, dtype=torch.int64, device=pl_module.device)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self._counts is None:
            return
        image, index = batch["image"], batch["index"]
        if image.dtype != torch.uint8:
            raise FaceExprError(
                f"the test images are {image.dtype}; expected uint8, 0 to 255, for robustness: that is what is "
                "corrupted"
            )
        # Found on the host, where the index is, the rows to count cost no wait for the device.
        rows = (index != PADDING).nonzero().flatten().to(image.device, non_blocking=True)
        target = outputs["target"][rows]
        labels = target.argmax(dim=1) if target.ndim == 2 else target
        self._counts[0] += _count(outputs["probabilities"][rows], labels)
        for place, (name, strength) in enumerate(self._conditions, start=1):
            spoilt = {**batch, "image": corrupt(image, index, name, strength, self.seed)}
            # Through the strategy, which knows the precision of the run and how the model is spread over devices.
            found: Mapping[str, Tensor] = trainer.strategy.predict_step(spoilt, batch_idx)
            self._counts[place] += _count(found["probabilities"][rows], labels)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._counts is None:
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum").numpy(force=True)
        self._counts = None
        for (name, strength), found in zip(self._conditions, counts[1:], strict=True):
            if broken := found[:, -1].sum():
                raise FaceExprError(
                    f"the probabilities of {broken:,} of {found.sum():,} samples are not finite under {name} of "
                    f"strength {strength}; expected finite ones whatever the image: look at the network"
                )
        self._result = score_robustness(counts[:, :-1, :-1], self.corruptions, class_names(pl_module), self.seed)
        log_values(pl_module, {"test/corrupted_accuracy": self._result["mean"]["accuracy"]})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._result is None or not trainer.is_global_zero:
            return
        say(summarise(self._result))
        if self._folder is not None:
            text = json.dumps(self._result, indent=2, allow_nan=False)
            write_file(self._folder / "robustness.json", text + "\n")
            # The clean pass comes first, with strength 0 and without a value.
            rows = [["none", 0, "", self._result["n"], *self._result["clean"].values()]]
            for name, own in self._result["corruptions"].items():
                rows += [[name, *one.values()] for one in own["strengths"]]
            table = csv_text(["corruption", "strength", "value", "n", *MEASURED], rows)
            write_file(self._folder / "robustness.csv", table)
            rank_zero_info(f"robustness: {self._folder / 'robustness.json'}")
        if self.figures and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            drawn = {
                "robustness": robustness_curves(self._result, "Accuracy under corruptions, test"),
                "robustness_examples": corrupted_faces(self.corruptions, self.seed),
            }
            show_figures(trainer, "test", drawn, self._folder)


def _count(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the number of samples by true and predicted class, (C + 1, C + 1); the last class is of no numbers."""
    number = probabilities.shape[1]
    predicted = probabilities.argmax(dim=1).where(probabilities.isfinite().all(dim=1), number)
    return multiclass_confusion_matrix(predicted, labels, number + 1, validate_args=False)


def score_robustness(
    confusion: NDArray[np.int64], corruptions: Sequence[str], names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Compute the metrics of each pass, as plain values for ``robustness.json``.

    Args:
        confusion: int64 (1 + corruptions * strengths, C, C), number of samples by true class (row) and predicted class
            (column): of the clean pass, then of each corruption's strengths in turn.
        corruptions: their names.
        names: of the C classes.
        seed: of what was drawn at random.

    Returns:
        ``n``, ``seed``, the metrics of the ``clean`` images, their ``mean`` over all passes (of the accuracy, the mean
        corruption accuracy), the ``relative_drop`` from clean to mean, None where clean is 0, and under
        ``corruptions`` for each its unit, its mean and its strengths.
    """
    passes = []
    for counts in confusion:
        values, _ = count_scores(counts, names)
        passes.append({"n": int(counts.sum()), **{metric: values[metric] for metric in MEASURED}})
    clean, *others = passes
    mean = _mean(others)
    found = {}
    for place, name in enumerate(corruptions):
        own = others[place * len(STRENGTHS) :][: len(STRENGTHS)]
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


def summarise(found: Mapping[str, Any]) -> str:
    """Return the accuracies as a table for the console."""
    corrupted = found["corruptions"]
    width = max(len("corruption"), *map(len, corrupted))
    lines = [
        f"robustness: {counted(found['n'], 'sample')}, accuracy by strength; clean {found['clean']['accuracy']:.2%}",
        f"  {'corruption':<{width}} {''.join(f'{strength:>8}' for strength in STRENGTHS)} {'mean':>8}",
    ]
    for name, own in corrupted.items():
        cells = "".join(f"{one['accuracy']:8.2%}" for one in own["strengths"])
        lines.append(f"  {name:<{width}} {cells} {own['mean']['accuracy']:8.2%}")
    drop = found["relative_drop"]["accuracy"]
    lost = "" if drop is None else f", {drop:.1%} below the clean one"
    number = counted(len(corrupted), "corruption")
    return "\n".join([*lines, f"  mean accuracy under {number}: {found['mean']['accuracy']:.2%}{lost}"])
