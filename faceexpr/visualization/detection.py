"""Draw the figures of a detector's evaluation: curves, counts, and images with what was found and what was missed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Outcome, Truth, judge
from faceexpr.boxes.suppression import Method
from faceexpr.metrics.detection import METHODS, BoxCounts, DetectionScores, DetectionTable, by_method
from faceexpr.utils.text import counted
from faceexpr.visualization.base import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    VERMILLION,
    blank,
    heading,
    image_grid,
    near_square,
    percent_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIFTHS = [fifth / 5 for fifth in range(6)]

KINDS: dict[str, tuple[str, Literal["-", "--", ":"]]] = {
    "true": ("#56b4e9", "-"),
    "false": (VERMILLION, "--"),
    "missed": ("#f0e442", ":"),
    "ignored": (GREY, "-"),
}
"""Colour and line of each kind of box; the lines tell them apart without colours."""

SIDE = 480
"""Longest side of an image in a figure, in its pixels."""

Shown = list[tuple[NDArray[np.float32], str, str]]
"""Boxes to draw: box, kind, caption."""


def draw_evaluation(
    title: str, table: DetectionTable, scores: DetectionScores, image: Callable[[int], NDArray[np.uint8]] | None,
    gallery_size: int,
) -> dict[str, Figure]:  # fmt: skip
    """Draw every figure of an evaluation, by name; those that would show nothing are left out.

    ``image`` gives the pixels of an index, where they are at hand. Of ``pictures``, a sample of the split, and
    ``worst``, the images with the most errors, ``gallery_size`` is the largest number of images.
    """
    drawn = {}
    if scores.faces:
        drawn["precision_recall"] = precision_recall(scores, f"Precision and recall, {title}")
        if scores.detections:
            drawn["thresholds"] = thresholds(scores, f"Which score to ask for, {title}")
    if table.counts is not None:
        drawn["over_detection"] = over_detection(by_method(table.counts), scores, f"Several boxes on one face, {title}")
    if image is None or not gallery_size:
        return drawn
    found = [at_score(detections, scores.score) for detections in table.found]
    outcomes = [judge(truth, sure, scores.iou) for truth, sure in zip(table.truths, found, strict=True)]
    for name, rows, text in (
        ("pictures", spread(len(outcomes), gallery_size), "Found and missed"),
        ("worst", worst(outcomes, gallery_size), "Most errors"),
    ):
        if rows:
            images = [image(int(table.indices[row])) for row in rows]
            boxes = [judged_boxes(found[row], table.truths[row], outcomes[row]) for row in rows]
            captions = [", ".join(f"{kind.sum()} {name}" for name, kind in vars(outcomes[row]).items()) for row in rows]
            drawn[name] = gallery(images, boxes, captions, f"{text}, score ≥ {scores.score:g}, {title}")
    return drawn


def at_score(found: Detections, score: float) -> Detections:
    """Return the detections that have a score or a higher one."""
    sure = found.scores >= score
    return Detections(found.boxes[sure], found.scores[sure], found.limited)


def worst(outcomes: Sequence[Outcome], size: int) -> list[int]:
    """Return the rows with the most false detections and missed faces, the worst first; those without any left out."""
    errors = np.array([int(outcome.false.sum() + outcome.missed.sum()) for outcome in outcomes], dtype=np.int64)
    return [int(row) for row in np.argsort(-errors, kind="stable")[:size] if errors[row]]


def spread(number: int, size: int) -> list[int]:
    """Return ``size`` of ``number`` rows, evenly spaced: a sample that nobody has picked."""
    return np.unique(np.linspace(0, number - 1, min(size, number)).round().astype(int)).tolist() if number else []


def judged_boxes(found: Detections, truth: Truth, outcome: Outcome) -> Shown:
    """Return the boxes of an image: true, false and ignored detections with their scores, and missed faces."""
    boxes: Shown = [(box, "missed", "") for box in truth.boxes[outcome.missed]]
    boxes += [(box, "ignored", "") for box in truth.boxes[truth.ignored]]
    kinds = np.where(outcome.true, "true", np.where(outcome.false, "false", "ignored"))
    captions = [f"{score:.2f}" for score in found.scores.tolist()]
    return [*boxes, *zip(found.boxes.numpy(), kinds.tolist(), captions, strict=True)]


def _facts(scores: DetectionScores) -> str:
    return f"{counted(scores.images, 'image')}, {counted(scores.faces, 'face')}"


def precision_recall(scores: DetectionScores, title: str) -> Figure:
    """Draw precision against recall at each overlap, with the chosen score and the best F1 marked on that of ``iou``.

    There has to be a face in an image.
    """
    figure = blank(6.4, 6.4)
    axes = figure.add_subplot()
    # Lines of equal F1, so that a point of the curve can be read without a calculator.
    for f1 in (0.2, 0.4, 0.6, 0.8):
        lowest = f1 / (2 - f1)
        precision = np.linspace(lowest, 1, 200)
        axes.plot(f1 * precision / (2 * precision - f1), precision, color="#e2e4e6", linewidth=1, zorder=1)
        axes.text(1.008, lowest, f"F1 {f1:g}", fontsize=8, color=GREY, va="center")
    averages = {0.5: scores.values["ap50"], 0.75: scores.values["ap75"]}
    for (overlap, curve), ink in zip(scores.curves.items(), (BLUE, ORANGE, PURPLE), strict=False):
        average = averages.get(overlap)
        label = f"IoU {overlap:g}" + ("" if average is None else f", AP {average:.3f}")
        # From no recall on, with the precision of the surest; without a detection it is an entry of the legend alone.
        path = np.r_[np.zeros(len(curve.scores[:1])), curve.recall], np.r_[curve.precision[:1], curve.precision]
        axes.plot(*path, color=ink, linewidth=2, label=label, zorder=2)
    values = {name: value or 0 for name, value in scores.values.items()}
    for name, ending, marker, label in (
        ("", "_at_score", "o", f"score ≥ {scores.score:g}, F1 {values['f1_at_score']:.3f}"),
        ("best_f1_", "", "D", f"best F1 {values['best_f1']:.3f}, score ≥ {values['best_f1_threshold']:.3f}"),
    ):
        x, y = (scores.values[f"{name}{axis}{ending}"] for axis in ("recall", "precision"))
        if x is not None and y is not None:
            axes.plot(x, y, marker, color="white", markeredgecolor=INK, markersize=8, label=label, zorder=3)
    axes.set(xlabel="recall: share of the faces that are found", xticks=FIFTHS, xlim=(0, 1))
    axes.set(ylabel="precision: share of the detections that are faces", yticks=FIFTHS, ylim=(0, 1.02))
    percent_axes(axes, "x", "y")
    figure.legend(loc="outside lower center", fontsize=9, ncols=2, frameon=False)
    heading(axes, title, _facts(scores))
    return figure


def thresholds(scores: DetectionScores, title: str) -> Figure:
    """Draw what each score as the threshold gives, and how many detections have which score.

    There have to be a face and a detection.
    """
    curve = scores.curves[scores.iou]
    figure = blank(6.8, 7.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for values, ink, style, label in (
        (curve.precision, BLUE, "--", "precision"),
        (curve.recall, ORANGE, "-.", "recall"),
        (curve.f1, INK, "-", "F1"),
    ):
        # A curve holds from its score down to the next lower one.
        steps = np.r_[curve.scores, 0], np.r_[values, values[-1]]
        upper.step(*steps, where="pre", color=ink, linestyle=style, label=label)
    best = scores.values["best_f1_threshold"]
    for place, style, label in ((scores.score, ":", "chosen score"), (best, "-", "best F1")):
        if place is not None:
            for axes in (upper, lower):
                axes.axvline(place, color=GREY, linewidth=1.2, linestyle=style, label=f"{label} {place:.3g}")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", fontsize=9, ncols=5, frameon=False)
    edges = np.linspace(0, 1, 41)
    right, wrong = np.diff(curve.true, prepend=0), np.diff(curve.false, prepend=0)
    counts = [np.histogram(curve.scores, edges, weights=weights)[0] for weights in (right, wrong)]
    look: dict[str, Any] = {"width": 1 / 40, "align": "edge", "edgecolor": "white"}
    striped: dict[str, Any] = {"hatch": "///", "linewidth": 0.5, **look}
    bars = [
        lower.bar(edges[:-1], counts[0], color=BLUE, label="true", **look),
        lower.bar(edges[:-1], counts[1], bottom=counts[0], color=VERMILLION, label="false", **striped),
    ]
    lower.legend(handles=bars, loc="upper center", fontsize=9, ncols=2, frameon=False)
    lower.set(xlim=(0, 1), xlabel="score", ylabel="detections")
    upper.set(ylim=(0, 1.02), yticks=FIFTHS, xticks=[tenth / 10 for tenth in range(11)])
    percent_axes(upper, "y")
    percent_axes(lower)
    heading(upper, title, f"{_facts(scores)}   IoU {scores.iou:g}")
    return figure


def over_detection(counts: Mapping[Method, BoxCounts], scores: DetectionScores, title: str) -> Figure:
    """Draw how many boxes there are beyond one for the same face, and on no face, before and after suppression."""
    figure = blank(8.6, 4.4)
    rows = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(counts))[::-1]
    for axes, name, values, ink in (
        (rows[0], "beyond one for the same face", [count.extra for count in counts.values()], VERMILLION),
        (rows[1], "on no face", [count.false for count in counts.values()], PURPLE),
        (rows[2], "faces found", [count.found for count in counts.values()], BLUE),
    ):
        bars = axes.barh(places, values, height=0.62, color=ink, zorder=2)
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=4)
        axes.set_xlim(0, 1.3 * max(*values, 1))
        axes.set_title(name, fontsize=10, loc="left", color="#444444")
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    rows[0].set_yticks(places, [METHODS[method] for method in counts])
    detail = f"{_facts(scores)}   boxes with score ≥ {scores.score:g}, IoU {scores.iou:g}"
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.015, ha="left")
    figure.supxlabel(detail, fontsize=10, color="#444444", x=0.015, ha="left")
    return figure


def gallery(images: Sequence[NDArray[np.uint8]], boxes: Sequence[Shown], captions: Sequence[str], title: str) -> Figure:
    """Draw one or more images, RGB (H, W, 3), in a grid, each with its boxes and a line under it."""
    from matplotlib.lines import Line2D

    # Each image fills the width of its column or, an upright one, a square.
    side = 3.4
    heights = [side * min(1.0, pixels.shape[0] / pixels.shape[1]) for pixels in images]
    columns, lines = near_square(len(images), 2, 4), [[(caption, INK)] for caption in captions]
    figure, grid = image_grid(title, columns, side, heights, lines, top=0.8)
    used = {kind for image in boxes for _, kind, _ in image}
    handles = [
        Line2D([], [], color=ink, linestyle=style, linewidth=2.4, label=kind)
        for kind, (ink, style) in KINDS.items()
        if kind in used
    ]
    if handles:
        width, height = figure.get_size_inches()
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.13 / width, 1 - 0.4 / height), borderaxespad=0,
            ncols=4, fontsize=10, facecolor="#5d6166", labelcolor="white", framealpha=1, edgecolor="none",
        )  # fmt: skip
    for axes, pixels, found in zip(grid, images, boxes, strict=True):
        _draw(axes, pixels, found)
    return figure


def _draw(axes: Axes, pixels: NDArray[np.uint8], boxes: Shown) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    high, wide = pixels.shape[:2]
    small = Image.fromarray(np.ascontiguousarray(pixels))
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    smoothed = "nearest" if small.size == (wide, high) else "antialiased"
    axes.imshow(np.asarray(small), extent=(0, wide, high, 0), interpolation=smoothed)
    for (x0, y0, x1, y1), kind, caption in boxes:
        ink, style = KINDS[kind]
        edge = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=ink, linestyle=style, linewidth=1.8)
        # A dark border keeps a line visible on any image.
        edge.set_path_effects([withStroke(linewidth=3.2, foreground="#000000aa")])
        axes.add_patch(edge)
        if caption:
            # Above the box, or inside it where there is no room above.
            side = "bottom" if y0 > 0.05 * high else "top"
            text = axes.text(x0, y0, caption, fontsize=6.5, color="white", va=side, clip_on=True)
            text.set_path_effects([withStroke(linewidth=1.6, foreground=ink)])
    axes.set_xlim(0, wide)
    axes.set_ylim(high, 0)


def training_images(images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Figure:
    """Draw one or more training images, (3, H, W), uint8 or in 0 to 1, as the network gets them, with their faces."""
    pixels = [to_dtype(image, torch.uint8, scale=True).permute(1, 2, 0).numpy(force=True) for image in images]
    faces: list[Shown] = [[(box, "true", "") for box in found.numpy(force=True)] for found in boxes]
    captions = [counted(len(found), "face") for found in boxes]
    return gallery(pixels, faces, captions, "Training images as the network gets them")
