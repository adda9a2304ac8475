"""Networks whose explanations are known in advance."""

import torch
from torch import nn

from faceexpr.models.base import ExpressionNet
from faceexpr.models.preprocess import Preprocess


class Layers(ExpressionNet):
    """Layers one after the other, on grey images from 0 to 1."""

    def __init__(self, num_classes, *layers, size=8):
        super().__init__(num_classes, Preprocess(channels=1, size=size, mean=(0.0,), std=(1.0,)))
        self.layers = nn.Sequential(*layers)

    def classify(self, image):
        return self.layers(image)


def sides(size=24):
    """A network whose class 0 is brightness on the left and class 1 brightness on the right."""
    conv, head = nn.Conv2d(1, 1, 4, stride=4, bias=False), nn.Linear((size // 4) ** 2, 2, bias=False)
    nn.init.constant_(conv.weight, 1 / 16)
    half = torch.zeros(size // 4, size // 4)
    half[:, : size // 8] = 1
    with torch.no_grad():
        head.weight.copy_(torch.stack([half, half.flip(1)]).flatten(1))
    return Layers(2, conv, nn.ReLU(), nn.Flatten(), head, size=size).eval()


def small_cnn(num_classes=2, size=24, seed=0):
    """A convolutional network that learns within a second."""
    torch.manual_seed(seed)
    return Layers(
        num_classes,
        nn.Conv2d(1, 12, 5, padding=2), nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3), nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, num_classes),
        size=size,
    )  # fmt: skip
