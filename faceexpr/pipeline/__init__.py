"""The two-step system: images in, faces with the probabilities of their expressions out."""

from faceexpr.pipeline.classifiers import Classifier, OnnxClassifier, TaskClassifier, load_classifier
from faceexpr.pipeline.detectors import Detector, GroundTruth, NetDetector, OnnxDetector, load_detector
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.pipeline.records import FaceResult, ImageResult, read_records
from faceexpr.utils.crop import Crop

__all__ = [
    "Classifier",
    "Crop",
    "Detector",
    "FacePipeline",
    "FaceResult",
    "GroundTruth",
    "ImageResult",
    "NetDetector",
    "OnnxClassifier",
    "OnnxDetector",
    "TaskClassifier",
    "load_classifier",
    "load_detector",
    "read_records",
]
