"""Drawn pictures and cut-out faces as files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceexpr.pipeline.pipeline import Analysed
from faceexpr.pipeline.result import FaceResult
from faceexpr.utils.files import write_file
from faceexpr.utils.labels import colour
from faceexpr.visualization.boxes import draw_boxes

UNKNOWN = "?"

_NAMED = 3  # expressions of a prediction set in a caption


def draw(analysed: Analysed, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Draw the faces of a picture that could be read: boxes, top expressions and a chart of the probabilities.

    Args:
        analysed: the picture and its faces.
        class_names: names of the classes, in the order of the charts.

    Returns:
        RGB, uint8 (H, W, 3), of the size in which the picture was analysed.
    """
    assert analysed.pixels is not None
    faces = analysed.result.faces
    return draw_boxes(
        analysed.pixels,
        np.array([face.box for face in faces]).reshape(-1, 4) / analysed.reduction,
        [_caption(face) for face in faces],
        [colour(face.expression or UNKNOWN) for face in faces],
        [[*(face.probabilities or {}).values()] for face in faces],
        [colour(name) for name in class_names],
        class_names,
    )


def _caption(face: FaceResult) -> str:
    if face.expression is None or face.probabilities is None:
        return UNKNOWN
    if face.expressions is not None and len(face.expressions) > 1:
        return _either(face.expressions)
    return f"{face.expression} {face.probabilities[face.expression]:.0%}"


def _either(names: Sequence[str]) -> str:
    """Return names as people say them, those of a long set with the number of the rest."""
    rest = len(names) - _NAMED
    last = names[-1] if rest <= 0 else f"{rest + 1} more"
    return f"{', '.join(names[: min(len(names), _NAMED) - 1])} or {last}"


def write_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write pixels as PNG where the name ends so, or else as JPEG.

    Args:
        pixels: RGB, uint8 (H, W, 3).
        path: the file.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if path.suffix.lower() == ".png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=92)
    write_file(path, buffer.getvalue())
