"""Annotated boxes in the place of a detector's: what the second step does when the first makes no mistake."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from faceexpr.boxes.detections import Detections
from faceexpr.data.annotations.records import AnnotatedImage, Annotations
from faceexpr.utils.errors import FaceExprError


def by_path(annotations: Annotations) -> dict[str, AnnotatedImage]:
    """Return the records by the real path of their pictures, through links and relative parts."""
    return {os.path.realpath(record.path): record for record in annotations.images}


class GroundTruth:
    """Looks the faces of a picture up by its path.

    Faces that are marked to be ignored are left out. Every score is 1.

    Args:
        annotations: the pictures and their faces.
        name: of the file that they come from, for messages.
    """

    def __init__(self, annotations: Annotations, name: str = "the annotations") -> None:
        self.name = name
        self._records = by_path(annotations)

    def faces(self, path: str | os.PathLike[str], reduction: int = 1) -> Detections:
        """Return the faces of one picture.

        Args:
            path: its file.
            reduction: how many pixels of the file, in each direction, one pixel of the picture at hand stands for.

        Raises:
            FaceExprError: nothing is known of the faces of this picture.
        """
        record = self._records.get(os.path.realpath(path))
        if record is None or not record.labelled:
            raise FaceExprError(f"{Path(path)}: {self.name} does not say where its faces are")
        boxes = torch.from_numpy(record.boxes[~record.ignored]).float() / reduction
        return Detections(boxes, torch.ones(len(boxes)))
