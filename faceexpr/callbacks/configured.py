"""The callbacks that every run has, each with the name of its options in a configuration."""

from __future__ import annotations

from lightning.pytorch import Callback

from faceexpr.callbacks.calibrate import Calibrate
from faceexpr.callbacks.checkpoint import BestCheckpoint
from faceexpr.callbacks.last_checkpoint import LastCheckpoint
from faceexpr.callbacks.learning_rate import RateMonitor
from faceexpr.callbacks.progress import LineProgress
from faceexpr.evaluation.classification import ClassificationEvaluation
from faceexpr.evaluation.detection import DetectionEvaluation
from faceexpr.evaluation.predictions import PredictionWriter
from faceexpr.evaluation.robustness import Robustness

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
