"""Which detection is which face: the assignment that every score of a detector starts from."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections


@dataclass(frozen=True, eq=False)
class Truth:
    """The faces that are in an image.

    Attributes:
        boxes: float32 (F, 4), left, top, right, bottom in pixels.
        ignored: bool (F,), faces that are neither missed when they are not found nor false when they are, any number
            of times; as COCO's crowds, a detection is of such a face by the share of its own area that lies inside.
    """

    boxes: NDArray[np.float32]
    ignored: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Stacked:
    """Detections and faces of many images as arrays, the images one after the other.

    Attributes:
        boxes: detections, float64 (D, 4), in each image the surest first.
        scores: float32 (D,).
        starts: int64 (N + 1,), the first detection of each image and the number of all.
        truth: faces, float64 (F, 4).
        truth_starts: int64 (N + 1,), the first face of each image and the number of all.
        ignored: bool (F,).
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    starts: NDArray[np.int64]
    truth: NDArray[np.float64]
    truth_starts: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area of each box, (N, 4) -> (N,)."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def stack(truths: Sequence[Truth], found: Sequence[Detections], most: int) -> Stacked:
    """Put images one after the other.

    Args:
        truths: the faces of each image.
        found: the detections in each image, on any device and in any order.
        most: detections of an image that are looked at, the surest.
    """
    boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]  # there may be no image
    for detections in found:
        certainty = detections.scores.numpy(force=True).astype(np.float32, copy=False)
        order = np.argsort(-certainty, kind="stable")[:most]
        boxes.append(detections.boxes.numpy(force=True)[order].reshape(-1, 4))
        scores.append(certainty[order])
    faces = [np.asarray(truth.boxes, np.float32).reshape(-1, 4) for truth in truths]
    return Stacked(
        boxes=np.concatenate(boxes).astype(np.float64),
        scores=np.concatenate(scores),
        starts=np.cumsum([*map(len, scores)], dtype=np.int64),
        truth=np.concatenate([boxes[0], *faces]).astype(np.float64),
        truth_starts=np.cumsum([0, *map(len, faces)], dtype=np.int64),
        ignored=np.concatenate([np.zeros(0, np.bool_), *(truth.ignored for truth in truths)]),
    )


def match(
    stacked: Stacked, thresholds: Sequence[float], left_out: NDArray[np.bool_] | None = None
) -> NDArray[np.int32]:
    """Assign detections to faces as COCO does.

    The surest detection chooses first, and takes the face that it overlaps most among those that nobody has taken. A
    face that is left out is taken only where no other will do; one that is ignored can be taken any number of times.

    Args:
        stacked: the images.
        thresholds: T smallest overlaps (intersection over union), in 0 to 1.
        left_out: bool (F,), faces that do not count, those that are ignored among them; None for just those.

    Returns:
        The number of the face in `Stacked.truth` of each detection, -1 where it has none; int32 (T, D).
    """
    matched: NDArray[np.int32] = _compile_matching()(
        stacked.boxes,
        stacked.starts,
        stacked.truth,
        stacked.truth_starts,
        stacked.ignored,
        stacked.ignored if left_out is None else left_out,
        np.asarray(thresholds, dtype=np.float64),
    )
    return matched


@cache
def _compile_matching() -> Any:
    import numba  # a third of a second

    compiled = numba.njit(_match_boxes, nogil=True)
    with contextlib.suppress(RuntimeError):  # no folder to keep the compiled code in: compile in each process
        compiled.enable_caching()
    return compiled


def _match_boxes(
    found: Any, found_starts: Any, truth: Any, truth_starts: Any, crowd: Any, left_out: Any, thresholds: Any
) -> Any:
    matched = np.full((len(thresholds), len(found)), -1, np.int32)
    for image in range(len(found_starts) - 1):
        first, first_truth = found_starts[image], truth_starts[image]
        number, faces = found_starts[image + 1] - first, truth_starts[image + 1] - first_truth
        overlap = np.zeros((number, faces))
        largest = np.zeros(number)
        for place in range(number):
            box = found[first + place]
            area = (box[2] - box[0]) * (box[3] - box[1])
            for face in range(faces):
                other = truth[first_truth + face]
                width = min(box[2], other[2]) - max(box[0], other[0])
                height = min(box[3], other[3]) - max(box[1], other[1])
                if width <= 0 or height <= 0:
                    continue
                shared = width * height
                union = area
                if not crowd[first_truth + face]:
                    union += (other[2] - other[0]) * (other[3] - other[1]) - shared
                overlap[place, face] = shared / union
                largest[place] = max(largest[place], overlap[place, face])
        for level in range(len(thresholds)):
            taken = np.zeros(faces, np.bool_)
            for place in range(number):
                # A threshold of 1 is met by equal boxes, whatever rounding says.
                most = min(thresholds[level], 1 - 1e-10)
                if largest[place] < most:
                    continue
                best = -1
                for second_choice in (False, True):
                    if best >= 0:
                        break
                    for face in range(faces):
                        if left_out[first_truth + face] != second_choice:
                            continue
                        if taken[face] and not crowd[first_truth + face]:
                            continue
                        if overlap[place, face] >= most:
                            most = overlap[place, face]
                            best = face
                if best >= 0:
                    taken[best] = True
                    matched[level, first + place] = first_truth + best
    return matched


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of the detections in an image, and of its faces.

    Attributes:
        true: bool (D,), detections of a face that counts, one a face.
        false: bool (D,), detections of nothing, or of a face that a surer detection has taken; the rest are of faces
            that are ignored.
        missed: bool (F,), faces that count and were not found.
    """

    true: NDArray[np.bool_]
    false: NDArray[np.bool_]
    missed: NDArray[np.bool_]


def judge(truth: Truth, found: Detections, iou: float) -> Outcome:
    """Match the detections in one image, the surest first, with its faces, where they overlap by ``iou`` or more."""
    face = match(stack([truth], [found], len(found)), [iou])[0]
    counts = ~truth.ignored
    missed = counts.copy()
    missed[face[face >= 0]] = False
    return Outcome(true=np.append(counts, False)[face], false=face < 0, missed=missed)
