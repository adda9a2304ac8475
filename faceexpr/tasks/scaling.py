"""Learning rates that follow the number of samples in a step."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor

from faceexpr.data.module import FaceDataModule
from faceexpr.utils.errors import FaceExprError

LRScaling = Literal["none", "linear", "sqrt"]

RATES = ("max_lr", "base_lr", "eta_min", "min_lr")
"""Arguments of torch's schedulers that are learning rates, and not factors of the optimizer's."""


def lr_factor(trainer: Trainer, scaling: LRScaling) -> float:
    """Return what learning rates are multiplied by.

    A rate is written for steps of ``data.batch_size`` samples. With k times as many, the steps of an epoch are k times
    fewer: ``linear`` takes k times the rate (Goyal et al., "Accurate, large minibatch SGD", 2017), ``sqrt`` its root,
    which keeps the noise of the steps (Hoffer et al., "Train longer, generalize better", 2017).

    Args:
        trainer: of the run.
        scaling: the rule.

    Raises:
        FaceExprError: the data have no batch size of ours, or the rate is looked for by trial.
    """
    if scaling == "none":
        return 1.0
    data = getattr(trainer, "datamodule", None)  # Lightning sets it at run time
    if not isinstance(data, FaceDataModule):
        raise FaceExprError(
            f"model.lr_scaling is {scaling}, but the data are no data module of faceexpr; expected none, or data whose "
            "batch size is known"
        )
    if any(isinstance(callback, LearningRateFinder) for callback in [*trainer.callbacks]):  # type: ignore[attr-defined]
        raise FaceExprError(
            f"model.lr_scaling is {scaling}, but LearningRateFinder finds the rate for the steps as they are; expected "
            "none"
        )
    ratio = data.step_size * trainer.accumulate_grad_batches / data.batch_size
    return ratio if scaling == "linear" else sqrt(ratio)


def scaled_rates(scheduler: Callable[..., Any], factor: float) -> dict[str, Any]:
    """Return the learning rates among a scheduler's arguments, multiplied by a factor.

    Args:
        scheduler: a class, or a partial of one.
        factor: from `lr_factor`.
    """
    given = {name: getattr(scheduler, "keywords", {}).get(name) for name in RATES}
    return {
        name: [rate * factor for rate in value] if isinstance(value, list | tuple) else value * factor
        for name, value in given.items()
        if value is not None
    }


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a scalar over all processes.

    Lightning's ``sync_dist`` waits for all processes each time, on the host; this is queued on the device.
    """
    value = value.detach().clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value
