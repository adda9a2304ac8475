"""Measure how a classifier stands what cameras and detectors do to faces: its accuracy under corruptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from faceexpr.callbacks.reports import csv_text, log_values, run_folder, show_figures
from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from faceexpr.data.loading import PADDING
from faceexpr.metrics.robustness import MEASURED, CorruptionCounts, score_robustness
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted
from faceexpr.visualization.robustness import curves, examples


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
        unknown = [name for name in corruptions or () if name not in CORRUPTIONS]
        if unknown or corruptions == []:
            raise FaceExprError(f"corruptions is {corruptions}; expected one or more of {', '.join(CORRUPTIONS)}")
        self.enabled = enabled
        self.corruptions = list(CORRUPTIONS if corruptions is None else dict.fromkeys(corruptions))
        self.seed = seed
        self.figures = figures
        self._folder: Path | None = None
        self._counts: CorruptionCounts | None = None
        self._result: dict[str, Any] | None = None

    @property
    def _conditions(self) -> list[tuple[str, int]]:
        return [(name, strength) for name in self.corruptions for strength in STRENGTHS]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.enabled or stage != "test":
            return
        if getattr(pl_module, "gives", "probabilities") != "probabilities":
            raise FaceExprError(
                f"enabled is true for the robustness of {type(pl_module).__name__}, which is a detector; expected a "
                "classifier of expressions"
            )
        self._folder = run_folder(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._result = None
        if self.enabled:
            rank_zero_info(
                f"robustness: each test image is classified {len(self._conditions)} times more, under "
                f"{counted(len(self.corruptions), 'corruption')} in {len(STRENGTHS)} strengths"
            )
            names: Sequence[str] = pl_module.class_names  # type: ignore[assignment]
            self._counts = CorruptionCounts(1 + len(self._conditions), len(names)).to(pl_module.device)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self._counts is None:
            return
        image, index, target = batch["image"], batch["index"], outputs["target"]
        if image.dtype != torch.uint8:
            raise FaceExprError(
                f"the test images are {image.dtype}; expected uint8, 0 to 255, for robustness: that is what is "
                "corrupted"
            )
        # Found on the host, where the index is, the rows to count cost no wait for the device.
        rows = (index != PADDING).nonzero().flatten().to(image.device, non_blocking=True)
        self._counts.update(0, outputs["probabilities"], target, rows)
        for place, (name, strength) in enumerate(self._conditions, start=1):
            spoilt = {**batch, "image": corrupt(image, index, name, strength, self.seed)}
            # Through the strategy, which knows the precision of the run and how the model is spread over devices.
            found: Mapping[str, Tensor] = trainer.strategy.predict_step(spoilt, batch_idx)
            self._counts.update(place, found["probabilities"], target, rows)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._counts is None:
            return
        confusion, broken = self._counts.compute()
        self._counts = None
        for place, (name, strength) in enumerate(self._conditions, start=1):
            if broken[place]:
                raise FaceExprError(
                    f"the probabilities of {broken[place]:,} of {confusion[place].sum():,} samples are not finite "
                    f"under {name} of strength {strength}; expected finite ones whatever the image: look at the network"
                )
        names: Sequence[str] = pl_module.class_names  # type: ignore[assignment]
        self._result = score_robustness(confusion, self.corruptions, names, self.seed)
        log_values(pl_module, {"test/corrupted_accuracy": self._result["mean"]["accuracy"]})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._result is None or not trainer.is_global_zero:
            return
        say(summarise(self._result))
        if self._folder is not None:
            text = json.dumps(self._result, indent=2, allow_nan=False)
            write_file(self._folder / "robustness.json", text + "\n")
            write_file(self._folder / "robustness.csv", list_passes(self._result))
            rank_zero_info(f"robustness: {self._folder / 'robustness.json'}")
        if self.figures and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            drawn = {
                "robustness": curves(self._result, "Accuracy under corruptions, test"),
                "robustness_examples": examples(self.corruptions, self.seed),
            }
            show_figures(trainer, "test", drawn, self._folder)


def list_passes(found: Mapping[str, Any]) -> str:
    """Return a CSV with a row for each pass; that of the clean one comes first, with strength 0 and without a value."""
    rows = [["none", 0, "", found["n"], *found["clean"].values()]]
    for name, own in found["corruptions"].items():
        rows += [[name, *one.values()] for one in own["strengths"]]
    return csv_text(["corruption", "strength", "value", "n", *MEASURED], rows)


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
