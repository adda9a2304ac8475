"""The inner loop of matching, compiled by Numba; importing this file takes a third of a second."""

from __future__ import annotations

import contextlib
from typing import Any

import numba
import numpy as np


def _match(
    found: Any, found_starts: Any, truth: Any, truth_starts: Any, crowd: Any, left_out: Any, thresholds: Any
) -> Any:
    matched = np.full((len(thresholds), len(found)), -1, np.int32)
    for picture in range(len(found_starts) - 1):
        first, first_truth = found_starts[picture], truth_starts[picture]
        number, faces = found_starts[picture + 1] - first, truth_starts[picture + 1] - first_truth
        if number == 0 or faces == 0:
            continue
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
        taken = np.zeros(faces, np.bool_)
        for level in range(len(thresholds)):
            taken[:] = False
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


match_boxes = numba.njit(_match, nogil=True)
with contextlib.suppress(RuntimeError):  # no folder to keep the compiled code in: compile in each process
    match_boxes.enable_caching()
