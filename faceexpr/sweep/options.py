"""The options of ``faceexpr sweep``; all others are those of ``fit``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from faceexpr.cli.parser import Parser
from faceexpr.metrics.classification import HIGHER_IS_BETTER
from faceexpr.utils.errors import FaceExprError

OPTION = re.compile("--?[A-Za-z]")  # and no negative number

DESCRIPTION = (
    "Run fit again and again over a grid of its options, or search them. Every option that is not listed here goes to "
    "fit as it is, --config included: `faceexpr sweep --config BASE.yaml --sweep SWEEP.yaml --data.path fer2013.csv`. "
    "Given again, the same command goes on; given at the same time, it shares the work. No trial sees the test split."
)


@dataclass(frozen=True)
class SweepOptions:
    """What is varied, how, and where to.

    Args:
        parameters: options of fit by their dotted names, each with a list of values, or with a range such as
            ``{low: 1e-4, high: 1e-1, log: true}`` or ``{low: 1, high: 9, step: 2}``.
        method: all combinations of the values (``grid``), or ``trials`` of them that Optuna chooses (``search``).
        trials: number of trials of a search.
        monitor: the metric that decides, one of the validation split (PublicTest of FER-2013).
        mode: whether the highest (``max``) or the lowest (``min``) value is the best.
        name: name of the sweep and of its folder; that of the --sweep file by default.
        out: folder in which the sweep's folder is made.
        seed: seed of a search; the seed of the trainings is ``--seed_everything``.
        prune: stop a trial that is worse than the median of the others was after as many validations.
        prune_startup: trials that have to be complete before any is stopped.
        prune_warmup: validations of each trial before which it is not stopped.
        storage: where the trials are agreed on: a journal file, in the sweep's folder by default, or a storage URL of
            Optuna, by which machines without a common folder share a sweep.
        retry_failed: run trials again that had failed before.
        limit: end after so many trials of this command; none runs all.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    method: Literal["grid", "search"] = "grid"
    trials: int = 20
    monitor: str = "val/accuracy"
    mode: Literal["max", "min"] = "max"
    name: str | None = None
    out: Path = Path("lightning_logs")
    seed: int = 0
    prune: bool = False
    prune_startup: int = 5
    prune_warmup: int = 0
    storage: str | None = None
    retry_failed: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("seed", 0), ("prune_startup", 0), ("prune_warmup", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise FaceExprError(f"{name} is {value}; expected {least} or more")
        if self.monitor.startswith("test/"):
            raise FaceExprError(
                f"monitor is {self.monitor}; a sweep chooses on the validation split and never sees the test split: "
                "expected a metric such as val/accuracy"
            )
        higher = HIGHER_IS_BETTER.get(self.monitor.removeprefix("val/").partition("/")[0])
        if higher is not None and higher != (self.mode == "max"):
            raise FaceExprError(
                f"monitor is {self.monitor} and mode is {self.mode}, which would choose the worst trial; expected mode "
                f"{'min' if self.mode == 'max' else 'max'}"
            )
        if self.name is not None and (not self.name or Path(self.name).name != self.name):
            raise FaceExprError(f"name is {self.name!r}; expected the name of a folder, without others around it")


def read_options(args: Sequence[str]) -> tuple[SweepOptions, list[str]]:
    """Return the sweep's own options, and the arguments that are for ``fit``.

    Args:
        args: the arguments after the verb.

    Raises:
        FaceExprError: a bad option of the sweep's own.
        SystemExit: after ``--help``.
    """
    parser = Parser(prog="faceexpr sweep", description=DESCRIPTION)
    parser.add_argument("--sweep", action="config", help="YAML file with the options below.")
    parser.add_class_arguments(SweepOptions)
    own, rest = _divide(args, {"sweep", "print_config", *(option.name for option in fields(SweepOptions))})
    config = parser.parse_args(own)
    values = {option.name: config[option.name] for option in fields(SweepOptions)}
    if values["name"] is None:
        values["name"] = Path(str(config.sweep[-1])).stem if config.sweep else "sweep"
    return SweepOptions(**values), rest


def _divide(args: Sequence[str], names: set[str]) -> tuple[list[str], list[str]]:
    """Divide the arguments into those whose option is among the names, with their values, and the others."""
    own: list[str] = []
    rest: list[str] = []
    target = rest
    for argument in args:
        if argument in ("-h", "--help"):
            target = own
        elif OPTION.match(argument):
            target = own if re.split("[=.]", argument.removeprefix("--"), maxsplit=1)[0] in names else rest
        target.append(argument)
    return own, rest
