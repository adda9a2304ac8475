"""The two-step system: images in, faces with the probabilities of their expressions out."""

from typing import TYPE_CHECKING

from faceexpr.utils.lazy import classes_of

if TYPE_CHECKING:
    from faceexpr.pipeline.analysis import ImageFiles
    from faceexpr.pipeline.classifiers import Classifier, OnnxClassifier, TaskClassifier, load_classifier
    from faceexpr.pipeline.detectors import Detector, GroundTruth, NetDetector, OnnxDetector, load_detector
    from faceexpr.pipeline.pipeline import Analysis, FacePipeline
    from faceexpr.pipeline.records import FaceResult, ImageResult, read_records
    from faceexpr.utils.crop import Crop

__all__ = [
    "Analysis", "Classifier", "Crop", "Detector", "FacePipeline", "FaceResult", "GroundTruth", "ImageFiles",
    "ImageResult", "NetDetector", "OnnxClassifier", "OnnxDetector", "TaskClassifier", "load_classifier",
    "load_detector", "read_records",
]  # fmt: skip

__getattr__, __dir__ = classes_of(
    __name__,
    [],
    {
        **dict.fromkeys(("Analysis", "FacePipeline"), "faceexpr.pipeline.pipeline"),
        **dict.fromkeys(("FaceResult", "ImageResult", "read_records"), "faceexpr.pipeline.records"),
        **dict.fromkeys(
            ("Classifier", "OnnxClassifier", "TaskClassifier", "load_classifier"), "faceexpr.pipeline.classifiers"
        ),
        **dict.fromkeys(
            ("Detector", "GroundTruth", "NetDetector", "OnnxDetector", "load_detector"), "faceexpr.pipeline.detectors"
        ),
        "Crop": "faceexpr.utils.crop",
        "ImageFiles": "faceexpr.pipeline.analysis",
    },
)
