"""Feature pyramids (Lin et al., 2017) on torchvision's classification networks, with five levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Literal

from torch import nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

BackboneName = Literal["resnext101_32x8d", "resnet50", "resnet18", "mobilenet_v3_large"]
Norm = Literal["frozen", "batch", "group"]

STRIDES = (4, 8, 16, 32, 64)
"""Pixels of the image, in each direction, that one place of a level stands for."""


@dataclass(frozen=True)
class _Stages:
    """The parts of a classification network between one halving of the resolution and the next.

    Attributes:
        parts: names of the modules of each stage, the stem first; the last one of each other stage feeds a level.
        channels: what the stages but the stem give.
        eps: of the normalisation that the published weights were trained with.
    """

    parts: tuple[tuple[str, ...], ...]
    channels: tuple[int, ...]
    eps: float = 1e-5


_RESNET_PARTS = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
_BOTTLENECK = _Stages(_RESNET_PARTS, (256, 512, 1024, 2048))
_STAGES: dict[str, _Stages] = {
    "resnext101_32x8d": _BOTTLENECK,
    "resnet50": _BOTTLENECK,
    "resnet18": _Stages(_RESNET_PARTS, (64, 128, 256, 512)),
    # torchvision's own detector takes strides 32, 32 and 64 from this network, too coarse for most faces.
    "mobilenet_v3_large": _Stages(
        (("0", "1"), ("2", "3"), ("4", "5", "6"), ("7", "8", "9", "10", "11", "12"), ("13", "14", "15", "16")),
        (24, 40, 112, 960),
        eps=1e-3,
    ),
}

STAGES = 5
"""Stages of every backbone, the stem included."""


def feature_pyramid(name: BackboneName, norm: Norm, trainable_stages: int, channels: int) -> BackboneWithFPN:
    """Build a pyramid with the levels of `STRIDES`, from scratch.

    Its ``body`` has the parameter names of torchvision's network without its classifier.

    Args:
        name: the classification network.
        norm: ``frozen`` batch normalisation keeps its statistics and weights, ``batch`` learns them, ``group`` (Wu and
            He, 2018) does not depend on the size of the batch.
        trainable_stages: stages that learn, counted from the last, 0 to `STAGES`.
        channels: of each level.
    """
    stages = _STAGES[name]
    body = get_model(name, weights=None, norm_layer=_norm_layer(norm, stages.eps))
    body = body.features if name == "mobilenet_v3_large" else body
    frozen = [part for parts in stages.parts[: STAGES - trainable_stages] for part in parts]
    for part in frozen:
        body.get_submodule(part).requires_grad_(False)
    levels = {parts[-1]: str(level) for level, parts in enumerate(stages.parts[1:])}
    return BackboneWithFPN(body, levels, list(stages.channels), channels)


def _norm_layer(norm: Norm, eps: float) -> Callable[[int], nn.Module]:
    def layer(channels: int) -> nn.Module:
        if norm == "group":
            return nn.GroupNorm(gcd(channels, 32), channels, eps=eps)
        return (FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d)(channels, eps=eps)

    return layer
