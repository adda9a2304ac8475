"""What speaks for the expression of each face, as pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from faceexpr.data.image_reading import face_tensor
from faceexpr.pipeline.classifier import TaskClassifier
from faceexpr.pipeline.pipeline import Analysed
from faceexpr.utils.labels import colour
from faceexpr.visualization.boxes import font_for
from faceexpr.visualization.explain import side_by_side

_HEIGHT, _GAP, _BAND = 256, 8, 34
_TEXT = 17


def explained(
    classifier: TaskClassifier, analysed: Analysed, face_batch: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Draw each face of a picture beside what speaks for its expression.

    Args:
        classifier: has told the expressions.
        analysed: the picture and its faces.
        face_batch: faces that are explained together.

    Yields:
        The number of the face, from 1, and its picture, RGB, uint8 (H, W, 3). Faces without an expression, whose
        probabilities are not finite, are left out.
    """
    faces = [
        (number, crop, face.expression, (face.probabilities or {}).get(face.expression or "", 0.0))
        for number, (crop, face) in enumerate(zip(analysed.crops, analysed.result.faces, strict=True), 1)
    ]
    named = [(number, crop, name, share) for number, crop, name, share in faces if name is not None]
    for start in range(0, len(named), face_batch):
        batch = named[start : start + face_batch]
        seen = torch.stack([face_tensor(crop, classifier.image_size) for _, crop, _, _ in batch])
        maps = classifier.explain(seen, [name for _, _, name, _ in batch])
        for (number, crop, name, share), values in zip(batch, maps, strict=True):
            yield number, _captioned(side_by_side(crop, values, _HEIGHT, _GAP), name, share)


def _captioned(pair: NDArray[np.uint8], name: str, share: float) -> NDArray[np.uint8]:
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
