"""The callbacks that every run has, each with the name of its options in a configuration."""

from __future__ import annotations

from lightning.pytorch import Callback

from faceexpr.callbacks.best_checkpoint import BestCheckpoint
from faceexpr.callbacks.calibration import Calibrate
from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.detection import DetectionEvaluation
from faceexpr.callbacks.last_checkpoint import LastCheckpoint
from faceexpr.callbacks.learning_rate import RateMonitor
from faceexpr.callbacks.predictions import PredictionWriter
from faceexpr.callbacks.progress import LineProgress
from faceexpr.callbacks.robustness import Robustness

CONFIGURED: dict[str, type[Callback]] = {
    "checkpoint": BestCheckpoint,
    "last_checkpoint": LastCheckpoint,
    "lr_monitor": RateMonitor,
    "evaluation": ClassificationEvaluation,
    "detection_evaluation": DetectionEvaluation,
    "robustness": Robustness,
    "calibration": Calibrate,
    "predictions": PredictionWriter,
    "progress": LineProgress,
}
