"""FER+ (Barsoum et al., 2016): FER-2013's images with the votes of ten people on each; the paper's Fig. 18.

The article: "Training deep networks for facial expression recognition with crowd-sourced label distribution", ICMI.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.augment import Augmentation
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.draws import uniform
from faceexpr.data.fer2013 import USAGE_OF, find_files
from faceexpr.data.fer2013_csv import NO_LABEL, USAGES
from faceexpr.data.fer2013_table import BadRowPolicy, FerTable, read_table
from faceexpr.data.ferplus_labels import NumClasses, majority_labels, soft_labels
from faceexpr.data.ferplus_votes import Votes, matched, read_votes
from faceexpr.data.leaks import leaked
from faceexpr.data.loading import FaceSplit, Selection
from faceexpr.data.module import Stage
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES, FERPLUS_NAMES

USUAL_AGREEMENT = 0.68
"""Share of the majority labels that equal FER-2013's own, files in their original order."""

_CHANCE = 0.18
"""The same share where votes and images are matched wrongly."""

_ENOUGH = 1000
"""Images from which the share means something."""

RULES = {"majority": "more than half of the votes", "soft": "most votes on emotions, the first class where it is a tie"}
"""What the label of an image is, by what is evaluated."""

_DRAWING = 1
"""Tells the random numbers that draw labels from those that change images."""


