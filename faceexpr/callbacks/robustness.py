"""How a classifier stands what cameras and detectors do to faces: its accuracy under corruptions of the test images."""

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
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from faceexpr.callbacks import robustness_report as reports
from faceexpr.callbacks.evaluation import log, rehearsal, show_figures
from faceexpr.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from faceexpr.data.loading import PADDING
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted
from faceexpr.visualization import robustness as drawing


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
            raise FaceExprError(
                f"robustness.corruptions is {corruptions}; expected one or more of {', '.join(CORRUPTIONS)}"
            )
        self.enabled = enabled
        self.corruptions = list(CORRUPTIONS if corruptions is None else dict.fromkeys(corruptions))
        self.seed = seed
        self.figures = figures
        self._folder: Path | None = None
        self._counts: CorruptionCounts | None = None
        self._result: reports.Result | None = None

    @property
    def _conditions(self) -> list[tuple[str, int]]:
        return [(name, strength) for name in self.corruptions for strength in STRENGTHS]

    # Every process has to ask for the folder, and only before the strategy is torn down.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.enabled or stage != "test":
            return
        if getattr(pl_module, "gives", "probabilities") != "probabilities":
            raise FaceExprError(
                f"robustness.enabled is true, but {type(pl_module).__name__} is a detector; expected a classifier of "
                "expressions"
            )
        folder = trainer.log_dir
        self._folder = Path(folder) if folder is not None and not rehearsal(trainer) else None

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
                f"the test images are {image.dtype}; expected uint8, 0 to 255, for robustness.enabled: that is what "
                "is corrupted"
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
        self._result = reports.result(confusion, self.corruptions, names, self.seed)
        log(pl_module, {"test/corrupted_accuracy": self._result.mean("accuracy")})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._result is None or not trainer.is_global_zero:
            return
        say(reports.summary(self._result))
        if self._folder is not None:
            text = json.dumps(reports.record(self._result), indent=2, allow_nan=False)
            write_file(self._folder / "robustness.json", text + "\n")
            write_file(self._folder / "robustness.csv", reports.as_csv(self._result))
            rank_zero_info(f"robustness: {self._folder / 'robustness.json'}")
        if self.figures and not rehearsal(trainer):
            drawn = {
                "robustness": drawing.curves(self._result, "Accuracy under corruptions, test"),
                "robustness_examples": drawing.examples(self.corruptions, self.seed),
            }
            show_figures(trainer, "test", drawn, self._folder)


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
