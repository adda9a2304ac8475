"""The record that every reader of box annotations gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FaceImage:
    """A picture and the faces in it.

    Attributes:
        path: file of the picture; it need not be there where only the annotation is looked at.
        size: width and height in pixels of the upright picture, that is after its EXIF rotation; (0, 0) for a missing
            picture without faces whose size is not stated.
        boxes: float32 (F, 4), left, top, right, bottom in pixels of the upright picture, inside it, each with an area;
            (0, 4) where there is no face.
        ignored: bool (F,), faces that are neither asked for nor counted as false when found: marked invalid (WIDER
            FACE) or as a crowd (COCO).
        labelled: False where the annotator has skipped the picture, so that nothing is known of its faces.
        flags: further columns of the format, one value a face each, such as WIDER FACE's ``blur``.
        image_id: the id of the picture in its file, where the format has ids.
        url: where the picture can be fetched, where the format says so.
    """

    path: Path
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    ignored: NDArray[np.bool_]
    labelled: bool = True
    flags: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    image_id: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Annotations:
    """What a file of annotations holds.

    Attributes:
        images: one record a picture, in the order of the file.
        notes: what was left out or changed and how often, in sentences for the user.
        category_id: COCO's id of the face category, with which results for this file are written; 1 elsewhere.
    """

    images: list[FaceImage]
    notes: tuple[str, ...] = ()
    category_id: int = 1
