"""WIDER FACE's protocol, step by step as the benchmark's own ``eval_tools`` take them; slow, and nothing but plain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

Rows = NDArray[np.float64]

THRESHOLDS = 1000


def evaluate(predictions: Mapping[str, Rows], folder: str | Path, iou: float = 0.5) -> list[float]:
    """Return average precision at the levels easy, medium and hard.

    Args:
        predictions: by event and name, (N, 5): left, top, width, height, score, the surest first. Photographs that are
            not there are left out.
        folder: with the four ``.mat`` files.
        iou: smallest overlap of a detection with its face.
    """
    scores = [row[4] for rows in predictions.values() for row in rows]
    lowest, highest = min([1.0, *scores]), max([0.0, *scores])
    faces = loadmat(str(Path(folder) / "wider_face_val.mat"))
    averages = []
    for level in ("easy", "medium", "hard"):
        numbers = loadmat(str(Path(folder) / f"wider_{level}_val.mat"))["gt_list"]
        faces_of_level, sums = 0, np.zeros((THRESHOLDS, 2))
        for i in range(len(faces["event_list"])):
            event = str(faces["event_list"][i][0][0])
            for j in range(len(faces["file_list"][i][0])):
                found = predictions.get(f"{event}/{faces['file_list'][i][0][j][0][0]}")
                if found is None:
                    continue
                boxes = faces["face_bbx_list"][i][0][j][0].astype(float)
                in_level = [int(number) - 1 for number in numbers[i][0][j][0].ravel()]
                faces_of_level += len(in_level)
                if len(boxes) and len(found):
                    rows = found.copy()
                    rows[:, 4] = (rows[:, 4] - lowest) / (highest - lowest)
                    sums += _at_thresholds(rows[:, 4], *_judge(rows, boxes, in_level, iou))
        curve = [(right / all_found if all_found else 0.0, right / faces_of_level) for all_found, right in sums]
        averages.append(_area(curve))
    return averages


def _judge(found: Rows, boxes: Rows, in_level: list[int], iou: float) -> tuple[list[int], list[bool]]:
    """Return the number of faces that are found with each detection and those before it, and whether it counts."""
    state = [0] * len(boxes)
    faces_found, counts = [], [True] * len(found)
    for place, row in enumerate(found):
        overlaps = [_overlap(row, box) for box in boxes]
        best = int(np.argmax(overlaps))
        if overlaps[best] >= iou:
            if best not in in_level:
                state[best] = -1
                counts[place] = False
            elif state[best] == 0:
                state[best] = 1
        faces_found.append(state.count(1))
    return faces_found, counts


def _overlap(one: Rows, other: Rows) -> float:
    """Return the intersection over union of two boxes, left, top, width, height, of which each is a pixel larger."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0]) + 1
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    both = (one[2] + 1) * (one[3] + 1) + (other[2] + 1) * (other[3] + 1)
    return float(width * height / (both - width * height))


def _at_thresholds(scores: Rows, faces_found: list[int], counts: list[bool]) -> Rows:
    """Return for each threshold the detections that count and the faces that are found, (`THRESHOLDS`, 2)."""
    rows = np.zeros((THRESHOLDS, 2))
    for step in range(THRESHOLDS):
        sure = np.flatnonzero(scores >= 1 - (step + 1) / THRESHOLDS)
        if len(sure):
            rows[step] = sum(counts[: sure[-1] + 1]), faces_found[sure[-1]]
    return rows


def _area(curve: list[tuple[float, float]]) -> float:
    """Return the area under the best precision at each recall or a higher one, PASCAL VOC's of 2010 and later."""
    precision, recall = [0.0, *(row[0] for row in curve), 0.0], [0.0, *(row[1] for row in curve), 1.0]
    for place in range(len(precision) - 1, 0, -1):
        precision[place - 1] = max(precision[place - 1], precision[place])
    return float(sum((recall[k] - recall[k - 1]) * precision[k] for k in range(1, len(recall))))
