"""Figures of a detector's evaluation: numbers in, a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from faceexpr.boxes.suppression import Method
from faceexpr.metrics.detection import DetectionScores
from faceexpr.metrics.over_detection import METHODS, BoxCounts
from faceexpr.visualization.classification import GREY, blank, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, VERMILLION, PURPLE = "#0072b2", "#e69f00", "#d55e00", "#cc79a7"

TENTHS = [tenth / 10 for tenth in range(11)]


def _facts(scores: DetectionScores) -> str:
    return f"{scores.images:,} pictures, {scores.faces:,} faces"


def precision_recall(scores: DetectionScores, title: str) -> Figure:
    """Draw precision against recall at each overlap, with the chosen score and the best F1 marked on that of ``iou``.

    Args:
        scores: of pictures with a face or more.
        title: what was evaluated.
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
    chosen = scores.values["recall_at_score"], scores.values["precision_at_score"]
    best = scores.values["best_f1_recall"], scores.values["best_f1_precision"]
    for (x, y), marker, label in (
        (chosen, "o", f"score ≥ {scores.score:g}, F1 {scores.values['f1_at_score'] or 0:.3f}"),
        (
            best,
            "D",
            f"best F1 {scores.values['best_f1'] or 0:.3f}, score ≥ {scores.values['best_f1_threshold'] or 0:.3f}",
        ),
    ):
        if x is not None and y is not None:
            axes.plot(x, y, marker, color="white", markeredgecolor="#222222", markersize=8, label=label, zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall: share of the faces that are found")
    axes.set_ylabel("precision: share of the detections that are faces")
    _percent(axes)
    figure.legend(loc="outside lower center", fontsize=9, ncols=2, frameon=False)
    heading(axes, title, _facts(scores))
    return figure


def thresholds(scores: DetectionScores, title: str) -> Figure:
    """Draw what each score as the threshold gives, and how many detections have which score.

    Args:
        scores: of pictures with a face or more, and with a detection or more.
        title: what was evaluated.
    """
    curve = scores.curves[scores.iou]
    figure = blank(6.8, 7.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for values, ink, style, label in (
        (curve.precision, BLUE, "--", "precision"),
        (curve.recall, ORANGE, "-.", "recall"),
        (curve.f1, "#222222", "-", "F1"),
    ):
        # A curve holds from its score down to the next lower one.
        upper.step(
            np.r_[curve.scores, 0], np.r_[values, values[-1]], where="pre", color=ink, linestyle=style, label=label
        )
    best = scores.values["best_f1_threshold"]
    for place, style, label in ((scores.score, ":", "chosen score"), (best, "-", "best F1")):
        if place is not None:
            for axes in (upper, lower):
                axes.axvline(place, color=GREY, linewidth=1.2, linestyle=style, label=f"{label} {place:.3g}")
    upper.set_ylim(0, 1.02)
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=9, ncols=5, frameon=False)
    edges = np.linspace(0, 1, 41)
    right, wrong = np.diff(curve.true, prepend=0), np.diff(curve.false, prepend=0)
    counts = [np.histogram(curve.scores, edges, weights=weights)[0] for weights in (right, wrong)]
    lower.bar(edges[:-1], counts[0], 1 / 40, align="edge", color=BLUE, edgecolor="white", label="true")
    lower.bar(
        edges[:-1], counts[1], 1 / 40, bottom=counts[0], align="edge", color=VERMILLION, edgecolor="white", hatch="///",
        linewidth=0.5, label="false",
    )  # fmt: skip
    lower.set_xlim(0, 1)
    lower.set_xlabel("score")
    lower.set_ylabel("detections")
    handles, labels = lower.get_legend_handles_labels()
    lower.legend(handles[-2:], labels[-2:], loc="upper center", fontsize=9, ncols=2, frameon=False)
    upper.set_yticks(TENTHS[::2], [f"{value:.0%}" for value in TENTHS[::2]])
    upper.set_xticks(TENTHS)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    heading(upper, title, f"{_facts(scores)}   IoU {scores.iou:g}")
    return figure


def over_detection(counts: Mapping[Method, BoxCounts], scores: DetectionScores, title: str) -> Figure:
    """Draw how many boxes there are beyond one for the same face, and on no face, before and after suppression.

    Args:
        counts: of all pictures by method.
        scores: the metrics, for the chosen score.
        title: what was evaluated.
    """
    figure = blank(8.6, 4.4)
    rows = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(counts))[::-1]
    for axes, name, values, ink in (
        (rows[0], "beyond one for the same face", [count.extra for count in counts.values()], VERMILLION),
        (rows[1], "on no face", [count.false for count in counts.values()], PURPLE),
        (rows[2], "faces found", [count.found for count in counts.values()], BLUE),
    ):
        axes.barh(places, values, height=0.62, color=ink, zorder=2)
        most = max(*values, 1)
        for place, value in zip(places, values, strict=True):
            axes.text(value + 0.02 * most, place, f"{value:,}", va="center", fontsize=10)
        axes.set_xlim(0, 1.3 * most)
        axes.set_title(name, fontsize=10, loc="left", color="#444444")
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    rows[0].set_yticks(places, [METHODS[method] for method in counts])
    detail = f"{_facts(scores)}   boxes with score ≥ {scores.score:g}, IoU {scores.iou:g}"
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.015, ha="left")
    figure.supxlabel(detail, fontsize=10, color="#444444", x=0.015, ha="left")
    return figure


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(TENTHS[::2], [f"{value:.0%}" for value in TENTHS[::2]])
    axes.spines[["top", "right"]].set_visible(False)