class FERPlus(ExpressionDataModule):
    """FER+: the images of FER-2013 with labels from the votes of ten people.

    Votes are matched to images by the order of the rows. Votes that nobody shares are removed; then a majority label
    is what more than half of the remaining votes are for. Rows without one (ties, unknown, not a face, contempt with
    7 classes) are dropped, and the number is printed for each reason and split; so is the number that stays, on which
    every published figure depends. `faceexpr.data.ferplus_labels` has the rule in full.

    Training can use the whole distribution instead. Validation, test and predict take the images with a majority label,
    whatever training uses, so that accuracies compare. Their targets are the distributions, whose highest share is that
    label: one pass gives the accuracy and the distance to the votes.

    Args:
        path: FER-2013's CSV file with the column Usage (fer2013.csv or icml_face_data.csv), or its folder.
        votes: FER+'s fer2013new.csv, or its folder.
        labels: of the training images: ``majority``; ``soft``, the fractions of the votes on each emotion; ``drawn``,
            one emotion drawn from those fractions each time that an image is used.
        classes: 7, in the order of FER-2013, or 8 with Contempt as index 7.
        batch_size: images in a batch of one process.
        augment: random changes to the training images; all are off by default.
        drop_last: leave an incomplete last batch out of each training epoch.
        global_batch_size: images in a training step of all processes together; each takes its part. By default
            batch_size times the number of processes.
        on_bad_row: what to do about images that cannot be read: ``stop`` lists them with their lines and reasons,
            ``skip`` leaves them and their votes out and says how many and why.
        cache_dir: folder for the cache; by default ``.faceexpr-cache`` beside the file, or the user's cache folder
            where that cannot be written.
        evaluate: images of validation, test and predict: those with a ``majority`` label, or all with a ``soft`` one,
            where votes are divided too; an accuracy is then of the emotion with most votes, which may be tied.
    """

    def __init__(
        self,
        path: str,
        votes: str,
        labels: Literal["majority", "soft", "drawn"] = "majority",
        classes: NumClasses = 7,
        batch_size: int = 128,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        on_bad_row: BadRowPolicy = "stop",
        cache_dir: str | None = None,
        global_batch_size: int | None = None,
        evaluate: Literal["majority", "soft"] = "majority",
    ) -> None:
        if evaluate not in RULES:
            raise FaceExprError(f"data.evaluate is {evaluate!r}; expected majority or soft")
        if labels not in ("majority", "soft", "drawn"):
            raise FaceExprError(f"data.labels is {labels!r}; expected majority, soft or drawn")
        if classes not in (7, 8):
            raise FaceExprError(f"data.classes is {classes}; expected 7, or 8 with contempt")
        super().__init__(
            batch_size=batch_size,
            augment=augment,
            drop_last=drop_last,
            class_names=FER_NAMES if classes == 7 else FERPLUS_NAMES,
            global_batch_size=global_batch_size,
        )
        self.path = path
        self.votes = votes
        self.labels = labels
        self.evaluate = evaluate
        self.classes: NumClasses = classes
        self.on_bad_row = on_bad_row
        self.cache_dir = cache_dir
        self._joined: tuple[FerTable, npt.NDArray[np.int64]] | None = None

    def prepare_data(self) -> None:
        # One process a node fills the cache before the others look for it.
        self._rows()

    def load_split(self, stage: Stage) -> FaceSplit:
        table, counts = self._rows()
        code = USAGE_OF[stage]
        rows = np.flatnonzero(table.usages == code)
        if len(rows) == 0:
            raise FaceExprError(
                f"{table.path} has no row with Usage {USAGES[code]}, so there is no {stage} split; expected the whole "
                "of FER-2013"
            )
        soft = (self.labels != "majority") if stage == "train" else (self.evaluate == "soft")
        labels = (soft_labels if soft else majority_labels)(counts[rows], self.classes)
        reasons = labels.counts()
        rank_zero_info(
            f"FERPlus: {labels.kept.sum():,} of {len(rows):,} images of the {stage} split have a "
            f"{'soft' if soft else 'majority'} label of {self.classes} classes; dropped: "
            + (", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none")
        )
        if not labels.kept.any():
            raise FaceExprError(
                f"{self.votes}: the votes leave no image of the {stage} split with a label of {self.classes} classes; "
                "expected images that more than half of the votes agree on"
            )
        # A majority label is the highest share of the soft one, which every row with a majority has.
        targets = labels.targets if stage == "train" else soft_labels(counts[rows], self.classes).targets
        split = table.split(rows[labels.kept], torch.from_numpy(targets[labels.kept]), bad=table.bad_usages == code)
        return split if stage == "train" else replace(split, selection=Selection(RULES[self.evaluate], reasons))

    def leaked(self, stage: Stage) -> npt.NDArray[np.bool_] | None:
        training = self._rows()[0].with_usage(USAGE_OF["train"])
        return leaked(self.split(stage), training) if stage != "train" and len(training) else None

    def augmented(self, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        if self.labels == "drawn":
            numbers = uniform(batch["index"], self.classes, (self.seed, epoch, _DRAWING))
            batch = {**batch, "target": drawn(batch["target"], numbers)}
        return super().augmented(batch, epoch)

    def _rows(self) -> tuple[FerTable, npt.NDArray[np.int64]]:
        """Return the images and the votes on each, read once."""
        if self._joined is None:
            file = find_files(self.path).of("train")
            table = read_table(file, self.on_bad_row, self.cache_dir)
            votes = read_votes(self.votes)
            self._joined = table, matched(votes, table)
            check_agreement(votes, *self._joined)
        return self._joined


def check_agreement(votes: Votes, table: FerTable, counts: npt.NDArray[np.int64]) -> None:
    """Warn where the votes contradict FER-2013's own labels so often that they must be about other images.

    Files that were put together again from images are often in another order than the original, with the right number
    of rows in every split: nothing else would tell.

    Args:
        votes: the label file.
        table: the images.
        counts: the votes matched to the images, (N, 10).
    """
    labels = majority_labels(counts, 8)
    compared = labels.kept & (table.labels != NO_LABEL)
    if compared.sum() < _ENOUGH:
        return
    share = float((labels.targets == table.labels)[compared].mean())
    if share < (USUAL_AGREEMENT + _CHANCE) / 2:
        rank_zero_warn(
            f"the labels of {table.path} and the votes of {votes.path} agree on {share:.0%} of the images, where "
            f"{USUAL_AGREEMENT:.0%} is usual: one of the files is not in the original order, and votes are given to "
            "the wrong images"
        )


def drawn(distributions: Tensor, numbers: npt.NDArray[np.float32]) -> Tensor:
    """Draw one class from each distribution.

    Args:
        distributions: (N, K), on any device; rows sum to 1.
        numbers: (N, K), uniform in [0, 1).

    Returns:
        int64 (N,), on the device of the distributions; the same classes on every device.
    """
    # Dividing by exponential numbers and taking the highest draws in the same proportions; half a step of float32 is
    # added to the uniform ones, so that none of these is 0.
    race = torch.from_numpy(-np.log(numbers.astype(np.float64) + 2.0**-25)).float()
    return (distributions / race.to(distributions.device, non_blocking=True)).argmax(1)
