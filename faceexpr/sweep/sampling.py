"""How a search draws its points: Optuna's tree of Parzen estimators, with numbers that interruptions do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, TPESampler

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

from faceexpr.sweep.space import Choices, Plain, Point, Space

POINT = "point"
"""Attribute of a trial: which point of the sweep it runs, counted from 0."""


class PointSampler(BaseSampler):
    """Draw each point from random numbers of its own.

    A sampler that is seeded once draws the first point again when a study goes on, and in each process that joins it.

    Args:
        seed: with the trials that have finished, decides every point.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._samplers: dict[int, TPESampler] = {}

    def _sampler(self, trial: FrozenTrial) -> TPESampler:
        point = int(trial.user_attrs.get(POINT, 0))
        if point not in self._samplers:
            state = np.random.SeedSequence([self.seed, point]).generate_state(1)
            self._samplers = {point: TPESampler(seed=int(state[0]))}
        return self._samplers[point]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler(trial).sample_independent(study, trial, param_name, param_distribution)


def suggest(trial: Trial, space: Space) -> Point:
    """Return the point of a trial: the one that it was enqueued with, or a new one."""
    return {name: _suggest(trial, name, parameter) for name, parameter in space.items()}


def _suggest(trial: Trial, name: str, parameter: Any) -> Plain:
    if isinstance(parameter, Choices):
        value: Plain = trial.suggest_categorical(name, parameter.values)
        return value
    if parameter.whole:
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step or 1, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
