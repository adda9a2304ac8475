"""What a sweep varies: options of ``fit``, each with its values or its range."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from faceexpr.utils.errors import FaceExprError

Plain = str | float | bool | None  # as everywhere in typing, int is a float
"""A value as the study keeps it; a class with its arguments, or a list, is its JSON text."""

Point = dict[str, Plain]
"""A value for each parameter, by the option's name."""

EXPECTED = "expected a list of values or a range such as {low: 1e-4, high: 1e-1, log: true}"


Space = dict[str, BaseDistribution]
"""What each parameter may be, by the option's name: Optuna's distributions."""


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
            space[name] = _range(name, described, method)
        else:
            raise FaceExprError(f"parameters: {name} is {described!r}; {EXPECTED}")
    return space


def _choices(name: str, values: list[Any]) -> CategoricalDistribution:
    plain = tuple(value if value is None or isinstance(value, str | int | float) else _json(value) for value in values)
    if not plain:
        raise FaceExprError(f"parameters: {name} is an empty list; {EXPECTED}")
    seen = set()
    for value in plain:
        if (type(value), value) in seen:
            raise FaceExprError(f"parameters: {name} lists {as_text(value)} twice; expected each value once")
        seen.add((type(value), value))
    return CategoricalDistribution(plain)


def _range(name: str, described: Mapping[str, Any], method: str) -> BaseDistribution:
    unknown = sorted(set(map(str, described)) - {"low", "high", "step", "log"})
    if unknown or not {"low", "high"} <= set(described):
        wrong = f"has {', '.join(unknown)}" if unknown else "lacks low or high"
        raise FaceExprError(f"parameters: the range of {name} {wrong}; {EXPECTED}")
    low, high, step, log = described["low"], described["high"], described.get("step"), described.get("log", False)
    for key, value in (("low", low), ("high", high), ("step", step)):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number and (key, value) != ("step", None):
            raise FaceExprError(f"parameters: {key} of {name} is {value!r}; expected a number")
    if not low < high:
        raise FaceExprError(f"parameters: low of {name} is {low} and high is {high}; expected low to be less than high")
    if step is not None and step <= 0:
        raise FaceExprError(f"parameters: step of {name} is {step}; expected more than 0")
    if not isinstance(log, bool):
        raise FaceExprError(f"parameters: log of {name} is {log!r}; expected true or false")
    if log and (low <= 0 or step is not None):
        raise FaceExprError(f"parameters: {name} has log: true; expected low to be more than 0 and no step")
    # Whole numbers only where both ends and the step are whole.
    whole = all(isinstance(value, int) for value in (low, high, step) if value is not None)
    if method != "grid":
        return IntDistribution(low, high, log, step or 1) if whole else FloatDistribution(low, high, log, step)
    if step is None:
        raise FaceExprError(
            f"parameters: {name} is a range without a step, which a grid cannot walk; expected a list, a step, or "
            "method: search"
        )
    values = (low + index * step for index in range(math.floor((high - low) / step + 1e-9) + 1))
    # Rounded, because 0.1 + 2 * 0.1 is no value that anybody has written.
    return CategoricalDistribution(tuple(value if whole else float(f"{value:.12g}") for value in values))


def grid(space: Space) -> list[Point]:
    """Return every combination; the last parameter changes fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*map(_ends, space.values()))]


def probes(space: Space) -> list[Point]:
    """Return few points that hold every value, and both ends of every range: what has to be understood by ``fit``."""
    ends = {name: _ends(parameter) for name, parameter in space.items()}
    first = {name: values[0] for name, values in ends.items()}
    return [first, *({**first, name: value} for name, values in ends.items() for value in values[1:])]


def _ends(parameter: BaseDistribution) -> tuple[Plain, ...]:
    if isinstance(parameter, CategoricalDistribution):
        return tuple(parameter.choices)
    assert isinstance(parameter, IntDistribution | FloatDistribution)
    return parameter.low, parameter.high


def suggest(trial: Trial, space: Space) -> Point:
    """Return the point of a trial: the one that it was enqueued with, or one that the sampler draws."""
    point: Point = {}
    for name, parameter in space.items():
        if isinstance(parameter, CategoricalDistribution):
            point[name] = trial.suggest_categorical(name, parameter.choices)
        elif isinstance(parameter, IntDistribution):
            point[name] = trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        elif isinstance(parameter, FloatDistribution):
            point[name] = trial.suggest_float(
                name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
            )
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
    text = as_text(value)
    match = re.fullmatch(r"(?:\w+\.)+([A-Z]\w*)", text)
    return match[1] if match else text


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError:
        raise FaceExprError(f"parameters: {value!r} is no value of an option; {EXPECTED}") from None
