"""Face detectors, each a function from pixels to boxes; those of other people where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections
from faceexpr.pipeline.detectors import GroundTruth, load_detector
from faceexpr.weights.model_file import DETECTOR

Finder: TypeAlias = "Callable[[NDArray[np.uint8]], Detections]"
"""Takes an RGB image, uint8 (H, W, 3)."""


def ours(detector: str = DETECTOR) -> Finder:
    """Return a detector of this package: a checkpoint, a run folder or the name of one that comes with it."""
    loaded = load_detector(detector)
    assert not isinstance(loaded, GroundTruth)

    def find(pixels: NDArray[np.uint8]) -> Detections:
        return loaded([pixels])[0]

    return find


def mtcnn() -> Finder | None:
    """Return MTCNN (Zhang et al., 2016), smallest face 20 pixels; None where facenet-pytorch is not installed."""
    module = installed("facenet_pytorch")
    if module is None:
        return None
    network = module.MTCNN(keep_all=True, min_face_size=20, device="cpu")

    def find(pixels: NDArray[np.uint8]) -> Detections:
        boxes, scores = network.detect(pixels)
        return _sorted(*((np.zeros((0, 4)), np.zeros(0)) if boxes is None else (boxes, scores)))

    return find


def yunet(file: str | None, threads: int, min_score: float | None = None) -> Finder | None:
    """Return YuNet (Wu et al., 2023) in OpenCV's network runner; None where OpenCV or the file is not there.

    Args:
        file: such as face_detection_yunet_2023mar.onnx.
        threads: of OpenCV.
        min_score: less sure boxes are left out; OpenCV's own default (0.9) where it is None.
    """
    opencv = installed("cv2")
    if opencv is None or file is None:
        return None
    opencv.setNumThreads(threads)
    network = opencv.FaceDetectorYN.create(file, "", (320, 320))
    if min_score is not None:
        network.setScoreThreshold(min_score)

    def find(pixels: NDArray[np.uint8]) -> Detections:
        size = pixels.shape[1], pixels.shape[0]
        if tuple(network.getInputSize()) != size:
            network.setInputSize(size)
        _, faces = network.detect(opencv.cvtColor(pixels, opencv.COLOR_RGB2BGR))
        faces = np.zeros((0, 15)) if faces is None else faces
        return _sorted(np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1), faces[:, 14])

    return find


def installed(name: str) -> Any | None:
    """Return a module of another project, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _sorted(boxes: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]) -> Detections:
    order = np.argsort(-scores, kind="stable")
    return Detections(
        torch.from_numpy(boxes[order].astype(np.float32)), torch.from_numpy(scores[order].astype(np.float32))
    )
