"""LightningModules: one for each way of training."""

from typing import TYPE_CHECKING

from faceexpr.utils.lazy import classes_of

if TYPE_CHECKING:
    from faceexpr.tasks.classify import CrossEntropy, ExpressionClassifier, ExpressionLoss, Focal
    from faceexpr.tasks.detect import FaceDetector
    from faceexpr.tasks.knn import KNNClassifier

__all__ = [
    "CrossEntropy", "ExpressionClassifier", "ExpressionLoss", "FaceDetector", "Focal", "KNNClassifier",
]  # fmt: skip

__getattr__, __dir__ = classes_of(__name__, __path__)
