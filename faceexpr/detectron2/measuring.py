"""Detectron2's evaluator with the product's metrics, so that its numbers stand beside those of every other detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.metrics.detection import DetectionScores, DetectionTable, count_by_method, score_detections

SCORE, IOU = 0.5, 0.5
"""The chosen score, and the overlap from which on a face is found; those of every other detector's evaluation."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One pass over a split.

    Attributes:
        table: its pictures.
        scores: their metrics.
    """

    table: DetectionTable
    scores: DetectionScores


def candidates(instances: Instances) -> tuple[Tensor, Tensor]:
    """Return what a network takes for faces in a picture: boxes (N, 4) in its pixels, and scores (N,), on the host."""
    return instances.pred_boxes.tensor.float().cpu(), instances.scores.float().cpu()


class FaceEvaluator(DatasetEvaluator):  # type: ignore[misc]  # Detectron2 has no types
    """Gathers the detections of all processes, each picture once, and measures them.

    Args:
        records: of the split, in the order in which they were registered.
        suppression: how candidates become detections.
        over_detection: count the boxes of a face before and after each way of suppression too.
    """

    def __init__(
        self, records: Sequence[AnnotatedImage], suppression: Suppression, over_detection: bool = False
    ) -> None:
        self.truths = [Truth(record.boxes, record.ignored) for record in records]
        self.suppression = suppression
        self.over_detection = over_detection
        self.reset()

    def reset(self) -> None:
        self._found: dict[int, tuple[Detections, NDArray[np.int64] | None]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            index, (boxes, scores), counts = given["image_id"], candidates(output["instances"]), None
            if self.over_detection:
                counts = count_by_method(boxes, scores, self.truths[index], self.suppression, SCORE, IOU)
            self._found[index] = suppress(boxes, scores, self.suppression), counts

    def evaluate(self) -> Measured | None:
        """Return the metrics of all pictures, in the first process; None in the others."""
        parts: list[dict[int, tuple[Detections, NDArray[np.int64] | None]]] = comm.gather(self._found)
        if not comm.is_main_process():
            return None
        together = {index: found for part in parts for index, found in part.items()}
        found = [together[index][0] for index in range(len(self.truths))]
        counts = [together[index][1] for index in range(len(self.truths))]
        table = DetectionTable(
            np.arange(len(found)),
            found,
            self.truths,
            np.stack([rows for rows in counts if rows is not None]) if self.over_detection else None,
        )
        scores = score_detections(self.truths, found, SCORE, IOU, max_detections=self.suppression.max_faces)
        return Measured(table, scores)
