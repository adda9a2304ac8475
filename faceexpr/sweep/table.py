"""The trials of a sweep as a table: rows from the study, CSV for machines, and lines for the console."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from faceexpr.sweep.queue import OVER, REASON
from faceexpr.sweep.sampling import POINT
from faceexpr.sweep.space import Plain, Point, as_text

SECONDS = "seconds"
MEASURED = "metrics"
"""Attributes of a trial: how long it ran, and its metrics at the best epoch."""

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")
"""What the table has of each trial beside the metric that decides."""

CLASS_PATH = re.compile(r"(?:\w+\.)+([A-Z]\w*)")


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
        if POINT not in trial.user_attrs or not (failed or trial.state in OVER):
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


def shown(value: Plain) -> str:
    """Return a value for people: a class without its module, a number with few digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = as_text(value)
    match = CLASS_PATH.fullmatch(text)
    return match[1] if match else text
