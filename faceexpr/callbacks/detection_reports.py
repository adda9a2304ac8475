"""Reports of a detector's evaluation: a record for machines, a table for people, and one row a box."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from faceexpr.boxes.matching import judge
from faceexpr.metrics.detection import DetectionScores
from faceexpr.metrics.detection_table import DetectionTable
from faceexpr.metrics.over_detection import METHODS, by_method
from faceexpr.utils.text import counted
from faceexpr.visualization import detection as detection_figures
from faceexpr.visualization.detection_pictures import draw_examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "ap": "AP, IoU 0.50 to 0.95",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP, small faces (to 32 px)",
    "ap_medium": "AP, medium faces (to 96 px)",
    "ap_large": "AP, large faces",
}


def record(table: DetectionTable, scores: DetectionScores, epoch: int | None) -> dict[str, Any]:
    """Return everything measured as plain values; what is undefined is None, and listed with its reason.

    Args:
        table: of one pass over a split.
        scores: its metrics.
        epoch: epoch of the weights, counted from 0, where it is known.
    """
    return {
        **({} if epoch is None else {"epoch": epoch}),
        "images": scores.images,
        "faces": scores.faces,
        "ignored_faces": scores.ignored,
        "detections": scores.detections,
        "images_at_the_limit": scores.limited,
        "max_detections": scores.max_detections,
        "score": scores.score,
        "iou": scores.iou,
        **scores.values,
        "undefined": scores.undefined,
        **(
            {}
            if table.counts is None
            else {"over_detection": {method: asdict(counts) for method, counts in by_method(table.counts).items()}}
        ),
    }


def summary(stage: str, table: DetectionTable, scores: DetectionScores) -> str:
    """Return the metrics as tables for the console."""
    lines = [
        f"{stage}: {counted(scores.images, 'picture')}, {counted(scores.faces, 'face')}"
        + (f" and {scores.ignored:,} ignored" if scores.ignored else "")
        + f", {counted(scores.detections, 'detection')}"
    ]
    lines += [f"  {label:<28} {_value(scores, name)}" for name, label in LABELS.items()]
    lines.append(f"  {'recall, any score':<28} {_value(scores, 'recall')}   (IoU {scores.iou:g}, as below)")
    threshold = scores.values["best_f1_threshold"]
    best = "best F1" if threshold is None else f"best F1: score >= {threshold:.3f}"
    for label, f1, precision, recall in (
        (f"score >= {scores.score:g}", "f1_at_score", "precision_at_score", "recall_at_score"),
        (best, "best_f1", "best_f1_precision", "best_f1_recall"),
    ):
        values = f"F1 {_value(scores, f1)}"
        for name, metric in (("precision", precision), ("recall", recall)):
            # One reason is enough.
            if scores.values[metric] is not None or scores.undefined[metric] != scores.undefined.get(f1):
                values += f"   {name} {_value(scores, metric)}"
        lines.append(f"  {label:<28} {values}")
    if scores.limited:
        lines.append(limit_note(scores))
    if table.counts is not None:
        lines += _over_detection(table, scores)
    return "\n".join(lines)


def line(start: str, scores: DetectionScores) -> str:
    """Return the main metrics on a line, and on a second one whether a limit was reached."""
    text = f"{start}, AP50 {_value(scores, 'ap50')}, AP {_value(scores, 'ap')}, best F1 {_value(scores, 'best_f1')}"
    return f"{text}\n{limit_note(scores)}" if scores.limited else text


def limit_note(scores: DetectionScores) -> str:
    """Say in how many pictures more was found than may be returned."""
    return (
        f"  in {counted(scores.limited, 'picture')} more was found than the detector may return or the metrics look at "
        f"({scores.max_detections} a picture): raise the suppression's max_faces and the evaluation's max_detections"
    )


def _over_detection(table: DetectionTable, scores: DetectionScores) -> list[str]:
    assert table.counts is not None
    lines = [
        f"  {f'boxes, score >= {scores.score:g}':<28} {'all':>7} {'faces found':>12} {'beyond one':>11} {'false':>7}"
    ]
    for method, counts in by_method(table.counts).items():
        lines.append(
            f"  {METHODS[method]:<28} {counts.boxes:7,} {counts.found:12,} {counts.extra:11,} {counts.false:7,}"
        )
    return lines


def _value(scores: DetectionScores, name: str) -> str:
    value = scores.values[name]
    return f"{value:.4f}" if value is not None else f"not defined: {scores.undefined[name]}"


def as_csv(table: DetectionTable, scores: DetectionScores, source: Callable[[int], str]) -> str:
    """Return one row for each detection and each missed face, with a header.

    ``outcome`` is ``true``, ``false``, ``ignored`` (of a face that does not count), or ``missed`` (no score), at the
    scores' overlap and whatever the detection's score.

    Args:
        table: the pictures.
        scores: their metrics.
        source: what to call the picture of an index.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "index", "left", "top", "right", "bottom", "score", "outcome"])
    for index, found, truth in zip(table.indices.tolist(), table.found, table.truths, strict=True):
        outcome = judge(truth, found, scores.iou)
        name = source(index)
        for box, score, true, false in zip(
            found.boxes.tolist(), found.scores.tolist(), outcome.true, outcome.false, strict=True
        ):
            kind = "true" if true else "false" if false else "ignored"
            writer.writerow([name, index, *(f"{value:.7g}" for value in box), f"{score:.9g}", kind])
        for box in truth.boxes[outcome.missed].tolist():
            writer.writerow([name, index, *(f"{value:.7g}" for value in box), "", "missed"])
    return text.getvalue()


def draw(
    title: str,
    table: DetectionTable,
    scores: DetectionScores,
    picture: Callable[[int], NDArray[np.uint8]] | None,
    gallery_size: int,
) -> dict[str, Figure]:
    """Draw every figure of an evaluation; those that would show nothing are left out.

    Args:
        title: what was evaluated.
        table: the pictures' detections and faces.
        scores: their metrics.
        picture: gives the pixels of an index, or None where they are not at hand.
        gallery_size: largest number of pictures in a figure; 0 draws none.

    Returns:
        Figures by name.
    """
    drawn = {}
    if scores.faces:
        drawn["precision_recall"] = detection_figures.precision_recall(scores, f"Precision and recall, {title}")
        if scores.detections:
            drawn["thresholds"] = detection_figures.thresholds(scores, f"Which score to ask for, {title}")
    if table.counts is not None:
        heading = f"Several boxes on one face, {title}"
        drawn["over_detection"] = detection_figures.over_detection(by_method(table.counts), scores, heading)
    if picture is not None and gallery_size:
        drawn |= draw_examples(table, scores.score, scores.iou, gallery_size, picture, title)
    return drawn
