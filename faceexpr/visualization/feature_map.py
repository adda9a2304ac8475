"""The feature map of a network that an explanation is made of, and where its cells lie in the image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faceexpr.models.base import ExpressionNet

LEAST_SIDE = 3
"""Cells a side below which a feature map says next to nothing of places."""


class Axis(NamedTuple):
    """Cells along one side of an image, in its pixels, the middle of the first of which is 0.

    Attributes:
        first: the middle of the first cell.
        step: from one cell to the next.
        field: how many pixels a cell sees.
    """

    first: float
    step: float
    field: float


@dataclass(frozen=True)
class FeatureMap:
    """The values of a layer for an image, and their places.

    Attributes:
        layer: the module whose output it is.
        size: number of cells, down and across.
        down: where its rows lie in the network's input.
        across: where its columns lie.
    """

    layer: nn.Module
    size: tuple[int, int]
    down: Axis
    across: Axis


@torch.no_grad()
def last_feature_map(net: ExpressionNet, images: Tensor) -> FeatureMap | None:
    """Find the last feature map with at least 3 x 3 cells.

    It is looked for while the network runs, so that every network has one that is made of modules: of all modules
    that run once the last to finish, not before the first convolution.

    Args:
        net: the network.
        images: pre-processed, (N, channels, size, size), N at least 1.

    Returns:
        None for a network without such a map, such as one without convolutions.
    """
    pixels = Axis(0.0, 1.0, 1.0)
    places: dict[tuple[int, int], tuple[Axis, Axis]] = {_side(images): (pixels, pixels)}
    maps: list[tuple[nn.Module, tuple[int, int]]] = []
    runs: Counter[nn.Module] = Counter()

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        runs[module] += 1
        if not _is_map(output) or not inputs or not _is_map(inputs[0]):
            return
        before, after = _side(inputs[0]), _side(output)
        if before in places and not any(module.children()):
            reached = _moved(module, places[before], before, after)
            # Branches that meet again have the same places: the first to reach a size says where its cells are.
            known = places.get(after, reached)
            places[after] = _wider(known[0], reached[0]), _wider(known[1], reached[1])
        if maps or isinstance(module, nn.Conv2d):
            maps.append((module, after))

    handles = [module.register_forward_hook(look) for module in net.modules() if module is not net]
    try:
        net.classify(images)
    finally:
        for handle in handles:
            handle.remove()
    for layer, size in reversed(maps):
        if runs[layer] == 1 and min(size) >= LEAST_SIDE:
            down, across = places.get(size) or _moved(nn.Identity(), (pixels, pixels), _side(images), size)
            return FeatureMap(layer, size, down, across)
    return None


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _side(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _moved(
    module: nn.Module, places: tuple[Axis, Axis], before: tuple[int, int], after: tuple[int, int]
) -> tuple[Axis, Axis]:
    """Return the places of the cells that a module makes of others.

    A convolution or pooling without padding loses the border: its cells do not spread over the whole image.
    """
    if before == after and not isinstance(module, nn.Conv2d):
        return places
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) or isinstance(module.padding, str):
        # What resizes otherwise spreads its cells evenly.
        ratios = [old / new for old, new in zip(before, after, strict=True)]
        down, across = (
            Axis(axis.first + (ratio - 1) / 2 * axis.step, ratio * axis.step, max(axis.field, ratio * axis.step))
            for axis, ratio in zip(places, ratios, strict=True)
        )
        return down, across
    kernel, padding = _pair(module.kernel_size), _pair(module.padding)
    stride, dilation = _pair(module.stride), _pair(getattr(module, "dilation", 1))
    down, across = (
        Axis(
            axis.first + ((kernel[side] - 1) * dilation[side] / 2 - padding[side]) * axis.step,
            stride[side] * axis.step,
            axis.field + (kernel[side] - 1) * dilation[side] * axis.step,
        )
        for side, axis in enumerate(places)
    )
    return down, across


def _wider(known: Axis, reached: Axis) -> Axis:
    return known._replace(field=max(known.field, reached.field))


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
