"""Write what a sweep leaves in its folder and on the console: the table, the figure, the best configuration."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from faceexpr.sweep.space import Point, as_text, shown
from faceexpr.utils.files import say, write_file

POINT, SECONDS, MEASURED, REASON = "point", "seconds", "metrics", "reason"
"""Attributes of a trial: the number of its point, how long it ran, its metrics at the best epoch, and why it failed or
was pruned. A failed trial without a reason was interrupted."""

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")
"""What the table has of each trial beside the metric that decides."""


@dataclass(frozen=True)
class Row:
    """One trial that is over.

    Args:
        trial: number of its point, and of its folder.
        status: ``done``, ``pruned`` or ``failed``.
        parameters: by option.
        value: the metric that decides, at the best epoch; None where it was never measured.
        seconds: how long it ran, its start included.
        metrics: others at the best epoch, by name.
        reason: why it failed or was pruned.
    """

    trial: int
    status: str
    parameters: Point
    value: float | None = None
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""


def read_rows(trials: Sequence[FrozenTrial], mode: str) -> list[Row]:
    """Return the rows of all trials that are over, by point.

    Args:
        trials: of the study, in the order of their numbers.
        mode: whether ``max`` or ``min`` is better.
    """
    rows: dict[int, Row] = {}
    for trial in trials:
        failed = trial.state is TrialState.FAIL and REASON in trial.user_attrs
        if POINT not in trial.user_attrs or not (failed or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)):
            continue
        point = trial.user_attrs[POINT]
        if failed and point in rows and rows[point].status != "failed":
            continue
        rows[point] = Row(
            point,
            "failed" if failed else "done" if trial.state is TrialState.COMPLETE else "pruned",
            dict(trial.params),
            best_value(trial, mode),
            trial.user_attrs.get(SECONDS),
            trial.user_attrs.get(MEASURED, {}),
            trial.user_attrs.get(REASON, ""),
        )
    return [rows[point] for point in sorted(rows)]


def best_value(trial: FrozenTrial, mode: str) -> float | None:
    """Return the best of the values that a trial has reported; those that are not finite do not count."""
    values = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
    if not values:
        return None
    return max(values) if mode == "max" else min(values)


def ranked(rows: Sequence[Row], mode: str) -> list[Row]:
    """Return the rows from the best to the worst: those that are done, the pruned, the failed."""
    order = ("done", "pruned", "failed")

    def key(row: Row) -> tuple[int, float, int]:
        value = math.inf if row.value is None else row.value if mode == "min" else -row.value
        return order.index(row.status), value, row.trial

    return sorted(rows, key=key)


def best_row(rows: Sequence[Row], mode: str) -> Row | None:
    """Return the best trial that is done; the first among equals."""
    done = [row for row in ranked(rows, mode) if row.status == "done"]
    return done[0] if done else None


def as_csv(rows: Sequence[Row], parameters: Sequence[str], monitor: str) -> str:
    """Return the table as CSV text; a column for the metric that decides and one for each other."""
    others = [name for name in METRICS if f"val/{name}" != monitor]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", "seconds", *parameters, monitor, *(f"val/{name}" for name in others), "reason"])
    for row in rows:
        writer.writerow(
            [
                folder_name(row.trial),
                row.status,
                "" if row.seconds is None else f"{row.seconds:.1f}",
                *(as_text(row.parameters[name]) if name in row.parameters else "" for name in parameters),
                _number(row.value),
                *(_number(row.metrics.get(name)) for name in others),
                row.reason,
            ]
        )
    return text.getvalue()


def _number(value: float | None) -> str:
    # What has been through float32 has seven digits; the others are noise.
    return "" if value is None else f"{value:.7g}"


def as_lines(rows: Sequence[Row], parameters: Sequence[str], monitor: str) -> str:
    """Return the table for the console, in the order given."""
    cells = [["trial", "status", *parameters, monitor, "seconds", ""]]
    for row in rows:
        values = [shown(row.parameters[name]) if name in row.parameters else "-" for name in parameters]
        value = "-" if row.value is None else f"{row.value:.4f}"
        seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
        cells.append([folder_name(row.trial), row.status, *values, value, seconds, row.reason])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def folder_name(point: int) -> str:
    """Return the name of the run folder of a point."""
    return f"trial_{point:03d}"


def described(point: Point) -> str:
    """Return a point for people."""
    return "  ".join(f"{name} {shown(value)}" for name, value in point.items())


@dataclass(frozen=True)
class Reporter:
    """Where a sweep's results go and what they are about.

    Args:
        folder: of the sweep.
        parameters: the options that were swept.
        monitor: the metric that decides.
        mode: whether ``max`` or ``min`` is better.
    """

    folder: Path
    parameters: Sequence[str]
    monitor: str
    mode: str

    def table(self, rows: Sequence[Row]) -> None:
        """Write ``table.csv``."""
        write_file(self.folder / "table.csv", as_csv(rows, self.parameters, self.monitor))

    def results(self, study: Study, rows: Sequence[Row], planned: int) -> None:
        """Write the table and the figure, and print the trials from the best to the worst.

        Args:
            study: of the sweep.
            rows: the trials that are over.
            planned: number of all trials.
        """
        self.table(rows)
        say(as_lines(ranked(rows, self.mode), self.parameters, self.monitor))
        if len(rows) < planned:
            say(f"{len(rows)} of {planned} trials are over")
        files = [self.folder / "table.csv"]
        if best_row(rows, self.mode) is not None:
            files.append(self.folder / "sweep.png")
            write_file(files[-1], self._figure(study))
        say(f"written: {', '.join(map(str, files))}")

    def _figure(self, study: Study) -> bytes:
        """Draw the metric at the best epoch against each parameter, by Optuna."""
        from matplotlib import pyplot

        axes: Any = optuna.visualization.matplotlib.plot_slice(study, target_name=f"{self.monitor}, best epoch")
        figure = np.ravel(axes)[0].figure
        figure.suptitle(f"Sweep {self.folder.name}")
        content = io.BytesIO()
        figure.savefig(content, format="png", bbox_inches="tight")
        pyplot.close(figure)
        return content.getvalue()

    def best(self, rows: Sequence[Row]) -> Row | None:
        """Return the best trial, and print it with the command that measures it."""
        best = best_row(rows, self.mode)
        if best is None:
            say("no trial is done, so none is the best")
            return None
        run = self.folder / folder_name(best.trial)
        say(f"best: {run}, {self.monitor} {best.value:.4f}")
        say(f"again: {self._again()}")
        say(f"measure it with: {shlex.join(['faceexpr', 'test', '--ckpt_path', str(run)])}")
        return best

    def configuration(self, best: Row, rows: Sequence[Row], config: str) -> None:
        """Write ``best.yaml``.

        Args:
            best: the best trial.
            rows: all trials that are over.
            config: the configuration of the best trial.
        """
        heading = f"# The best of {len(rows)} trials by {self.monitor} ({best.value:.4f}), {folder_name(best.trial)}:"
        write_file(self.folder / "best.yaml", f"{heading} {described(best.parameters)}\n#   {self._again()}\n{config}")

    def _again(self) -> str:
        return shlex.join(["faceexpr", "fit", "--config", str(self.folder / "best.yaml")])
