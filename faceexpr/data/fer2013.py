"""FER-2013 (Goodfellow et al., 2013): 35,887 grey images of 48x48 pixels; the paper's Dataset 2, section 3.2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.data.augment import Augmentation
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.fer2013_csv import USAGES, read_columns
from faceexpr.data.fer2013_table import BadRowPolicy, FerTable, read_table
from faceexpr.data.leaks import leaked, without_leaks
from faceexpr.data.loading import FaceSplit
from faceexpr.data.module import Stage
from faceexpr.utils.errors import FaceExprError

USAGE_OF: dict[Stage, int] = {"train": 0, "val": 1, "test": 2, "predict": 2}
"""The code of the column Usage for each split: Training, PublicTest, PrivateTest, PrivateTest."""

_WHOLE = ("fer2013.csv", "fer2013.csv.gz", "fer2013/fer2013.csv", "icml_face_data.csv", "icml_face_data.csv.gz")
_TRAIN = ("train.csv", "train.csv.gz")
_TEST = ("test.csv", "test.csv.gz")


class FER2013(ExpressionDataModule):
    """FER-2013 from its CSV file, in any of the forms that are in circulation.

    The column Usage gives the splits: Training to train, PublicTest to validate, PrivateTest to test and predict.
    Kaggle's train.csv has no such column: a part of it, equal in every class, is held out for validation; test.csv
    beside it is what predict reads, and what test reads if it has labels.

    The first start parses the file (seconds), later ones map a cache of it into memory.

    Args:
        path: fer2013.csv, icml_face_data.csv, train.csv or test.csv, plain or compressed (.gz), or the folder that
            holds one of them.
        batch_size: images in a batch of one process.
        augment: random changes to the training images; all are off by default.
        drop_last: leave an incomplete last batch out of each training epoch.
        global_batch_size: images in a training step of all processes together; each takes its part. By default
            batch_size times the number of processes.
        on_bad_row: what to do about rows that cannot be read: ``stop`` lists them with their lines and reasons,
            ``skip`` leaves them out and says how many and why.
        holdout: fraction of a file without Usage that is held out for validation, above 0 and below 1.
        holdout_seed: seed of that choice.
        cache_dir: folder for the cache; by default ``.faceexpr-cache`` beside the file, or the user's cache folder
            where that cannot be written.
        drop_leaked: leave out of validation and test the images that are pixel-equal to a training image.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 128,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        on_bad_row: BadRowPolicy = "stop",
        holdout: float = 0.1,
        holdout_seed: int = 0,
        cache_dir: str | None = None,
        drop_leaked: bool = False,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size, augment=augment, drop_last=drop_last, global_batch_size=global_batch_size
        )
        if not 0 < holdout < 1:
            raise FaceExprError(f"data.holdout is {holdout}; expected a fraction above 0 and below 1")
        if holdout_seed < 0:
            raise FaceExprError(f"data.holdout_seed is {holdout_seed}; expected 0 or more")
        self.path = path
        self.on_bad_row = on_bad_row
        self.holdout = holdout
        self.holdout_seed = holdout_seed
        self.cache_dir = cache_dir
        self.drop_leaked = drop_leaked
        self._tables: dict[Path, FerTable] = {}
        self._held_out: npt.NDArray[np.bool_] | None = None

    def prepare_data(self) -> None:
        # One process a node fills the cache before the others look for it.
        fitting = self.trainer is None or self.trainer.state.fn in ("fit", "validate")
        self._table(find_files(self.path).of("val" if fitting else "predict"))

    def load_split(self, stage: Stage) -> FaceSplit:
        files = find_files(self.path)
        file = files.of(stage)
        table = self._table(file)
        if stage != "predict" and not table.has_labels:
            raise FaceExprError(
                f"{file} has no labels (no column emotion), so there is nothing to train on or to measure against in "
                f"the {stage} split; expected labels 0 to 6 (unlabelled images are for `faceexpr predict`)"
            )
        if file == files.test:
            return table.everything()
        if table.has_usage:
            split = usage_split(table, stage)
            return self._checked_for_leaks(split, stage, table) if self.drop_leaked else split
        if stage == "predict":
            return table.everything()
        if stage == "test":
            raise FaceExprError(
                f"{file} has no column Usage and no test.csv stands beside it, so there is no test split; expected "
                "fer2013.csv, or a test.csv with labels"
            )
        held_out = self._holdout(table)
        rows = np.flatnonzero(held_out if stage == "val" else ~held_out)
        return table.labelled(rows, bad=np.zeros(len(table.bad_lines), dtype=np.bool_))

    def leaked(self, stage: Stage) -> npt.NDArray[np.bool_] | None:
        table = self._table(find_files(self.path).of(stage))
        training = table.with_usage(USAGE_OF["train"])
        return leaked(self.split(stage), training) if stage != "train" and len(training) else None

    def _checked_for_leaks(self, split: FaceSplit, stage: Stage, table: FerTable) -> FaceSplit:
        if stage == "train":
            return split
        kept = without_leaks(split, usage_split(table, "train"))
        rank_zero_info(
            f"{table.path}: {len(split) - len(kept):,} of {len(split):,} images of the {stage} split are pixel-equal "
            "to a training image and are left out (data.drop_leaked)"
        )
        return kept

    def _table(self, file: Path) -> FerTable:
        if file not in self._tables:
            self._tables[file] = read_table(file, self.on_bad_row, self.cache_dir)
        return self._tables[file]

    def _holdout(self, table: FerTable) -> npt.NDArray[np.bool_]:
        if self._held_out is None:
            if len(table) < 2:
                raise FaceExprError(f"{table.path} holds 1 row; expected 2 or more, to hold some out for validation")
            self._held_out = stratified_holdout(table.labels, self.holdout, self.holdout_seed)
            rank_zero_info(
                f"{table.path} has no column Usage: {self._held_out.sum():,} of {len(table):,} rows are held out for "
                f"validation, the same share of every class (data.holdout={self.holdout}, "
                f"data.holdout_seed={self.holdout_seed})"
            )
        return self._held_out


