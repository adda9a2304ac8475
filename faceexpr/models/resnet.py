"""Residual networks with the paper's classifier (Table 4, "ResNet-based CNN")."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torchvision.models import get_model, get_weight

from faceexpr.models.base import ExpressionNet, expression_head
from faceexpr.models.preprocess import Preprocess
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.weights.pretrained import download_weights, read_weights_file, require_fit, require_state_dict, without

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ResNet(ExpressionNet):
    """The convolutional layers of a ResNet (He et al., 2015) and a classifier of 1024, 1024, num_classes.

    Args:
        num_classes: number of logits.
        depth: number of layers; the paper names both 50 and 18.
        weights: start of the convolutional layers: ``none`` (from scratch), ``imagenet`` (downloaded by torchvision),
            or a local file: a state dict with torchvision's names, saved with ``torch.save``. Loaded when training
            starts; a checkpoint brings its own.
        stem: ``small`` keeps the resolution at the input (3x3 convolution, stride 1, no pooling), for 48-pixel
            images; ``torchvision`` is the original 7x7 convolution, stride 2, and pooling.
        input_size: side in pixels to which images are resized.
        dropout: probability of dropping a unit of the two hidden fully connected layers, 0 to 1.
        final_relu: apply a ReLU to the logits, as Table 4 prints.
    """

    def __init__(
        self,
        num_classes: int,
        depth: Literal[18, 34, 50] = 50,
        weights: str = "none",
        stem: Literal["small", "torchvision"] = "torchvision",
        input_size: int = 48,
        dropout: float = 0.0,
        final_relu: bool = False,
    ) -> None:
        require(input_size >= 1, "input_size", input_size, "1 pixel or more")
        require(depth in (18, 34, 50), "depth", depth, "18, 34 or 50")
        pretrained = weights != "none"
        if pretrained and stem == "small":
            raise FaceExprError(
                f"weights is {weights} and stem is small: pretrained weights belong to "
                "torchvision's stem; use stem torchvision, or weights none"
            )
        # Grey images reach pretrained filters as three equal channels with the statistics that they were trained on.
        preprocess = (
            Preprocess(channels=3, size=input_size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
            if pretrained
            else Preprocess(channels=1, size=input_size)
        )
        super().__init__(num_classes, preprocess)
        backbone = get_model(f"resnet{depth}", weights=None)
        features = backbone.fc.in_features
        backbone.fc = nn.Identity()
        if stem == "small":
            backbone.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
            backbone.maxpool = nn.Identity()
        elif not pretrained:
            backbone.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.depth = depth
        self.weights = weights
        self.backbone = backbone
        self.head = expression_head(features, num_classes, dropout, final_relu)

    def load_pretrained(self) -> None:
        if self.weights == "none":
            return
        name = f"ResNet-{self.depth}"
        if self.weights == "imagenet":
            state = download_weights(get_weight(f"ResNet{self.depth}_Weights.DEFAULT"), self.weights, name)
        else:
            path = Path(self.weights)
            state = require_state_dict(read_weights_file(path, "none, imagenet"), path)
        state = without(state, "fc.")  # torchvision's classifier
        otherwise = f"{self.weights} does not hold the weights of torchvision's {name}"
        require_fit(state, without(self.backbone.state_dict()), otherwise)
        self.backbone.load_state_dict(state, strict=True)

    def classify(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(image))
        return logits
