"""A residual network small enough to ship."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from faceexpr.models.base import ExpressionNet
from faceexpr.models.preprocess import Preprocess
from faceexpr.utils.errors import require


class CompactResNet(ExpressionNet):
    """A residual network (He et al., "Identity mappings in deep residual networks", 2016) for small grey faces.

    Blocks of two 3 x 3 convolutions, each after batch normalisation and ReLU; the first convolution keeps the
    resolution, and each stage halves it. With the defaults 0.93 million parameters and 78 million multiplications an
    image.

    Args:
        num_classes: number of logits.
        stem: channels of the first convolution.
        widths: channels of each stage.
        depths: blocks of each stage.
        squeeze: let each block weigh its channels by their means (Hu et al., "Squeeze-and-excitation networks",
            2018).
        dropout: probability of dropping a feature before the classifier, 0 to 1.
        input_size: side in pixels that images are resized to; it is halved by the stem and by each further stage.
        standardise: give each image the same mean and the same contrast first.
    """

    def __init__(
        self,
        num_classes: int,
        stem: int = 24,
        widths: Sequence[int] = (48, 88, 136),
        depths: Sequence[int] = (1, 2, 2),
        squeeze: bool = True,
        dropout: float = 0.2,
        input_size: int = 48,
        standardise: bool = False,
    ) -> None:
        super().__init__(num_classes, Preprocess(channels=1, size=input_size, standardise=standardise))
        require(stem > 0, "stem", stem, "1 or more")
        require(len(widths) > 0 and min(widths) > 0, "widths", list(widths), "one or more channels")
        fits = len(depths) == len(widths) and min(depths, default=0) > 0
        require(fits, "depths", list(depths), f"1 or more blocks for each of {len(widths)} stages")
        require(0 <= dropout < 1, "dropout", dropout, "0 to below 1")
        layers: list[nn.Module] = [nn.Conv2d(1, stem, 3, padding=1, bias=False)]
        inputs, side = stem, input_size
        for width, depth in zip(widths, depths, strict=True):
            for number in range(depth):
                layers.append(_Block(inputs, width, 2 if number == 0 else 1, squeeze, uneven=side % 2 == 1))
                inputs = width
            side = (side + 1) // 2
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(inputs, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def classify(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image))
        return logits


class _Block(nn.Module):
    """Two convolutions, the first with the stride, whose channels are weighed before the shortcut is added."""

    def __init__(self, inputs: int, outputs: int, stride: int, squeeze: bool, uneven: bool) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=False))
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        self.squeeze = _Squeeze(outputs) if squeeze else nn.Identity()
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            pooling = nn.AvgPool2d(stride, ceil_mode=uneven)  # which is slow in ONNX Runtime, and else changes nothing
            self.shortcut = nn.Sequential(pooling, nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.before(x)
        shortcut = x if self.shortcut is None else self.shortcut(normal)
        added: Tensor = shortcut + self.squeeze(self.body(normal))
        return added


class _Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = x * self.gate(x)
        return weighed
