"""What every network is to the rest of the product, and what every expression network is."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from faceexpr.models.preprocess import Preprocess
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.specs import Described

if TYPE_CHECKING:
    from typing_extensions import Self


class Net(Described, nn.Module):
    """A network that can start from weights which its arguments name, and parts of which may be frozen."""

    frozen: tuple[str, ...] = ()

    def freeze(self, *names: str) -> None:
        """Let parts, or single weights, by their names learn no more, nor the statistics of batch normalisation."""
        parts: dict[str, nn.Module | nn.Parameter] = dict(self.named_modules()) | dict(self.named_parameters())
        for name in names:
            require(name in parts, "frozen", name, f"parts of the network, such as {', '.join([*parts][1:4])}")
            part = parts[name].requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()
                self.frozen += (name,)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def load_pretrained(self) -> None:
        """Load those weights; called when training starts, not when a checkpoint is loaded.

        A network that always starts from scratch needs nothing here.

        Raises:
            FaceExprError: the weights cannot be had or do not fit.
        """


class ExpressionNet(Net):
    """Images in, logits out.

    A network takes ``num_classes`` as its first argument (the data know it, so nobody writes it), owns its
    `Preprocess` and implements `classify`. Nothing else is needed for YAML and the command line to find it by name.

    Args:
        num_classes: number of logits.
        preprocess: from pixels to the network's input.
    """

    def __init__(self, num_classes: int, preprocess: Preprocess) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.preprocess = preprocess

    def forward(self, image: Tensor) -> Tensor:
        """Classify images as they come.

        Args:
            image: uint8 in 0 to 255 or floating point in 0 to 1, shape (N, 1 or 3, H, W), any size.

        Returns:
            Logits, shape (N, num_classes).
        """
        return self.classify(self.preprocess(image))

    def classify(self, image: Tensor) -> Tensor:
        """Return logits (N, num_classes) of pre-processed images (N, channels, size, size)."""
        raise NotImplementedError


def speed_up(net: nn.Module) -> None:
    """Make a network faster that will learn no more.

    Batch normalisation becomes a part of the convolution that it follows, and weights lie in memory as images do.
    """
    for layers in [module for module in net.eval().modules() if isinstance(module, nn.Sequential)]:
        for place, (before, after) in enumerate(pairwise(layers)):
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                layers[place], layers[place + 1] = fuse_conv_bn_eval(before, after), nn.Identity()
    net.to(memory_format=torch.channels_last)


def require_listed(name: str, names: Collection[str], library: str) -> None:
    """Refuse a network that a library does not have, with the names that are most like it."""
    if name not in names:
        near = get_close_matches(name, names, n=5, cutoff=0.5)
        expected = f", such as {', '.join(near)}" if near else ""
        raise FaceExprError(f"name is {name!r}; expected one of {library}'s {len(names):,} networks{expected}")


@torch.no_grad()
def require_usable_size(net: nn.Module, name: str, size: int) -> None:
    """Refuse a side of images that a network cannot use."""
    require(size >= 1, "input_size", size, "1 pixel or more")
    training = net.training
    try:
        net.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise FaceExprError(f"input_size is {size}; expected one that {name} can use ({said})") from error
    net.train(training)


def expression_head(features: int, num_classes: int, dropout: float = 0.0, final_relu: bool = False) -> nn.Sequential:
    """Return fully connected layers features -> 1024 -> 1024 -> num_classes (the paper's Table 4).

    Args:
        features: width of the flattened input.
        num_classes: number of logits.
        dropout: probability of dropping a unit of the two hidden layers, 0 to 1.
        final_relu: apply a ReLU to the logits. Table 4 prints it; it stops a class whose logit is negative from
            ever learning.

    Raises:
        FaceExprError: the dropout is not a probability.
    """
    require(0 <= dropout <= 1, "dropout", dropout, "0 to 1")
    layers: list[nn.Module] = []
    for inputs, units in ((features, 1024), (1024, 1024)):
        layers += [nn.Linear(inputs, units), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(1024, num_classes))
    if final_relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
