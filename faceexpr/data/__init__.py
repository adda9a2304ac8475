"""Data sets as LightningDataModules: faces with expressions, and images with boxes."""

from typing import TYPE_CHECKING

from faceexpr.utils.lazy import classes_of

if TYPE_CHECKING:
    from faceexpr.data.augment import Augmentation
    from faceexpr.data.base import ExpressionDataModule
    from faceexpr.data.face_boxes import FaceBoxes
    from faceexpr.data.face_files import FaceFiles
    from faceexpr.data.face_folder import FaceFolder
    from faceexpr.data.fer2013 import FER2013
    from faceexpr.data.ferplus import FERPlus
    from faceexpr.data.published import PublishedFaces
    from faceexpr.data.synthetic import SyntheticFaces, SyntheticScenes

__all__ = [
    "FER2013", "Augmentation", "ExpressionDataModule", "FERPlus", "FaceBoxes", "FaceFiles", "FaceFolder",
    "PublishedFaces", "SyntheticFaces", "SyntheticScenes",
]  # fmt: skip

__getattr__, __dir__ = classes_of(__name__, __path__)
