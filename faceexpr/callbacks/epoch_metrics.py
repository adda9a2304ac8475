"""Metrics of an epoch that is interrupted: they go on from what they had counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, distributed
from torchmetrics import Metric

States = dict[str, list[dict[str, Tensor]]]
"""What each metric had counted, in each process."""


def gathered_states(trainer: Trainer, pl_module: LightningModule) -> States:
    """Return what the metrics have counted, those of the model and those that callbacks hold.

    Every process has to call this. Metrics that keep all samples, and not numbers of a fixed size, are left out.
    """
    return {
        name: _by_process(trainer, metric.metric_state)
        for name, metric in _metrics(trainer, pl_module).items()
        if all(isinstance(value, Tensor) for value in metric.metric_state.values())
    }


def restore_states(trainer: Trainer, pl_module: LightningModule, states: Mapping[str, Any]) -> None:
    """Give each process what it had counted; where their number has changed, all is dealt out to those there are.

    Args:
        trainer: of the resumed run.
        pl_module: its model.
        states: from `gathered_states`; what is of metrics that are no more is left aside.
    """
    for name, metric in _metrics(trainer, pl_module).items():
        mine = states.get(name, [])[trainer.global_rank :: trainer.world_size]
        for position, state in enumerate(mine):
            here = {key: value.to(metric.device) for key, value in state.items()}
            if position:
                metric.merge_state(here)
                continue
            for key, value in here.items():
                setattr(metric, key, value)


def _metrics(trainer: Trainer, pl_module: LightningModule) -> dict[str, Metric]:
    found = {name: module for name, module in pl_module.named_modules() if isinstance(module, Metric)}
    for callback in [*trainer.callbacks]:  # type: ignore[attr-defined]  # Lightning sets the list at run time
        for name, value in vars(callback).items():
            if isinstance(value, Metric):
                found[f"{type(callback).__name__}.{name}"] = value
    return found


def _by_process(trainer: Trainer, state: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    if trainer.world_size == 1:
        return [{key: value.detach().clone() for key, value in state.items()}]
    states: list[dict[str, Tensor]] = [{} for _ in range(trainer.world_size)]
    for key, value in state.items():
        values = [torch.empty_like(value) for _ in states]
        distributed.all_gather(values, value.detach().contiguous())
        for own, part in zip(states, values, strict=True):
            own[key] = part
    return states
