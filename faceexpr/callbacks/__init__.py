"""What accompanies every run: checkpoints, checks, progress, and the record of the configuration."""

from typing import TYPE_CHECKING

from faceexpr.utils.lazy import classes_of

if TYPE_CHECKING:
    from faceexpr.callbacks.calibration import Calibrate
    from faceexpr.callbacks.checkpointing import BestCheckpoint, LastCheckpoint
    from faceexpr.callbacks.classification import ClassificationEvaluation
    from faceexpr.callbacks.detection import DetectionEvaluation
    from faceexpr.callbacks.predictions import PredictionWriter
    from faceexpr.callbacks.record import RunRecord
    from faceexpr.callbacks.robustness import Robustness
    from faceexpr.callbacks.slices import Slices

__all__ = [
    "BestCheckpoint", "Calibrate", "ClassificationEvaluation", "DetectionEvaluation", "LastCheckpoint",
    "PredictionWriter", "Robustness", "RunRecord", "Slices",
]  # fmt: skip

__getattr__, __dir__ = classes_of(__name__, __path__)
