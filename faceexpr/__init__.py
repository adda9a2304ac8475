"""Train, compare and ship face detection and facial-expression recognition."""

import os
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.lazy import classes_of

if TYPE_CHECKING:
    from faceexpr.pipeline.pipeline import FacePipeline

__all__ = ["FaceExprError", "FacePipeline", "__version__"]

__version__ = version("faceexpr")

# A notebook names its backend of matplotlib to all that it starts; without that module, matplotlib is not imported.
_backend = os.environ.get("MPLBACKEND", "").partition("module://")[2].partition(".")[0]
if _backend and find_spec(_backend) is None:
    os.environ["MPLBACKEND"] = "agg"

__getattr__, __dir__ = classes_of(__name__, [], {"FacePipeline": "faceexpr.pipeline.pipeline"})
