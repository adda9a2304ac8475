"""Define the options of a sweep, and its space: the options of ``fit`` that vary, each with its values or its range."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from jsonargparse.typing import NonNegativeInt, PositiveInt
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from faceexpr.metrics.classification import HIGHER_IS_BETTER
from faceexpr.utils.errors import FaceExprError

Plain = str | float | bool | None  # as everywhere in typing, int is a float
"""A value as the study keeps it; a class with its arguments, or a list, is its JSON text."""

Point = dict[str, Plain]
"""A value for each parameter, by the option's name."""

Parameter: TypeAlias = CategoricalDistribution | IntDistribution | FloatDistribution
Space = dict[str, Parameter]
"""What each parameter may be, by the option's name: Optuna's distributions."""

EXPECTED = "expected a list of values or a range such as {low: 1e-4, high: 1e-1, log: true}"


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
        seed: seed of a search; the seed of the trainings is that of fit, seed_everything.
        prune: stop a trial that is worse than the median of the others was after as many validations.
        prune_startup: trials that have to be complete before any is stopped.
        prune_warmup: validations of each trial before which it is not stopped.
        storage: where the trials are agreed on: a URL of a database, by which machines without a common folder share
            a sweep; a file of SQLite in the sweep's folder by default.
        retry_failed: run trials again that had failed before.
        limit: end after so many trials of this command; none runs all.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    method: Literal["grid", "search"] = "grid"
    trials: PositiveInt = 20
    monitor: str = "val/accuracy"
    mode: Literal["max", "min"] = "max"
    name: str | None = None
    out: Path = Path("lightning_logs")
    seed: NonNegativeInt = 0
    prune: bool = False
    prune_startup: NonNegativeInt = 5
    prune_warmup: NonNegativeInt = 0
    storage: str | None = None
    retry_failed: bool = False
    limit: PositiveInt | None = None

    def __post_init__(self) -> None:
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


def read_space(parameters: Mapping[str, Any], method: Literal["grid", "search"]) -> Space:
    """Return the parameters of a sweep in the order written.

    Args:
        parameters: options of ``fit`` by their dotted names, each a list of values or a mapping of a range.
        method: a grid needs values, so that a range of its has to have a step.

    Raises:
        FaceExprError: a parameter that is neither, has no value, or has one twice.
    """
    if not parameters:
        raise FaceExprError(
            "parameters: a sweep without parameters would run the same training again and again; expected options of "
            "fit with their values, such as {model.optimizer.lr: [1e-3, 1e-4]}"
        )
    space: Space = {}
    for written, described in parameters.items():
        name = str(written).removeprefix("--")
        if isinstance(described, list):
            space[name] = _choices(name, described)
        elif isinstance(described, Mapping):
            parameter = _range(name, described)
            if method == "grid" and described.get("step") is None:
                raise FaceExprError(
                    f"parameters: {name} is a range without a step, which a grid cannot walk; expected a list, a step, "
                    "or method: search"
                )
            space[name] = _walk(parameter) if method == "grid" else parameter
        else:
            raise FaceExprError(f"parameters: {name} is {described!r}; {EXPECTED}")
    return space


def _choices(name: str, values: list[Any]) -> CategoricalDistribution:
    if not values:
        raise FaceExprError(f"parameters: {name} is an empty list; {EXPECTED}")
    plain = [
        value if isinstance(value, str | int | float | None) else json.dumps(value, default=str) for value in values
    ]
    texts = [as_text(value) for value in plain]
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise FaceExprError(f"parameters: {name} lists {twice[0]} twice; expected each value once")
    return CategoricalDistribution(plain)


def _range(name: str, described: Mapping[str, Any]) -> IntDistribution | FloatDistribution:
    if not {"low", "high"} <= described.keys() <= {"low", "high", "step", "log"}:
        raise FaceExprError(f"parameters: the range of {name} has {', '.join(map(str, described))}; {EXPECTED}")
    low, high, step, log = described["low"], described["high"], described.get("step"), described.get("log", False)
    numbers = [low, high] if step is None else [low, high, step]
    for number in numbers:
        if type(number) not in (int, float) or not math.isfinite(number):
            raise FaceExprError(f"parameters: the range of {name} has {number!r}; expected a number")
    if not low < high:
        raise FaceExprError(f"parameters: low of {name} is {low} and high is {high}; expected low to be less than high")
    if not isinstance(log, bool):
        raise FaceExprError(f"parameters: log of {name} is {log!r}; expected true or false")
    try:
        # Whole numbers only where both ends and the step are whole.
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(low, high, log, 1 if step is None else step)
        return FloatDistribution(low, high, log, step)
    except ValueError as error:
        raise FaceExprError(f"parameters: the range of {name} is not possible: {error}") from error


def _walk(parameter: IntDistribution | FloatDistribution) -> CategoricalDistribution:
    """Return the values of a range with a step."""
    assert parameter.step is not None
    count = round((parameter.high - parameter.low) / parameter.step) + 1
    values = (parameter.low + index * parameter.step for index in range(count))
    # Rounded, because 0.1 + 2 * 0.1 is no value that anybody has written.
    return CategoricalDistribution([value if isinstance(value, int) else float(f"{value:.12g}") for value in values])


def grid(space: Space) -> list[Point]:
    """Return every combination; the last parameter changes fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*map(_ends, space.values()))]


def probes(space: Space) -> list[Point]:
    """Return few points that hold every value, and both ends of every range: what has to be understood by ``fit``."""
    ends = {name: _ends(parameter) for name, parameter in space.items()}
    first = {name: values[0] for name, values in ends.items()}
    return [first, *({**first, name: value} for name, values in ends.items() for value in values[1:])]


def _ends(parameter: Parameter) -> tuple[Plain, ...]:
    if isinstance(parameter, CategoricalDistribution):
        return tuple(parameter.choices)
    return parameter.low, parameter.high


def suggest(trial: Trial, space: Space) -> Point:
    """Return the point of a trial: the one that it was enqueued with, or one that the sampler draws."""
    point: Point = {}
    for name, parameter in space.items():
        if isinstance(parameter, CategoricalDistribution):
            point[name] = trial.suggest_categorical(name, parameter.choices)
        elif isinstance(parameter, IntDistribution):
            point[name] = trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        else:
            low, high, step, log = parameter.low, parameter.high, parameter.step, parameter.log
            point[name] = trial.suggest_float(name, low, high, step=step, log=log)
    return point


def flags(point: Mapping[str, Plain]) -> list[str]:
    """Return a point as arguments of ``fit``."""
    return [f"--{name}={as_text(value)}" for name, value in point.items()]


def as_text(value: Plain) -> str:
    """Return a value as a command line and a table have it."""
    return value if isinstance(value, str) else json.dumps(value)


def shown(value: Plain) -> str:
    """Return a value for people: a class without its module, a number with few digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return re.sub(r"^(\w+\.)+(?=[A-Z]\w*$)", "", as_text(value))