def usage_split(table: FerTable, stage: Stage) -> FaceSplit:
    """Return the rows whose Usage belongs to a stage.

    Raises:
        FaceExprError: there is no such row.
    """
    split = table.with_usage(USAGE_OF[stage])
    if len(split) == 0 and not split.failures:
        raise FaceExprError(
            f"{table.path} has no row with Usage {USAGES[USAGE_OF[stage]]}, so there is no {stage} split; expected the "
            "whole of FER-2013"
        )
    return split


def stratified_holdout(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose rows at random, the same share of every class and ``fraction`` of all, at least one and never all.

    Args:
        labels: int64 (N,) with N of 2 or more.
        fraction: above 0 and below 1.
        seed: the choice depends on it and on the labels only.

    Returns:
        bool (N,), True for the chosen rows.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Taking those with the smallest shares takes from each class in proportion and hits the total exactly.
    count = min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[shuffled[np.argsort(share[shuffled], kind="stable")[:count]]] = True
    return chosen


@dataclass(frozen=True)
class FerFiles:
    """The files that a path stands for.

    Attributes:
        main: the file with the rows to train on; None where there is only Kaggle's test.csv.
        test: Kaggle's test.csv, where ``main`` does not say itself which rows are for the test.
    """

    main: Path | None
    test: Path | None

    def of(self, stage: Stage) -> Path:
        """Return the file that a stage reads.

        Raises:
            FaceExprError: there is none.
        """
        if stage in ("test", "predict") and self.test is not None:
            return self.test
        if self.main is None:
            raise FaceExprError(
                f"data.path: {self.test} is for test and predict only; expected train.csv or fer2013.csv"
            )
        return self.main


def find_files(path: str) -> FerFiles:
    """Find the files that a path, to a file or a folder, stands for.

    Raises:
        FaceExprError: there is nothing there, or nothing of FER-2013.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FaceExprError(f"data.path: {place} does not exist; expected fer2013.csv or the folder that holds it")
    if place.is_dir():
        main, test = _first(place, (*_WHOLE, *_TRAIN)), _first(place, _TEST)
        if main is None and test is None:
            raise FaceExprError(
                f"data.path: the folder {place} holds no file of FER-2013; expected fer2013.csv, icml_face_data.csv, "
                "train.csv or test.csv, plain or as .gz"
            )
    elif place.name.lower() in _TEST:
        main, test = None, place
    else:
        main, test = place, _first(place.parent, _TEST) if place.name.lower() in _TRAIN else None
    if main is not None and read_columns(main).usage is not None:
        test = None
    return FerFiles(main, test)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
