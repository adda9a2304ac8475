"""Data sets as LightningDataModules: faces with expressions, and images with boxes."""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceexpr.data.face_boxes import FaceBoxes
    from faceexpr.data.face_files import FaceFiles
    from faceexpr.data.face_folder import FaceFolder
    from faceexpr.data.fer2013 import FER2013
    from faceexpr.data.ferplus import FERPlus
    from faceexpr.data.published import PublishedFaces
    from faceexpr.data.synthetic import SyntheticFaces, SyntheticScenes

__all__ = [
    "FER2013",
    "FERPlus",
    "FaceBoxes",
    "FaceFiles",
    "FaceFolder",
    "PublishedFaces",
    "SyntheticFaces",
    "SyntheticScenes",
]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: the modules of this folder import each other through it.
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        found = getattr(import_module(module.name), name, None)
        if isinstance(found, type) and found.__module__.startswith(f"{__name__}."):
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
