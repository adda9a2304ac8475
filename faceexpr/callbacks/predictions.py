"""Write predictions for images without labels as CSV.

Each input has a row, also one that could not be read, whose row says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from faceexpr.callbacks.record import run_folder
from faceexpr.callbacks.reports import class_names
from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.loading import FaceSplit
from faceexpr.metrics.collecting import SampleCollector
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import class_columns, counted, csv_text

SHOWN = 10
"""Number of predictions that are printed."""


class Row(NamedTuple):
    """What became of one input: probabilities (C,), or None where there are none, and the other columns."""

    source: str
    probabilities: NDArray[np.float32] | None
    status: str
    note: str

    def cells(self, names: Sequence[str]) -> list[object]:
        """Return the columns of the CSV; probabilities have six significant digits."""
        found = [""] * (1 + len(names))
        if self.probabilities is not None:
            found = [names[int(self.probabilities.argmax())], *(f"{value:.6g}" for value in self.probabilities)]
        return [self.source, *found, self.status, self.note]

    def line(self, names: Sequence[str], most: int = 3) -> str:
        """Return the source and its most probable classes, for the console."""
        if self.probabilities is None:
            return f"{self.source}: {self.status}{': ' if self.note else ''}{self.note}"
        order = np.argsort(-self.probabilities, kind="stable")[:most]
        found = ", ".join(f"{names[index]} {self.probabilities[index]:.1%}" for index in order)
        return f"{self.source}: {found}{f' ({self.note})' if self.note else ''}"


class PredictionWriter(Callback):
    """Write class probabilities as CSV, a row for each input, in the order of the inputs.

    Columns: ``source`` (the path, or the file and row), ``predicted``, the probability of each class under its name
    (``probability_`` and its name where that is another column's), ``status`` (``ok``, ``error``, or ``skipped`` where
    prediction was limited to fewer batches or has been stopped) and ``note``: why there is no prediction, or a remark.
    A prediction that is stopped, by Ctrl-C or an error, leaves the rows that the first process has finished.

    Args:
        path: where to write; by default ``predictions.csv`` in the run folder.
    """

    def __init__(self, path: str | None = None) -> None:
        if path is not None and Path(path).is_dir():
            raise FaceExprError(f"path is {path}, which is a folder; expected the name of a CSV file")
        self.path = path
        self.failed = 0
        """Number of inputs of the last run without a prediction, because they could not be read or it is not finite."""
        self._target: Path | None = None
        self._collector: SampleCollector | None = None
        self._done = False

    # Every process has to ask for the run folder, and only before the strategy is torn down.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        folder = run_folder(trainer, needed=True)
        default = None if folder is None else folder / "predictions.csv"
        self._target = default if self.path is None else Path(self.path)
        self._done = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collector = SampleCollector(len(class_names(pl_module)), labelled=False).to(pl_module.device)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        assert self._collector is not None
        self._collector.update(batch["index"], outputs["probabilities"])

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._collector is not None
        table, self._collector = self._collector.compute(), None
        self._finish(trainer, pl_module, table)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._collector is not None and self._collector.probabilities and trainer.is_global_zero:
            # Not of all processes, which have stopped elsewhere and would wait for one another.
            self._write(trainer, pl_module, self._collector.gathered(), "were left out, since prediction was stopped")
        self._collector = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict" and not self._done:
            # Where no input could be read, the loop has no batch and runs none of its hooks.
            empty = np.empty((0, len(class_names(pl_module))), dtype=np.float32)
            self._finish(trainer, pl_module, SampleTable(np.empty(0, dtype=np.int64), empty, None))

    def _finish(self, trainer: Trainer, pl_module: LightningModule, table: SampleTable) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it at run time
        if not isinstance(datamodule, ExpressionDataModule):
            raise FaceExprError("predictions are written for the images of an ExpressionDataModule only")
        datamodule.split("predict").share_findings()
        self._done = True
        self._write(trainer, pl_module, table, "were left out by limit_predict_batches")

    def _write(self, trainer: Trainer, pl_module: LightningModule, table: SampleTable, why_skipped: str) -> None:
        names = class_names(pl_module)
        split = trainer.datamodule.split("predict")  # type: ignore[attr-defined]
        rows = list_rows(split, table)
        unread, skipped = len(split.failures) + len(split.broken), sum(row.status == "skipped" for row in rows)
        self.failed = sum(row.status == "error" for row in rows)
        if not trainer.is_global_zero:
            return
        if self._target is not None:
            before, after = ("source", "predicted"), ("status", "note")
            header = [*before, *class_columns(names, before + after), *after]
            write_file(self._target, csv_text(header, [row.cells(names) for row in rows]))
        for row in rows[:SHOWN]:
            say(row.line(names))
        if len(rows) > SHOWN:
            say(f"... and {len(rows) - SHOWN:,} more")
        if self._target is not None:
            say(f"{counted(len(rows), 'row')} written to {self._target}")
        for number, what in (
            (unread, "could not be read; the note of each row says why"),
            (self.failed - unread, "have probabilities that are not finite"),
            (skipped, why_skipped),
        ):
            if number:
                say(f"{number:,} of {len(rows):,} inputs {what}")


def list_rows(split: FaceSplit, table: SampleTable) -> list[Row]:
    """Return a row for each input, read or not, in the order of the inputs."""
    found = dict(zip(table.indices.tolist(), table.probabilities, strict=True))
    failures = {failure.position: failure for failure in split.failures}
    rows: list[Row] = []
    index = 0
    for position in range(len(split) + len(split.failures)):
        if position in failures:
            rows.append(Row(failures[position].source, None, "error", failures[position].reason))
            continue
        probabilities, note, status = found.get(index), split.notes.get(index, ""), "ok"
        if index in split.broken:
            probabilities, status, note = None, "error", split.broken[index]
        elif probabilities is None:
            status = "skipped"
        elif not np.isfinite(probabilities).all():
            note = "; ".join(filter(None, ("probabilities are not finite", note)))
            probabilities, status = None, "error"
        rows.append(Row(split.sources[index], probabilities, status, note))
        index += 1
    return rows
