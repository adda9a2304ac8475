"""What the user writes beats what a checkpoint remembers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from faceexpr.utils.errors import FaceExprError

TRAINING_OPTIONS = ("optimizer", "scheduler", "scheduler_interval", "lr")
LR_FACTOR = "lr_factor"
"""Key of a checkpoint: what the written learning rates were multiplied by, for the number of samples in a step."""


def keep_written_options(
    checkpoint: dict[str, Any],
    written: Mapping[str, Any],
    factor: float,
    build: Callable[[], tuple[Optimizer, Any]],
) -> None:
    """Let changed optimizer and scheduler options survive the restoration of a checkpoint.

    Resuming restores the optimizer's and the scheduler's whole state, learning rate included, so that a changed
    option would be ignored without a word. Where the options differ from the checkpoint's, momentum buffers are
    kept, the options are those of ``written``, and the schedule starts again; another optimizer class starts afresh.

    Args:
        checkpoint: changed in place before Lightning restores it.
        written: the present hyper-parameters.
        factor: what the written learning rates are multiplied by now.
        build: returns the optimizer and the scheduler as configured now.
    """
    remembered = checkpoint.get("hyper_parameters", {})
    changed = [name for name in TRAINING_OPTIONS if written.get(name) != remembered.get(name)]
    if checkpoint.get(LR_FACTOR, 1.0) != factor:
        changed.append("the samples in a step, for which the learning rate is scaled")
    if not changed:
        return
    checkpoint["lr_schedulers"] = []
    # A scheduler keeps its rates in the optimizer's groups, so both are built.
    fresh, _ = build()
    if _class(written) != _class(remembered):
        checkpoint["optimizer_states"] = []
    for state in checkpoint["optimizer_states"]:
        for group, new in zip(state["param_groups"], fresh.param_groups, strict=True):
            group.update({name: value for name, value in new.items() if name != "params"})
    rank_zero_info(
        f"the configuration differs from the checkpoint in {', '.join(changed)}: the configuration's values are "
        "used, and the learning-rate schedule starts again"
    )


def fit_schedule(trainer: Trainer, build_scheduler: Callable[..., Any], total: int) -> None:
    """Let a restored schedule end with the training, whose length may have changed.

    A schedule over the whole training, such as ``OneCycleLR``, comes back from the checkpoint with the length that
    the training had then: other epochs or another batch size would end it too early or never.

    Args:
        trainer: at the start of training, everything restored.
        build_scheduler: takes the optimizer, ``total_steps`` and ``last_epoch``.
        total: steps of the schedule as configured now.
    """
    config = trainer.lr_scheduler_configs[0]
    scheduler: Any = config.scheduler
    if getattr(scheduler, "total_steps", total) == total:  # the learning-rate finder has a scheduler of its own
        return
    progress = trainer.fit_loop.epoch_loop.batch_progress
    epochs_left = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - trainer.current_epoch
    left = epochs_left
    if config.interval == "step":
        batches = 0 if progress.is_last_batch else progress.current.ready
        left = epochs_left * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        left -= batches // trainer.accumulate_grad_batches
        if trainer.max_steps > 0:
            left = min(left, trainer.max_steps - trainer.global_step)
    position = max(total - int(left), 0)
    rank_zero_info(
        f"the training is longer or shorter than when the checkpoint was written: "
        f"{type(scheduler).__name__} goes on at step {position} of {total}"
    )
    config.scheduler = build_scheduler(trainer.optimizers[0], total_steps=total, last_epoch=position - 1)


def _class(hyper_parameters: Mapping[str, Any]) -> Any:
    return (hyper_parameters.get("optimizer") or {}).get("class_path")


def check_weights_fit(checkpoint: Mapping[str, Any], net: Any, state: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose weights are not those of this model, in one sentence.

    Args:
        checkpoint: as loaded.
        net: description of the network as configured.
        state: the model's own state dict.

    Raises:
        FaceExprError: names or shapes differ.
    """
    saved = checkpoint.get("state_dict", {})
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [name for name, shape in shapes.items() if name not in saved or tuple(saved[name].shape) != shape]
    wrong += [name for name in saved if name not in shapes]
    if wrong:
        held = checkpoint.get("hyper_parameters", {}).get("net")
        raise FaceExprError(
            f"the checkpoint holds the weights of {spoken(held)}, but the configuration asks for {spoken(net)} "
            f"({len(wrong)} tensors are missing, unknown or of another shape, the first is {wrong[0]}); give the "
            "configuration that the checkpoint was trained with, or none at all"
        )


def spoken(net: Any) -> str:
    """Return a network's description as a call of its class."""
    if not isinstance(net, Mapping) or "class_path" not in net:
        return "an unnamed network"
    arguments = ", ".join(f"{name}={value!r}" for name, value in (net.get("init_args") or {}).items())
    return f"{str(net['class_path']).rpartition('.')[2]}({arguments})"
