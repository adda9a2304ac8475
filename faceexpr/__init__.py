"""Train, compare and ship face detection and facial-expression recognition."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceexpr.pipeline.pipeline import FacePipeline

__all__ = ["FacePipeline", "__version__"]

__version__ = version("faceexpr")


def __getattr__(name: str) -> Any:
    # Only when it is asked for: it loads torch, and `faceexpr --help` has to be instant.
    if name == "FacePipeline":
        return import_module("faceexpr.pipeline.pipeline").FacePipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
