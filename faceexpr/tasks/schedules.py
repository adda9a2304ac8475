"""Learning-rate schedules that torch does not offer under one name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from faceexpr.utils.errors import require


class WarmupMultiStepLR(LRScheduler):
    """A linear warm-up, then a constant rate that drops at given steps: Detectron2's schedule of the same name.

    Args:
        optimizer: whose rates are changed.
        warmup_steps: steps until the full rate is reached; 0 starts with it.
        milestones: steps at which the rate is multiplied by ``gamma``, in ascending order; none keeps it.
        gamma: factor at each milestone.
        warmup_factor: part of the full rate in the first step, 0 to 1.
        last_epoch: steps that are done already; -1 at the start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        milestones: Sequence[int] = (),
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        last_epoch: int = -1,
    ) -> None:
        require(warmup_steps >= 0, "warmup_steps", warmup_steps, "0 or more")
        require(list(milestones) == sorted(milestones), "milestones", list(milestones), "ascending steps")
        require(gamma > 0, "gamma", gamma, "more than 0")
        require(0 <= warmup_factor <= 1, "warmup_factor", warmup_factor, "0 to 1")
        self.warmup_steps = warmup_steps
        self.milestones = list(milestones)
        self.gamma = gamma
        self.warmup_factor = warmup_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        done = self.last_epoch
        factor = self.gamma ** bisect_right(self.milestones, done)
        if done < self.warmup_steps:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * done / self.warmup_steps
        return [float(rate) * factor for rate in self.base_lrs]
