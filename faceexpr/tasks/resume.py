"""What the user writes beats what a checkpoint remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from faceexpr.errors import FaceExprError

TRAINING_OPTIONS = ("optimizer", "scheduler", "scheduler_interval", "lr")


def keep_written_options(
    checkpoint: dict[str, Any], written: Mapping[str, Any], build_optimizer: Callable[[], Optimizer]
) -> None:
    """Let changed optimizer and scheduler options survive the restoration of a checkpoint.

    Resuming restores the optimizer's and the scheduler's whole state, learning rate included, so that a changed
    option would be ignored without a word. Where the options differ from the checkpoint's, momentum buffers are
    kept, the options are those of ``written``, and the schedule starts again; another optimizer class starts afresh.

    Args:
        checkpoint: changed in place before Lightning restores it.
        written: the present hyper-parameters.
        build_optimizer: returns the optimizer as configured now.
    """
    remembered = checkpoint.get("hyper_parameters", {})
    changed = [name for name in TRAINING_OPTIONS if written.get(name) != remembered.get(name)]
    if not changed:
        return
    checkpoint["lr_schedulers"] = []
    if {"optimizer", "lr"} & set(changed):
        fresh = build_optimizer()
        if _class(written) != _class(remembered):
            checkpoint["optimizer_states"] = []
        for state in checkpoint["optimizer_states"]:
            for group, new in zip(state["param_groups"], fresh.param_groups, strict=True):
                group.update({name: value for name, value in new.items() if name != "params"})
    rank_zero_info(
        f"the configuration differs from the checkpoint in {', '.join(changed)}: the configuration's values are "
        "used, and the learning-rate schedule starts again"
    )


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
            f"the checkpoint holds the weights of {_spoken(held)}, but the configuration asks for {_spoken(net)} "
            f"({len(wrong)} tensors are missing, unknown or of another shape, the first is {wrong[0]}); give the "
            "configuration that the checkpoint was trained with, or none at all"
        )


def _spoken(net: Any) -> str:
    if not isinstance(net, Mapping) or "class_path" not in net:
        return "an unnamed network"
    arguments = ", ".join(f"{name}={value!r}" for name, value in (net.get("init_args") or {}).items())
    return f"{str(net['class_path']).rpartition('.')[2]}({arguments})"
