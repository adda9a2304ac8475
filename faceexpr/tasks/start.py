"""A training that starts from the weights of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from faceexpr.tasks.resume import spoken
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import canonical
from faceexpr.weights.checkpoints import find_checkpoint, read_checkpoint

OPTION = "model.weights"
NET = "net."
"""What the names of a network's tensors begin with in a checkpoint."""


def load_weights(net: nn.Module, described: Any, written: str, class_names: Sequence[str] | None = None) -> None:
    """Give a network the weights of another one of its kind.

    The last layer is taken over where both tell the same classes, in whichever order. Otherwise it stays as it is,
    which is said.

    Args:
        net: the network as configured.
        described: its description, for messages.
        written: what the option says: a checkpoint, a run folder, a model file or the name of a model that comes with
            the package.
        class_names: of a classifier, in the order of its outputs.

    Raises:
        FaceExprError: there are no such weights, or they are those of another network.
    """
    path = find_checkpoint(written, Path("lightning_logs"), f"--{OPTION}")
    checkpoint = read_checkpoint(path)
    hyper_parameters = checkpoint.get("hyper_parameters") or {}
    given = {name[len(NET) :]: value for name, value in checkpoint["state_dict"].items() if name.startswith(NET)}
    names = hyper_parameters.get("class_names") or class_names or ()
    rows: list[int] | None = [*range(len(names))]
    last: dict[str, Tensor] = {}
    if class_names is not None and list(names) != list(class_names):
        last, rows = _last_layer(net, len(class_names)), _rows(names, class_names)
        if not last:
            raise FaceExprError(
                f"{OPTION} is {written}, whose classes are {', '.join(names)}, and these are {', '.join(class_names)}; "
                "expected the same for a network that does not end in a linear layer"
            )
    given |= last if rows is None else {}
    _check(given, net.state_dict(), hyper_parameters.get("net"), described, written)
    given |= {name: given[name][rows] for name in last} if rows is not None else {}
    net.load_state_dict(given)
    rank_zero_info(f"the training starts from the weights of {written}")
    if rows is None:
        rank_zero_info(
            f"its classes are others ({', '.join(names)}): the last layer, {' and '.join(last)}, starts from scratch"
        )


def _last_layer(net: nn.Module, outputs: int) -> dict[str, Tensor]:
    """Return the tensors of the linear layer that gives the outputs, by name; none where there is no such layer."""
    linear = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != outputs:
        return {}
    name, module = linear[-1]
    return {f"{name}.{part}": value.detach().clone() for part, value in module.state_dict().items()}


def _rows(given: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return for each class its row in the last layer of the other network; None where their classes differ."""
    found = [canonical(name, given) for name in wanted]
    if len(given) != len(wanted) or None in found or len(set(found)) != len(found):
        return None
    return [list(given).index(name) for name in found if name is not None]


def _check(given: Mapping[str, Tensor], own: Mapping[str, Tensor], held: Any, described: Any, written: str) -> None:
    wrong = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    wrong += [name for name in given if name not in own]
    if wrong:
        raise FaceExprError(
            f"{OPTION} is {written}, the weights of {spoken(held)}, but the configuration asks for {spoken(described)} "
            f"({len(wrong)} tensors are missing, unknown or of another shape, the first is {wrong[0]}); expected "
            "weights of the network that is configured"
        )
