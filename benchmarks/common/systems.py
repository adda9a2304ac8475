"""Whole systems, each a function from the file of an image to faces with an expression."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from common.finders import installed
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.utils.labels import canonical
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR


@dataclass(frozen=True)
class Face:
    """A face that a system has found.

    Attributes:
        box: left, top, right, bottom in pixels.
        expression: one of `faceexpr.utils.labels.FER_NAMES`; None for one that these do not have.
    """

    box: tuple[float, float, float, float]
    expression: str | None


System: TypeAlias = "Callable[[Path], Sequence[Face]]"
"""Gives the faces in a file, the surest first where it knows."""


def ours(detector: str = DETECTOR, classifier: str = CLASSIFIER) -> System:
    """Return this package's two steps with their defaults.

    Args:
        detector: a checkpoint, a run folder or the name of a model that comes with the package.
        classifier: the same.
    """
    pipeline = FacePipeline(detector, classifier)

    def analyse(path: Path) -> list[Face]:
        return [Face(face.box, canonical(face.expression or "")) for face in pipeline(path).faces]

    return analyse


def fer(mtcnn: bool, threads: int) -> System | None:
    """Return the package fer (Shenk, after Arriaga's mini-Xception) with its defaults; None where it is not installed.

    Args:
        mtcnn: find faces with facenet-pytorch's MTCNN in the place of OpenCV's Haar cascade.
        threads: of OpenCV; its TensorFlow Lite takes one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # torch needs it for MTCNN, and it crashes where TensorFlow is loaded before it.
    installed("triton")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what fer and TensorFlow will one day do without
        opencv, module = installed("cv2"), installed("fer.fer")
        if opencv is None or module is None:
            return None
        system = module.FER(mtcnn=mtcnn)
    opencv.setNumThreads(threads)

    def analyse(path: Path) -> list[Face]:
        return [_face(found) for found in system.detect_emotions(str(path))]

    return analyse


def _face(found: dict[str, Any]) -> Face:
    left, top, width, height = (float(value) for value in found["box"])
    expression = max(found["emotions"], key=found["emotions"].__getitem__)
    return Face((left, top, left + width, top + height), canonical(expression))
