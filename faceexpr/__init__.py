"""Train, compare and ship face detection and facial-expression recognition."""

import os
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from faceexpr.utils.errors import FaceExprError

if TYPE_CHECKING:
    from faceexpr.pipeline.pipeline import FacePipeline

__all__ = ["FaceExprError", "FacePipeline", "__version__"]

__version__ = version("faceexpr")

# A notebook names its backend of matplotlib to all that it starts; without that module, matplotlib is not imported.
_backend = os.environ.get("MPLBACKEND", "").partition("module://")[2].partition(".")[0]
if _backend and find_spec(_backend) is None:
    os.environ["MPLBACKEND"] = "agg"


def __getattr__(name: str) -> Any:
    # Only when it is asked for: it loads torch, and `faceexpr --help` has to be instant.
    if name == "FacePipeline":
        return import_module("faceexpr.pipeline.pipeline").FacePipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
