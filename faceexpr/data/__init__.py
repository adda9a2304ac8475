"""Data sets as LightningDataModules: faces with expressions, and images with boxes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceexpr.data.face_boxes import FaceBoxes
    from faceexpr.data.face_files import FaceFiles
    from faceexpr.data.face_folder import FaceFolder
    from faceexpr.data.fer2013 import FER2013
    from faceexpr.data.ferplus import FERPlus
    from faceexpr.data.synthetic import SyntheticFaces, SyntheticScenes

__all__ = ["FER2013", "FERPlus", "FaceBoxes", "FaceFiles", "FaceFolder", "SyntheticFaces", "SyntheticScenes"]

_MODULES = {
    "FER2013": "fer2013",
    "FERPlus": "ferplus",
    "FaceBoxes": "face_boxes",
    "FaceFiles": "face_files",
    "FaceFolder": "face_folder",
    "SyntheticFaces": "synthetic",
    "SyntheticScenes": "synthetic",
}


def __getattr__(name: str) -> Any:
    # Only when it is asked for: the modules of this folder import each other through it.
    if name in _MODULES:
        return getattr(import_module(f"faceexpr.data.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
