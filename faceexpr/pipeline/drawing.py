"""Files that are made from an image: drawn with its faces, each face cut out, and what speaks for its expression."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from faceexpr.data.image_reading import face_tensor
from faceexpr.pipeline.classifiers import TaskClassifier
from faceexpr.pipeline.pipeline import Analysis, FacePipeline
from faceexpr.pipeline.records import CROPS, EXPLAINED, PICTURES, FaceResult
from faceexpr.utils.files import write_file
from faceexpr.utils.labels import colour
from faceexpr.visualization.boxes import draw_boxes, font_for
from faceexpr.visualization.explain import side_by_side

UNKNOWN = "?"

_NAMED = 3  # expressions of a prediction set in a caption
_HEIGHT, _GAP, _BAND = 256, 8, 34
_TEXT = 17


@dataclass(frozen=True)
class ImageFiles:
    """Which files are made from each image, and where.

    Attributes:
        out: folder of the results.
        pictures: the image with its boxes, expressions and probabilities, below ``pictures``.
        crops: each face as it was cut out, below ``crops``.
        explain: each face beside the parts of it that speak for its expression, below ``explained``.
    """

    out: Path
    pictures: bool = False
    crops: bool = False
    explain: bool = False

    def write(self, name: str, analysis: Analysis, pipeline: FacePipeline) -> None:
        """Write the files of an image, whose names begin with ``name``."""
        if self.pictures and analysis.pixels is not None:
            write_image(draw_faces(analysis, pipeline.classifier.class_names), self.out / PICTURES / name)
        if self.crops:
            for number, crop in enumerate(analysis.crops, 1):
                write_image(crop, self.out / CROPS / f"{name}.{number}.png")
        if self.explain:
            for number, drawn in explain_faces(pipeline, analysis):
                write_image(drawn, self.out / EXPLAINED / f"{name}.{number}.png")


def draw_faces(analysis: Analysis, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Draw the faces of an image that could be read: boxes, top expressions and a chart of the probabilities.

    Args:
        analysis: the image and its faces.
        class_names: names of the classes, in the order of the charts.

    Returns:
        RGB, uint8 (H, W, 3), of the size in which the image was analysed.
    """
    assert analysis.pixels is not None
    faces = analysis.result.faces
    return draw_boxes(
        analysis.pixels,
        np.array([face.box for face in faces]).reshape(-1, 4) / analysis.reduction,
        [caption(face) for face in faces],
        [colour(face.expression or UNKNOWN) for face in faces],
        [[*(face.probabilities or {}).values()] for face in faces],
        [colour(name) for name in class_names],
        class_names,
    )


def caption(face: FaceResult) -> str:
    """Return what is written beside a face: its expression in per cent, or those that it may be as people say them."""
    if face.expression is None or face.probabilities is None:
        return UNKNOWN
    names = face.expressions or ()
    if len(names) <= 1:
        return f"{face.expression} {face.probabilities[face.expression]:.0%}"
    rest = len(names) - _NAMED
    last = names[-1] if rest <= 0 else f"{rest + 1} more"
    return f"{', '.join(names[: min(len(names), _NAMED) - 1])} or {last}"


def explain_faces(pipeline: FacePipeline, analysis: Analysis) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Draw each face of an image beside what speaks for its expression.

    Args:
        pipeline: has made the analysis, with a `TaskClassifier` of a network.
        analysis: the image and its faces.

    Yields:
        The number of the face, from 1, and its drawing, RGB, uint8 (H, W, 3). Faces without an expression, whose
        probabilities are not finite, are left out.
    """
    classifier, size = pipeline.classifier, pipeline.face_batch
    assert isinstance(classifier, TaskClassifier)
    faces = [
        (number, crop, face.expression, (face.probabilities or {}).get(face.expression, 0.0))
        for number, (crop, face) in enumerate(zip(analysis.crops, analysis.result.faces, strict=True), 1)
        if face.expression is not None
    ]
    for batch in (faces[start : start + size] for start in range(0, len(faces), size)):
        seen = torch.stack([face_tensor(crop, classifier.image_size) for _, crop, _, _ in batch])
        maps = classifier.explain(seen, [name for _, _, name, _ in batch])
        for (number, crop, name, share), values in zip(batch, maps, strict=True):
            yield number, _add_captions(side_by_side(crop, values, _HEIGHT, _GAP), name, share)


def _add_captions(pair: NDArray[np.uint8], name: str, share: float) -> NDArray[np.uint8]:
    """Write the expression under the face, and what is seen under the map."""
    height, width = pair.shape[:2]
    canvas = Image.new("RGB", (width, height + _BAND), "white")
    canvas.paste(Image.fromarray(pair))
    pen = ImageDraw.Draw(canvas)
    half = (width - _GAP) // 2
    middle = height + _BAND / 2
    pen.rectangle((0, height + 10, 13, height + 23), fill=colour(name))
    for left, room, text in (
        (20, half - 20, f"{name} {share:.0%}"),
        (half + _GAP, half, f"what speaks for {name}"),
    ):
        length = font_for(text, _TEXT).getlength(text)
        font = font_for(text, max(6, int(_TEXT * min(1.0, room / length))))
        pen.text((left, middle), text, font=font, fill="#222222", anchor="lm")
    return np.asarray(canvas)


def write_image(pixels: NDArray[np.uint8], path: Path) -> None:
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
