"""The two steps on a few images at a time: boxes and crops first, then expressions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.boxes.detections import Detections
from faceexpr.data.image_reading import face_tensor
from faceexpr.models.calibrator import mass_before
from faceexpr.pipeline.classifiers import Classifier
from faceexpr.pipeline.crop import Box, Crop, clip_box, cut_face
from faceexpr.pipeline.detectors import Detector, GroundTruth
from faceexpr.pipeline.records import NOT_FINITE, FaceResult, ImageResult
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DecodedImage
from faceexpr.utils.text import counted


@dataclass(frozen=True, eq=False)
class FoundFaces:
    """An image after the first step.

    Attributes:
        source: its path, or what it was given as.
        image: its pixels.
        boxes: the faces in pixels of the upright original, inside it, the surest first.
        scores: how sure the detector is of each.
        crops: the faces as they were cut out, each uint8 (h, w, 3).
        notes: remarks on the image and on boxes that were left out.
    """

    source: str
    image: DecodedImage
    boxes: tuple[Box, ...]
    scores: tuple[float, ...]
    crops: tuple[NDArray[np.uint8], ...]
    notes: tuple[str, ...]


def find_faces(
    detector: Detector | GroundTruth, images: Sequence[tuple[str, DecodedImage]], crop: Crop
) -> list[FoundFaces | ImageResult]:
    """Find the faces and cut them out.

    Args:
        detector: finds the boxes.
        images: each with its source.
        crop: how a face is cut out.

    Returns:
        For each image its faces, or its result where annotations know nothing of it.
    """
    if isinstance(detector, GroundTruth):
        return [_look_up(detector, source, image, crop) for source, image in images]
    detections = detector([image.pixels for _, image in images]) if images else []
    return [_cut_faces(source, image, result, crop) for (source, image), result in zip(images, detections, strict=True)]


def _look_up(truth: GroundTruth, source: str, image: DecodedImage, crop: Crop) -> FoundFaces | ImageResult:
    try:
        return _cut_faces(source, image, truth.faces(source, image.reduction), crop)
    except FaceExprError as error:
        return ImageResult(source, "error", str(error), None, ())


def _cut_faces(source: str, image: DecodedImage, detections: Detections, crop: Crop) -> FoundFaces:
    boxes, scores, crops = [], [], []
    left_out: Counter[str] = Counter()
    for corners, score in zip(detections.boxes.tolist(), detections.scores.tolist(), strict=True):
        box = clip_box([value * image.reduction for value in corners], image.size, crop.min_face)
        if isinstance(box, str) or not isfinite(score):
            left_out[box if isinstance(box, str) else "without a finite score"] += 1
            continue
        boxes.append(box)
        scores.append(score)
        crops.append(cut_face(image.pixels, [value / image.reduction for value in box], crop))
    notes = list(image.notes)
    if detections.limited:
        notes.append(f"more than {len(detections)} faces were found; the surest are given (max_faces)")
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        notes.append(f"{counted(left_out.total(), 'box')} left out: {reasons}")
    return FoundFaces(source, image, tuple(boxes), tuple(scores), tuple(crops), tuple(notes))


def classify_faces(
    classifier: Classifier, images: Sequence[FoundFaces], face_batch: int, threshold: float | None = None
) -> list[ImageResult]:
    """Tell the expressions of all faces of some images.

    Args:
        classifier: it is called with 1 to ``face_batch`` faces at a time, and not at all where there is no face.
        images: with their faces.
        face_batch: faces in a batch.
        threshold: of the prediction sets, where they are wanted.
    """
    faces = [crop for image in images for crop in image.crops]
    rows = _probabilities(classifier, faces, face_batch)
    return [_make_result(image, rows, classifier.class_names, threshold) for image in images]


def _probabilities(
    classifier: Classifier, faces: Sequence[NDArray[np.uint8]], face_batch: int
) -> Iterator[list[float]]:
    for start in range(0, len(faces), face_batch):
        batch: Tensor = torch.stack(
            [face_tensor(face, classifier.image_size) for face in faces[start : start + face_batch]]
        )
        yield from classifier(batch).tolist()


def _make_result(
    image: FoundFaces, rows: Iterator[list[float]], class_names: Sequence[str], threshold: float | None
) -> ImageResult:
    faces = tuple(
        _make_face(box, score, next(rows), class_names, threshold)
        for box, score in zip(image.boxes, image.scores, strict=True)
    )
    broken = [str(number) for number, face in enumerate(faces, 1) if face.probabilities is None]
    if not broken:
        return ImageResult(image.source, "ok", None, image.image.size, faces, image.notes)
    reason = f"{NOT_FINITE}: face {', '.join(broken)} of {len(faces)}"
    return ImageResult(image.source, "error", reason, image.image.size, faces, image.notes)


def _make_face(
    box: Box, score: float, row: Sequence[float], class_names: Sequence[str], threshold: float | None
) -> FaceResult:
    left, top, right, bottom = (round(value, 2) for value in box)
    place = (left, top, right, bottom)
    if not all(isfinite(value) for value in row):
        return FaceResult(place, _round(score), None, None)
    probabilities = {name: _round(value) for name, value in zip(class_names, row, strict=True)}
    ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    if threshold is None:
        return FaceResult(place, _round(score), ranked[0], probabilities)
    # The prediction set, from the probabilities as they are given.
    before = dict(zip(probabilities, mass_before([[*probabilities.values()]])[0].tolist(), strict=True))
    expressions = tuple(name for name in ranked if before[name] <= threshold)
    return FaceResult(place, _round(score), ranked[0], probabilities, expressions)


def _round(value: float) -> float:
    """Return a number with six significant digits: beyond them two machines differ."""
    return float(f"{value:.6g}")
