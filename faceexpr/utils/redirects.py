"""Class paths of earlier versions, which checkpoints, model files and saved configurations go on naming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: dict[str, str] = {
    "faceexpr.calibration.Calibration": "faceexpr.models.calibrator.Calibration",
    "faceexpr.callbacks.calibrate.Calibrate": "faceexpr.callbacks.calibration.Calibrate",
    "faceexpr.callbacks.checkpoint.BestCheckpoint": "faceexpr.callbacks.checkpointing.BestCheckpoint",
    "faceexpr.callbacks.last_checkpoint.LastCheckpoint": "faceexpr.callbacks.checkpointing.LastCheckpoint",
    "faceexpr.callbacks.learning_rate.RateMonitor": "lightning.pytorch.callbacks.LearningRateMonitor",
    "faceexpr.callbacks.progress.LineProgress": "faceexpr.callbacks.runs.LineProgress",
    "faceexpr.data.formats.document.ReadOptions": "faceexpr.data.annotations.reading.ReadOptions",
    "faceexpr.evaluation.classification.ClassificationEvaluation": (
        "faceexpr.callbacks.classification.ClassificationEvaluation"
    ),
    "faceexpr.evaluation.detection.DetectionEvaluation": "faceexpr.callbacks.detection.DetectionEvaluation",
    "faceexpr.evaluation.predictions.PredictionWriter": "faceexpr.callbacks.predictions.PredictionWriter",
    "faceexpr.evaluation.robustness.Robustness": "faceexpr.callbacks.robustness.Robustness",
    "faceexpr.models.detection.DetectionNet": "faceexpr.models.detector.DetectionNet",
    "FaceImages": "faceexpr.data.face_files.FaceFiles",
    "faceexpr.data.face_images.FaceImages": "faceexpr.data.face_files.FaceFiles",
    "faceexpr.data.synthetic_scenes.SyntheticScenes": "faceexpr.data.synthetic.SyntheticScenes",
    "faceexpr.tasks.losses.CrossEntropy": "faceexpr.tasks.classify.CrossEntropy",
    "faceexpr.tasks.losses.ExpressionLoss": "faceexpr.tasks.classify.ExpressionLoss",
    "faceexpr.tasks.losses.Focal": "faceexpr.tasks.classify.Focal",
    "faceexpr.tasks.representations.Histogram": "faceexpr.tasks.knn.Histogram",
    "faceexpr.tasks.representations.NetworkFeatures": "faceexpr.tasks.knn.NetworkFeatures",
    "faceexpr.tasks.representations.RawPixels": "faceexpr.tasks.knn.RawPixels",
    "faceexpr.tasks.representations.Representation": "faceexpr.tasks.knn.Representation",
}
"""The import path of a class as version 0.1 wrote it, or its short name, and where the class is now."""


def redirect(value: Any) -> Any:
    """Return plain values, flags such as ``--data=NAME`` among them, with today's path for each class of 0.1."""
    if isinstance(value, Mapping):
        return {key: redirect(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redirect(item) for item in value]
    if isinstance(value, str):
        flag, equals, name = value.rpartition("=")
        return flag + equals + RENAMED.get(name, name)
    return value
