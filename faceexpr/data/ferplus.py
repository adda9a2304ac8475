"""FER+ (Barsoum et al., 2016): FER-2013's images with the votes of ten people on each; the paper's Fig. 18.

The article: "Training deep networks for facial expression recognition with crowd-sourced label distribution", ICMI.

The rule from votes to labels: votes that nobody shares are removed first, as the article's reference code does; a row
without a vote then has no label: "no two votes agree".

Majority labels: a row's label is the choice of more than half of all remaining votes, those for unknown, not a face and
contempt among them. The row is dropped with that reason where the choice is unknown, not a face or, with 7 classes,
contempt; and as "no majority" where no choice has more than half, as in every tie.

Soft labels: a row's label is the share of each emotion in the votes on emotions, whether one has a majority or not. The
row is dropped as unknown, not a face or, with 7 classes, contempt, where that has at least as many votes as the best
emotion. Otherwise its votes for these are left out.

With 8 classes contempt is index 7. It is never counted as another emotion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from faceexpr.data.augment import uniform
from faceexpr.data.base import ExpressionDataModule, Stage
from faceexpr.data.fer2013 import (
    NO_LABEL,
    USAGES,
    BadRowError,
    BadRowPolicy,
    FerTable,
    csv_stream,
    find_file,
    list_problems,
    name_fields,
    parse_usage,
    read_header,
    read_rows,
    read_table,
    shorten,
)
from faceexpr.data.loading import FaceSplit, Selection
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES, FERPLUS_NAMES, canonical

COLUMNS = (*FERPLUS_NAMES, "unknown", "NF")
"""What can be voted for, in the order of `Votes.counts`: the eight emotions, then unknown and not a face."""

UNKNOWN = COLUMNS.index("unknown")
NOT_A_FACE = COLUMNS.index("NF")

_FILE_NAME = "fer2013new.csv"
_EXPECTED = "expected the columns Usage, neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, \
unknown and NF, as in fer2013new.csv"

NumClasses = Literal[7, 8]

CONTEMPT = len(FER_NAMES)

_REASON_OF = {NOT_A_FACE: "not a face", UNKNOWN: "unknown", CONTEMPT: "contempt"}
NO_MAJORITY = "no majority"
NO_AGREEMENT = "no two votes agree"
REASONS = (*_REASON_OF.values(), NO_MAJORITY, NO_AGREEMENT)
"""Why a row has no label."""

USUAL_AGREEMENT = 0.68
"""Share of the majority labels that equal FER-2013's own, files in their original order."""

_CHANCE = 0.18
"""The same share where votes and images are matched wrongly."""

_ENOUGH = 200
"""Images from which the share means something."""

RULES = {"majority": "more than half of the votes", "soft": "most votes on emotions, the first class where it is a tie"}
"""What the label of an image is, by what is evaluated."""

_DRAWING = 1
"""Tells the random numbers that draw labels from those that change images."""


