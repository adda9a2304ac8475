"""Numbers, rows and tables of the page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.paper.commands import training
from experiments.paper.experiments import Experiment
from experiments.paper.results import Run
from faceexpr.metrics.comparison import over_seeds
from faceexpr.utils.text import markdown_table

NOT_RUN = "not run"
MADE_BY = ("command", "seed", "hardware", "minutes")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, and an empty line after it."""
    return [*markdown_table(heads, rows), ""]


def percent(value: float) -> str:
    """Return a share in percent with two decimals, as the paper prints accuracies."""
    return f"{100 * value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Return shares of several seeds in percent: their mean and, of two or more, the standard deviation."""
    if not values:
        return NOT_RUN
    over = over_seeds(values)
    if over.deviation is None:
        return percent(over.mean)
    return f"{percent(over.mean)} ± {percent(over.deviation)}"


def measured(runs: Sequence[Run], metric: str, stage: str = "test") -> str:
    """Return a metric of runs that differ in their seed."""
    return spread([getattr(run, stage)[metric] for run in runs])


def interval(run: Run) -> str:
    """Return the bootstrap interval of the test accuracy."""
    low, high = run.test["accuracy_interval"]
    return f"{percent(low)} to {percent(high)}"


def made_by(experiment: Experiment, runs: Sequence[Run]) -> list[str]:
    """Return how runs were made: command, seeds, hardware and minutes of each."""
    if not runs:
        return [f"`{plain_command(experiment)}`", "", "", "takes a GPU" if experiment.gpu else NOT_RUN]
    minutes = over_seeds([run.minutes for run in runs]).mean
    return [
        f"`{without_seed(runs[0].record.command)}`",
        ", ".join(str(run.seed) for run in runs),
        "; ".join(sorted({run.record.hardware for run in runs})),
        f"{minutes:.1f}",
    ]


def plain_command(experiment: Experiment) -> str:
    """Return the command of an experiment that was not run."""
    return without_seed(shlex.join(["faceexpr", *training(experiment, 0, Path()).args]))


def without_seed(command: str) -> str:
    """Return a command but for its last option, the seed, which has a column of its own."""
    return re.sub(r" --seed(_everything)? \d+$", "", command)
