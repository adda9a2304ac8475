"""The two steps on a few pictures at a time: boxes and crops first, then expressions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.boxes.detections import Detections
from faceexpr.data.image_reading import face_tensor
from faceexpr.models.calibrator import mass_before
from faceexpr.pipeline.classifier import Classifier
from faceexpr.pipeline.crop import Box, Crop, clipped, cut
from faceexpr.pipeline.detectors import Detector
from faceexpr.pipeline.ground_truth import GroundTruth
from faceexpr.pipeline.result import NOT_FINITE, FaceResult, PictureResult, failed, significant
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DecodedImage
from faceexpr.utils.text import counted


@dataclass(frozen=True, eq=False)
class Found:
    """A picture after the first step.

    Attributes:
        source: its path, or what it was given as.
        picture: its pixels.
        boxes: the faces in pixels of the upright original, inside it, the surest first.
        scores: how sure the detector is of each.
        crops: the faces as they were cut out, each uint8 (h, w, 3).
        notes: remarks on the picture and on boxes that were left out.
    """

    source: str
    picture: DecodedImage
    boxes: tuple[Box, ...]
    scores: tuple[float, ...]
    crops: tuple[NDArray[np.uint8], ...]
    notes: tuple[str, ...]


def find(
    detector: Detector | GroundTruth, pictures: Sequence[tuple[str, DecodedImage]], crop: Crop
) -> list[Found | PictureResult]:
    """Find the faces and cut them out.

    Args:
        detector: finds the boxes.
        pictures: each with its source.
        crop: how a face is cut out.

    Returns:
        For each picture its faces, or its result where annotations know nothing of it.
    """
    if isinstance(detector, GroundTruth):
        return [_annotated(detector, source, picture, crop) for source, picture in pictures]
    detections = detector([picture.pixels for _, picture in pictures]) if pictures else []
    return [
        _found(source, picture, result, crop) for (source, picture), result in zip(pictures, detections, strict=True)
    ]


def _annotated(truth: GroundTruth, source: str, picture: DecodedImage, crop: Crop) -> Found | PictureResult:
    try:
        return _found(source, picture, truth.faces(source, picture.reduction), crop)
    except FaceExprError as error:
        return failed(source, str(error))


def _found(source: str, picture: DecodedImage, detections: Detections, crop: Crop) -> Found:
    boxes, scores, crops = [], [], []
    left_out: Counter[str] = Counter()
    for corners, score in zip(detections.boxes.tolist(), detections.scores.tolist(), strict=True):
        box = clipped([value * picture.reduction for value in corners], picture.size, crop.min_face)
        if isinstance(box, str) or not isfinite(score):
            left_out[box if isinstance(box, str) else "without a finite score"] += 1
            continue
        boxes.append(box)
        scores.append(score)
        crops.append(cut(picture.pixels, [value / picture.reduction for value in box], crop))
    notes = list(picture.notes)
    if detections.limited:
        notes.append(f"more than {len(detections)} faces were found; the surest are given (max_faces)")
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        notes.append(f"{counted(left_out.total(), 'box')} left out: {reasons}")
    return Found(source, picture, tuple(boxes), tuple(scores), tuple(crops), tuple(notes))


def classify(
    classifier: Classifier, found: Sequence[Found], face_batch: int, threshold: float | None = None
) -> list[PictureResult]:
    """Tell the expressions of all faces of some pictures.

    Args:
        classifier: it is called with 1 to ``face_batch`` faces at a time, and not at all where there is no face.
        found: the pictures.
        face_batch: faces in a batch.
        threshold: of the prediction sets, where they are wanted.
    """
    faces = [crop for picture in found for crop in picture.crops]
    rows = _probabilities(classifier, faces, face_batch)
    return [_result(picture, rows, classifier.class_names, threshold) for picture in found]


def _probabilities(
    classifier: Classifier, faces: Sequence[NDArray[np.uint8]], face_batch: int
) -> Iterator[list[float]]:
    for start in range(0, len(faces), face_batch):
        batch: Tensor = torch.stack(
            [face_tensor(face, classifier.image_size) for face in faces[start : start + face_batch]]
        )
        yield from classifier(batch).tolist()


def _result(
    found: Found, rows: Iterator[list[float]], class_names: Sequence[str], threshold: float | None
) -> PictureResult:
    faces = tuple(
        _face(box, score, next(rows), class_names, threshold)
        for box, score in zip(found.boxes, found.scores, strict=True)
    )
    broken = [str(number) for number, face in enumerate(faces, 1) if face.probabilities is None]
    if not broken:
        return PictureResult(found.source, "ok", None, found.picture.size, faces, found.notes)
    reason = f"{NOT_FINITE}: face {', '.join(broken)} of {len(faces)}"
    return PictureResult(found.source, "error", reason, found.picture.size, faces, found.notes)


def _face(
    box: Box, score: float, row: Sequence[float], class_names: Sequence[str], threshold: float | None
) -> FaceResult:
    left, top, right, bottom = (round(value, 2) for value in box)
    place = (left, top, right, bottom)
    if not all(isfinite(value) for value in row):
        return FaceResult(place, significant(score), None, None)
    probabilities = {name: significant(value) for name, value in zip(class_names, row, strict=True)}
    likely = max(probabilities, key=probabilities.__getitem__)
    expressions = None if threshold is None else _expressions(probabilities, threshold)
    return FaceResult(place, significant(score), likely, probabilities, expressions)


def _expressions(probabilities: Mapping[str, float], threshold: float) -> tuple[str, ...]:
    """Return the prediction set, the most probable first; from the probabilities as they are written."""
    before = mass_before([[*probabilities.values()]])[0].tolist()
    found = [name for name, mass in zip(probabilities, before, strict=True) if mass <= threshold]
    return tuple(sorted(found, key=probabilities.__getitem__, reverse=True))
