"""How large a face stands in FER-2013's frames, and in a detector's boxes on photographs: by its eyes and its mouth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from common.finders import Finder, installed
from common.scenes import Scene
from faceexpr.utils.images import read_image

ENLARGED = 192
"""Side in pixels that a frame of FER-2013 is enlarged to, since a finder of small faces finds no marks in them."""

LEAST = 40
"""Shorter side in pixels of the boxes that are looked at: marks of smaller faces are guesses."""


class Placed(NamedTuple):
    """Where a face stands in a frame or in a square about a box, in parts of its side.

    Attributes:
        height: of the face, from the middle of the eyes to that of the mouth's corners.
        eyes: from the upper border down to the middle of the eyes.
    """

    height: float
    eyes: float


Marks: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"
"""The middle of the eyes and that of the mouth's corners, each (x, y) in pixels."""

MarkFinder: TypeAlias = "Callable[[NDArray[np.uint8]], list[Marks]]"
"""Takes an RGB image, uint8 (H, W, 3)."""


def mark_finder() -> MarkFinder | None:
    """Return MTCNN, which finds eyes and mouths; None where facenet-pytorch is not installed."""
    module = installed("facenet_pytorch")
    if module is None:
        return None
    network = module.MTCNN(keep_all=True, min_face_size=LEAST, device="cpu")

    def find(pixels: NDArray[np.uint8]) -> list[Marks]:
        _, _, points = network.detect(pixels, landmarks=True)
        return [] if points is None else [_middles(np.asarray(five, dtype=np.float64)) for five in points]

    return find


def _middles(five: NDArray[np.float64]) -> Marks:
    """Return the middles for the eyes, the nose and the corners of the mouth, (5, 2)."""
    return five[:2].mean(axis=0), five[3:].mean(axis=0)


def in_frames(frames: NDArray[np.uint8], find: MarkFinder) -> list[Placed]:
    """Return where faces stand in frames of FER-2013, uint8 (N, 48, 48); those with one face only."""
    placed = []
    border = ENLARGED // 2
    for frame in frames:
        enlarged = np.asarray(Image.fromarray(frame).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC))
        around = np.pad(enlarged, border, mode="edge")
        found = find(np.repeat(around[..., None], 3, axis=2))
        if len(found) == 1:
            eyes, mouth = found[0]
            placed.append(Placed((mouth[1] - eyes[1]) / ENLARGED, (eyes[1] - border) / ENLARGED))
    return placed


def in_boxes(scenes: Sequence[Scene], detector: Finder, find: MarkFinder, min_score: float) -> list[Placed]:
    """Return where faces stand in the squares about a detector's boxes: boxes with the marks of one face only."""
    placed = []
    for scene in scenes:
        pixels = read_image(scene.path).pixels
        found = detector(pixels)
        marks = find(pixels)
        for left, top, right, bottom in found.boxes[found.scores >= min_score].tolist():
            inside = [one for one in marks if all(left < x < right and top < y < bottom for x, y in one)]
            if len(inside) == 1 and min(right - left, bottom - top) >= LEAST:
                eyes, mouth = inside[0]
                side = max(right - left, bottom - top)
                upper = (top + bottom - side) / 2
                placed.append(Placed((mouth[1] - eyes[1]) / side, (eyes[1] - upper) / side))
    return placed


def median(placed: Sequence[Placed]) -> Placed:
    """Return the median of each number."""
    values: Any = torch.tensor(placed).median(dim=0).values.tolist()
    return Placed(*values)