class FERPlus(ExpressionDataModule):
    """FER+: the images of FER-2013 with labels from the votes of ten people.

    Votes are matched to images by the order of the rows, and become labels by the rule of the module. How many rows
    are dropped, for which reason, and how many stay is printed for each split: every published figure depends on it.

    Training can use the whole distribution instead. Validation, test and predict take the images with a majority label,
    whatever training uses, so that accuracies compare. Their targets are the distributions, whose highest share is that
    label: one pass gives the accuracy and the distance to the votes.

    Args:
        path: FER-2013's CSV file with the column Usage (fer2013.csv or icml_face_data.csv), or its folder.
        votes: FER+'s fer2013new.csv, or its folder.
        labels: of the training images: ``majority``; ``soft``, the fractions of the votes on each emotion; ``drawn``,
            one emotion drawn from those fractions each time that an image is used.
        classes: 7, in the order of FER-2013, or 8 with Contempt as index 7.
        on_bad_row: what to do about images that cannot be read: ``stop`` lists them with their lines and reasons,
            ``skip`` leaves them and their votes out and says how many and why.
        cache_dir: folder for the cache; by default ``.faceexpr-cache`` beside the file, or the user's cache folder
            where that cannot be written.
        evaluate: images of validation, test and predict: those with a ``majority`` label, or all with a ``soft`` one,
            where votes are divided too; an accuracy is then of the emotion with most votes, which may be tied.
        on_mismatch: what to do where votes and FER-2013's own labels agree hardly more often than by chance, as they do
            where one of the files is in another order: ``stop``, or ``warn`` and use the votes all the same.
        drop_leaked: leave out of validation and test the images that are pixel-equal to a training image.
        own_share: share of FER-2013's own label in the targets of the training images, from 0 to 1; the votes have the
            rest. It raises the rarest emotions, which ten voters seldom agree on. Not with majority labels.

    Raises:
        FaceExprError: if own_share is not from 0 to 1, or above 0 with majority labels.
    """

    def __init__(
        self,
        path: str,
        votes: str,
        labels: Literal["majority", "soft", "drawn"] = "majority",
        classes: NumClasses = 7,
        on_bad_row: BadRowPolicy = "stop",
        cache_dir: str | None = None,
        evaluate: Literal["majority", "soft"] = "majority",
        on_mismatch: Literal["stop", "warn"] = "stop",
        drop_leaked: bool = False,
        own_share: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not 0 <= own_share <= (labels != "majority"):
            raise FaceExprError(
                f"own_share is {own_share:g} with {labels} labels; expected 0 to 1, and 0 with majority labels"
            )
        super().__init__(**kwargs)
        self.class_names = FER_NAMES if classes == 7 else FERPLUS_NAMES
        self.path = path
        self.votes = votes
        self.labels = labels
        self.evaluate = evaluate
        self.classes: NumClasses = classes
        self.on_bad_row = on_bad_row
        self.cache_dir = cache_dir
        self.on_mismatch = on_mismatch
        self.drop_leaked = drop_leaked
        self.own_share = own_share

    def prepare_data(self) -> None:
        # One process a node fills the cache before the others look for it.
        self.rows  # noqa: B018

    def load_split(self, stage: Stage) -> FaceSplit:
        table, counts = self.rows
        rows = table.rows(stage)
        readable = table.readable[rows]
        votes = counts[rows[readable]]
        soft = (self.labels != "majority") if stage == "train" else (self.evaluate == "soft")
        labels = (soft_labels if soft else majority_labels)(votes, self.classes)
        reasons = labels.counts()
        rank_zero_info(
            f"FERPlus: {labels.kept.sum():,} of {len(votes):,} images of the {stage} split have a "
            f"{'soft' if soft else 'majority'} label of {self.classes} classes; dropped: "
            + (", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none")
        )
        if not labels.kept.any():
            raise FaceExprError(
                f"{self.votes}: the votes leave no image of the {stage} split with a label of {self.classes} classes; "
                "expected images that more than half of the votes agree on"
            )
        # A majority label is the highest share of the soft one, which every row with a majority has.
        targets = labels.targets if stage == "train" else soft_labels(votes, self.classes).targets
        if stage == "train" and self.own_share:
            if not table.has_labels:
                raise FaceExprError(f"own_share is {self.own_share:g}, and {self.path} has no labels; expected 0")
            own = np.eye(self.classes, dtype=np.float32)[table.labels[rows[readable]]]
            targets = (1 - self.own_share) * targets + self.own_share * own
        belongs = ~readable
        belongs[readable] = labels.kept
        split = table.split(rows[belongs], torch.from_numpy(targets[labels.kept]))
        return split if stage == "train" else replace(split, selection=Selection(RULES[self.evaluate], reasons))

    def find_leaked(self, split: FaceSplit) -> npt.NDArray[np.bool_] | None:
        table = self.rows[0]
        return split.find_leaked(self.corrections.correct(table.split(table.rows("train"))))

    def augmented(self, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        if self.labels == "drawn":
            numbers = uniform(batch["index"], self.classes, (self.seed, epoch, _DRAWING))
            batch = {**batch, "target": drawn(batch["target"], numbers)}
        return super().augmented(batch, epoch)

    @cached_property
    def rows(self) -> tuple[FerTable, npt.NDArray[np.int64]]:
        """The images and the votes on each, int64 (N, 10)."""
        table = read_table(find_file(self.path, "train"), self.on_bad_row, self.cache_dir)
        votes = read_votes(self.votes)
        check_match(votes, table, self.on_mismatch)
        return table, votes.counts


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


@dataclass(frozen=True)
class Labels:
    """Labels of rows.

    Attributes:
        targets: int64 class indices (N,) or float32 distributions (N, classes); meaningless where a row is dropped.
        dropped: one of `REASONS`, empty where a row has a label, str (N,).
    """

    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    dropped: npt.NDArray[np.str_]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Which rows have a label, bool (N,)."""
        return np.asarray(self.dropped == "")

    def counts(self) -> dict[str, int]:
        """Return how many rows were dropped for each reason, reasons without a row left out."""
        return {reason: int(count) for reason in REASONS if (count := (self.dropped == reason).sum())}


def majority_labels(counts: npt.NDArray[np.int64], classes: NumClasses) -> Labels:
    """Give each row the emotion that more than half of its votes (N, 10) are for: targets int64 (N,)."""
    votes = np.where(counts > 1, counts, 0)
    total, top = votes.sum(1), votes.argmax(1)
    dropped = _reasons(classes)[top]
    dropped[2 * votes.max(1) <= total] = NO_MAJORITY
    dropped[total == 0] = NO_AGREEMENT
    return Labels(np.where(dropped == "", top, 0), dropped)


def soft_labels(counts: npt.NDArray[np.int64], classes: NumClasses) -> Labels:
    """Give each row the distribution of its votes (N, 10) over the emotions.

    Targets are float32 (N, classes), whose rows sum to 1; all 0 where a row is dropped.
    """
    votes = np.where(counts > 1, counts, 0)
    emotions = votes[:, :classes]
    others = np.array([place for place in _REASON_OF if place >= classes])
    best_other = others[votes[:, others].argmax(1)]
    doubtful = votes[:, others].max(1) >= emotions.max(1)
    dropped = np.where(doubtful, _reasons(classes)[best_other], "")
    dropped[votes.sum(1) == 0] = NO_AGREEMENT
    # A row that is kept has an emotion with more votes than something else has, hence more than none.
    kept = (dropped == "")[:, None]
    targets = np.divide(emotions, emotions.sum(1, keepdims=True), out=np.zeros(emotions.shape), where=kept)
    return Labels(targets.astype(np.float32), dropped)


def _reasons(classes: NumClasses) -> npt.NDArray[np.str_]:
    """Return for each of `COLUMNS` why it is no label of the classes, empty where it is one; any reason has room."""
    reasons = ["" if place < classes else _REASON_OF[place] for place in range(len(COLUMNS))]
    return np.array(reasons, dtype=f"U{max(map(len, REASONS))}")


@dataclass(frozen=True)
class Votes:
    """A label file.

    Attributes:
        path: the file.
        counts: votes for each of `COLUMNS`, int64 (N, 10).
        usages: codes of the column Usage, uint8 (N,).
        lines: lines in the file, counted from 1, int64 (N,).
    """

    path: Path
    counts: npt.NDArray[np.int64]
    usages: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.int64]


def read_votes(path: str) -> Votes:
    """Read a label file, plain or compressed (.gz), or the one in a folder.

    A row that cannot be read is an error whatever is done about bad rows of images: rows are matched by order alone.

    Raises:
        FaceExprError: the file cannot be read, has other columns, or has rows that are not ten vote counts.
    """
    place = Path(path).expanduser()
    file = place / _FILE_NAME if place.is_dir() else place
    if not file.exists():
        raise FaceExprError(f"votes: {file} does not exist; expected FER+'s {_FILE_NAME}")
    rows: list[list[int]] = []
    problems: list[tuple[int, str]] = []
    with csv_stream(file) as stream:
        names = _read_columns(file, stream)
        for line, values in read_rows(stream):
            if not any(values):  # as spreadsheets leave at the end
                continue
            try:
                fields = name_fields(names, values)
                rows.append([line, parse_usage(fields["Usage"]), *(_parse_count(fields[name]) for name in COLUMNS)])
            except BadRowError as error:
                problems.append((line, str(error)))
    if problems:
        raise FaceExprError(
            f"{list_problems(file, problems, len(problems) + len(rows))}; correct them, since votes and images are "
            "matched row by row"
        )
    table = np.array(rows, dtype=np.int64).reshape(-1, 2 + len(COLUMNS))
    return Votes(path=file, counts=table[:, 2:], usages=table[:, 1].astype(np.uint8), lines=table[:, 0])


def _read_columns(file: Path, stream: BufferedIOBase) -> list[str]:
    """Read which of `COLUMNS` or Usage each column of a file is, told by its name; others are empty."""
    header = read_header(file, stream, _EXPECTED)
    others = {"usage": "Usage", "unknown": "unknown", "nf": "NF"}
    names = [canonical(name, FERPLUS_NAMES) or others.get(name.lower(), "") for name in header]
    if any(names.count(name) != 1 for name in ("Usage", *COLUMNS)):
        raise FaceExprError(
            f"{file} is not FER+'s label file: line 1 reads {shorten(', '.join(header), 60)}; {_EXPECTED}"
        )
    return names


def _parse_count(field: bytes) -> int:
    if not field.isdigit() or len(field) > 9:
        raise BadRowError(f"{shorten(field)} votes, expected a whole number, 0 or more")
    return int(field)


def check_match(votes: Votes, table: FerTable, on_mismatch: Literal["stop", "warn"] = "stop") -> None:
    """Check that votes and images belong together row by row, which is how they are matched.

    The number in a vote's image name is not the row's: it counts the named images only, and equals the row's index
    for 57 of 35,714.

    Files that were put together again from images are often in another order than the original, with the right number
    of rows in every split. Only FER-2013's own labels tell: where the votes contradict them so often that they must be
    about other images, it is an error, or where ``on_mismatch`` is ``warn`` a warning.

    Raises:
        FaceExprError: the files have different numbers of rows, or a row that belongs to different splits.
    """
    if not table.has_usage:
        raise FaceExprError(
            f"{table.path} has no column Usage; FER+ labels the whole of FER-2013, row by row: expected fer2013.csv"
        )
    if len(table.lines) != len(votes.lines):
        raise FaceExprError(
            f"{table.path} has {len(table.lines):,} rows and {votes.path} has {len(votes.lines):,}; expected one row "
            "of votes for each image, in the same order"
        )
    different = np.flatnonzero(table.readable & (table.usages != votes.usages))
    if len(different):
        row = int(different[0])
        raise FaceExprError(
            f"line {table.lines[row]} of {table.path} belongs to {USAGES[table.usages[row]]} and line "
            f"{votes.lines[row]} of {votes.path}, which is about the same image, to {USAGES[votes.usages[row]]} "
            f"({len(different):,} of {table.readable.sum():,} rows differ); expected the same images in the same order"
        )
    labels = majority_labels(votes.counts, 8)
    compared = labels.kept & (table.labels != NO_LABEL)
    share = float((labels.targets == table.labels)[compared].mean()) if compared.sum() >= _ENOUGH else 1.0
    if share < (USUAL_AGREEMENT + _CHANCE) / 2:
        doubt = (
            f"the labels of {table.path} and the votes of {votes.path} agree on {share:.0%} of the images, where "
            f"{USUAL_AGREEMENT:.0%} is usual and {_CHANCE:.0%} is chance: one of the files is not in the original "
            "order, and votes are given to the wrong images"
        )
        if on_mismatch == "stop":
            raise FaceExprError(f"{doubt}; expected the original order, or on_mismatch warn to use them all the same")
        rank_zero_warn(doubt)
