"""The simple convolutional network of the paper's Table 4."""

from __future__ import annotations

from torch import Tensor, nn

from faceexpr.models.base import ExpressionNet, expression_head
from faceexpr.models.preprocess import Preprocess


class SimpleCNN(ExpressionNet):
    """Three convolutions, three poolings and three fully connected layers (the paper's Table 4).

    The defaults are Table 4 exactly, but for the ReLU that it prints after the logits.

    Args:
        num_classes: number of logits.
        final_relu: apply that ReLU to the logits.
        dropout: probability of dropping a unit of the two hidden fully connected layers, 0 to 1.
        batch_norm: normalise after each convolution.
    """

    def __init__(
        self, num_classes: int, final_relu: bool = False, dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__(num_classes, Preprocess(channels=1, size=48))
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, pool in ((1, 64, 5, 5), (64, 64, 3, 3), (64, 128, 3, 3)):
            layers.append(nn.Conv2d(inputs, outputs, kernel, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(outputs))
            # Table 4 names the ReLU first. Both orders are the same function with the same gradients, and after the
            # pooling there are four to five times fewer values to go over; the last ReLU comes first all the same,
            # since its 6 x 6 values are few and explanations are made of them.
            pooling, activation = nn.MaxPool2d(pool, stride=2), nn.ReLU(inplace=True)
            layers += [activation, pooling] if outputs == 128 else [pooling, activation]
        self.features = nn.Sequential(*layers)
        # 48 -> conv 44 -> pool 20 -> conv 18 -> pool 8 -> conv 6 -> pool 2
        self.head = expression_head(128 * 2 * 2, num_classes, dropout, final_relu)

    def classify(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image).flatten(1))
        return logits
