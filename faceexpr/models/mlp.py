"""The fully connected network of the paper's Table 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from faceexpr.models.base import ExpressionNet
from faceexpr.models.preprocess import Preprocess
from faceexpr.utils.errors import require

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


class MLP(ExpressionNet):
    """Multi-layer perceptron on raw pixels (the paper's Table 2; activations of its Table 3).

    Args:
        num_classes: number of logits.
        hidden: widths of the hidden layers; the last layer of Table 2 is the logits.
        activation: non-linearity after each hidden layer.
        dropout: probability of dropping a hidden unit, 0 to 1.
        batch_norm: normalise each hidden layer before its activation.
        image_size: side of the input in pixels.
    """

    def __init__(
        self,
        num_classes: int,
        hidden: Sequence[int] = (1024, 1024, 64, 32),
        activation: Literal["relu", "sigmoid", "tanh", "gelu", "silu", "leaky_relu"] = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        image_size: int = 48,
    ) -> None:
        require(all(units >= 1 for units in hidden), "hidden", list(hidden), "widths of 1 or more")
        require(0 <= dropout <= 1, "dropout", dropout, "0 to 1")
        require(image_size >= 1, "image_size", image_size, "1 pixel or more")
        super().__init__(num_classes, Preprocess(channels=1, size=image_size))
        layers: list[nn.Module] = [nn.Flatten()]
        width = image_size**2
        for units in hidden:
            layers.append(nn.Linear(width, units))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = units
        layers.append(nn.Linear(width, num_classes))
        self.layers = nn.Sequential(*layers)

    def classify(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits
