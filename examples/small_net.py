"""A network of one's own: all that it takes for Python, YAML and the command line."""

from torch import Tensor, nn

from faceexpr.models import ExpressionNet, Preprocess


class SmallNet(ExpressionNet):
    """One convolution and one linear layer.

    Args:
        num_classes: number of logits; the data know it.
        channels: of the convolution.
    """

    def __init__(self, num_classes: int, channels: int = 16) -> None:
        # The network gets grey images of 48 x 48 pixels from -1 to 1, whatever the images are that it is given.
        super().__init__(num_classes, Preprocess(channels=1, size=48, mean=(0.5,), std=(0.5,)))
        self.features = nn.Sequential(nn.Conv2d(1, channels, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(6))
        self.head = nn.Linear(channels * 6 * 6, num_classes)

    def classify(self, image: Tensor) -> Tensor:
        """Return logits (N, num_classes) of images (N, 1, 48, 48)."""
        logits: Tensor = self.head(self.features(image).flatten(1))
        return logits
