"""The classifier that the paper puts on convolutional features."""

from __future__ import annotations

from torch import nn

from faceexpr.models.base import require


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
