"""What was measured, in the run folder and on the console, as for every other detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceexpr.callbacks.detection import list_boxes, make_record, summarise
from faceexpr.callbacks.reports import write_figure, write_metrics
from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.detectron2.measuring import Measured
from faceexpr.utils.files import say, write_file
from faceexpr.utils.images import read_image
from faceexpr.visualization.detection import draw_evaluation

GALLERY_SIZE = 9
"""Pictures in a figure of examples."""


def report(
    folder: Path, stage: str, measured: Measured, records: Sequence[AnnotatedImage], iteration: int | None
) -> None:
    """Write metrics, figures and one row a box to the run folder, and print the metrics.

    Args:
        folder: of the run.
        stage: ``val`` or ``test``.
        measured: what was measured.
        records: the pictures.
        iteration: iterations behind the weights, where known.
    """
    table, scores = measured.table, measured.scores
    after = "" if iteration is None else f" after {iteration:,} iterations"
    say(summarise(f"{stage}{after}", table, scores))
    entry = make_record(table, scores)
    write_metrics(folder, stage, {**({} if iteration is None else {"iteration": iteration}), **entry})
    rows = list_boxes(table, scores, lambda index: str(records[index].path))
    write_file(folder / f"detections_{stage}.csv", rows)

    def picture(index: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = read_image(records[index].path).pixels
        return pixels

    figures = draw_evaluation(f"{stage}{after}", table, scores, picture, GALLERY_SIZE)
    for name, figure in figures.items():
        write_figure(folder, f"{stage}_{name}", figure)
    say(f"{stage}: metrics and figures are in {folder}")
