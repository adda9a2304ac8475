"""Networks: plain ``nn.Module`` classes, images in, logits out; nothing of Lightning in here."""

from typing import TYPE_CHECKING

from faceexpr.utils.lazy import classes_of

if TYPE_CHECKING:
    from faceexpr.models.base import ExpressionNet
    from faceexpr.models.compact_resnet import CompactResNet
    from faceexpr.models.detector import DetectionNet
    from faceexpr.models.faster_rcnn import FasterRCNN
    from faceexpr.models.light_detector import LightDetector
    from faceexpr.models.mlp import MLP
    from faceexpr.models.preprocess import Preprocess
    from faceexpr.models.resnet import ResNet
    from faceexpr.models.simple_cnn import SimpleCNN
    from faceexpr.models.timm_net import TimmNet
    from faceexpr.models.torchvision_net import TorchvisionNet

__all__ = [
    "MLP", "CompactResNet", "DetectionNet", "ExpressionNet", "FasterRCNN", "LightDetector", "Preprocess", "ResNet",
    "SimpleCNN", "TimmNet", "TorchvisionNet",
]  # fmt: skip

__getattr__, __dir__ = classes_of(__name__, __path__)
