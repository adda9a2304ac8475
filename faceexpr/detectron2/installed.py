"""Whether Detectron2 is there, and what to do where it is not."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from faceexpr.utils.errors import FaceExprError

COMMAND = "python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
PAGE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


def require_detectron2() -> None:
    """Import Detectron2, or say how to install it.

    Raises:
        FaceExprError: it is not installed, or its installation does not work.
    """
    if find_spec("detectron2") is None:
        raise FaceExprError(
            f"Detectron2 is not installed, and no package registry has it; install it from its source with `{COMMAND}` "
            f"({PAGE})"
        )
    try:
        import_module("detectron2.engine")
        import_module("detectron2.model_zoo")
    except ImportError as error:
        # Its model zoo needs pkg_resources, which setuptools 81 has dropped.
        advice = " `python -m pip install 'setuptools<81'` gives it" if error.name == "pkg_resources" else PAGE
        raise FaceExprError(
            f"Detectron2 is installed but cannot be imported ({error}); expected a working one: {advice.strip()}"
        ) from error
