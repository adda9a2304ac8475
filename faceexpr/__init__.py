"""faceexpr: train, compare and ship face detection and facial-expression recognition."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("faceexpr")
