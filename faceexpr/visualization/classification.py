"""Figures of an evaluation: data in, a matplotlib figure out. Nothing here reads, writes or trains."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from faceexpr.metrics.classification import CALIBRATION_BINS, Scores
from faceexpr.utils.labels import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from faceexpr.metrics.tables import SampleTable

RIGHT = "#2e7d4f"
WRONG = "#b3372b"
GREY = "#8a8f94"
DPI = 110


def blank(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    # A Figure without pyplot draws with Agg, needs no display and is freed with its last reference.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    return figure


def wrapped(name: str, width: int = 12) -> str:
    """Break a long class name over lines, so that labels neither overlap nor shrink the plot."""
    lines = textwrap.wrap(name.replace("_", "_ "), width)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def shortened(name: str, width: int = 16) -> str:
    """Return a class name that fits under a face of a gallery."""
    return name if len(name) <= width else name[: width - 1] + "…"


def heading(axes: Axes, title: str, detail: str) -> None:
    """Put a title above axes, and a line of facts under it."""
    axes.set_title(title, fontsize=13, fontweight="bold", loc="left", pad=25)
    axes.annotate(
        detail,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=10,
        color="#444444",
    )


def _facts(scores: Scores) -> str:
    return f"n = {scores.count:,}   accuracy {scores.values['accuracy']:.1%}"


def confusion_matrix(scores: Scores, title: str) -> Figure:
    """Draw the confusion matrix: each cell has the share of its row in percent and the number of samples.

    Args:
        scores: of one pass over a split.
        title: what was evaluated.
    """
    number = len(scores.class_names)
    rows = scores.confusion.sum(axis=1, keepdims=True)
    share = scores.confusion / np.maximum(rows, 1)
    side = max(5.0, 1.6 + 0.86 * number)
    figure = blank(side + 0.9, side)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true, predicted in np.ndindex(number, number):
        ink = "white" if share[true, predicted] > 0.55 else "#222222"
        count = scores.confusion[true, predicted]
        if not rows[true]:
            continue
        axes.text(
            predicted, true - 0.1, f"{share[true, predicted]:.0%}", color=ink, fontsize=11, ha="center", va="center"
        )
        axes.text(predicted, true + 0.23, f"{count:,}", color=ink, fontsize=8.5, ha="center", va="center", alpha=0.85)
    names = [wrapped(name) for name in scores.class_names]
    axes.set_xticks(range(number), names, fontsize=9)
    axes.set_yticks(
        range(number), [f"{name}\n({count:,})" for name, count in zip(names, rows[:, 0], strict=True)], fontsize=9
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (number of samples)")
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    heading(axes, title, f"{_facts(scores)}   each cell: share of its row, number of samples")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, format=lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    return figure


def per_class_accuracy(scores: Scores, title: str) -> Figure:
    """Draw the accuracy of each class (its recall) as bars, as in the paper's Figure 15."""
    names = scores.class_names
    figure = blank(max(6.4, 1.4 + 0.95 * len(names)), 4.6)
    axes = figure.add_subplot()
    counts = scores.confusion.sum(axis=1)
    for place, name in enumerate(names):
        value = scores.values.get(f"recall/{name}")
        if value is None:
            axes.text(place, 0.01, "no\nsample", ha="center", va="bottom", fontsize=9, color=GREY)
            continue
        axes.bar(place, value, width=0.72, color=colour(name), zorder=2)
        label = axes.text(place, value + 0.012, f"{value:.1%}", ha="center", va="bottom", fontsize=10, zorder=3)
        # A line of the means must not strike the number through.
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    overall = scores.values["accuracy"]
    axes.axhline(overall, color="#222222", linewidth=1, linestyle=(0, (4, 3)), label=f"all samples {overall:.1%}")
    balanced = scores.values["balanced_accuracy"]
    axes.axhline(balanced, color=GREY, linewidth=1, linestyle=":", label=f"mean of the classes {balanced:.1%}")
    axes.set_xticks(
        range(len(names)), [f"{wrapped(name)}\n({count:,})" for name, count in zip(names, counts, strict=True)]
    )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 1.08)
    axes.set_yticks(np.linspace(0, 1, 6), [f"{value:.0%}" for value in np.linspace(0, 1, 6)])
    axes.set_ylabel("accuracy")
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=2, frameon=False, fontsize=9)
    heading(axes, title, f"n = {scores.count:,}")
    return figure


def reliability(table: SampleTable, scores: Scores, title: str) -> Figure:
    """Draw the reliability diagram: how often predictions of a given confidence are right.

    Bars below the diagonal mean that the network is too sure of itself. The bins are those of ``ece``.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.clip(np.digitize(table.confidence, edges[1:-1], right=True), 0, CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    divisor = np.maximum(counts, 1)
    accuracy = np.bincount(bins, weights=table.correct, minlength=CALIBRATION_BINS) / divisor
    confidence = np.bincount(bins, weights=table.confidence, minlength=CALIBRATION_BINS) / divisor
    left, width = edges[:-1], 1 / CALIBRATION_BINS

    figure = blank(6.2, 6.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.bar(left[filled], accuracy[filled], width, align="edge", color="#2e6da4", edgecolor="white", label="accuracy")
    for kind, ink, label in (
        (filled & (confidence > accuracy), "#dc9a93", "over-confident by"),
        (filled & (confidence < accuracy), "#e0a800", "under-confident by"),
    ):
        if kind.any():
            upper.bar(
                left[kind], (confidence - accuracy)[kind], width, bottom=accuracy[kind], align="edge", label=label,
                color=ink, edgecolor="white",
            )  # fmt: skip
    upper.plot((0, 1), (0, 1), color="#222222", linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1)
    upper.set_ylabel("share of predictions that are right")
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    mean = float(table.confidence.mean())
    heading(upper, title, f"{_facts(scores)}   mean confidence {mean:.1%}   ECE {scores.values['ece']:.3f}")
    lower.bar(left, counts / max(1, counts.sum()), width, align="edge", color=GREY, edgecolor="white")
    lower.set_xlabel("confidence: probability of the predicted class")
    lower.set_ylabel("samples")
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def gallery(
    images: Sequence[NDArray[Any]],
    captions: Sequence[Sequence[tuple[str, str]]],
    title: str,
    columns: int | None = None,
) -> Figure:
    """Draw faces in a grid, each with its caption.

    Args:
        images: (H, W) grey or (H, W, 3) RGB, uint8 or floating point in 0 to 1; one or more, all of one shape.
        captions: for each image, its lines as (text, colour).
        title: above the grid.
        columns: of the grid; by default such that it is somewhat wider than high.
    """
    ratio = images[0].shape[1] / images[0].shape[0]
    columns = columns or min(8, max(4, int(np.ceil(np.sqrt(len(images) * 1.6 / ratio)))))
    rows = int(np.ceil(len(images) / columns))
    # In inches. Constrained layout does not see text that lies outside of axes, so the grid is laid out by hand.
    face, gap, line, top = 1.4, 0.12, 0.17, 0.55
    across = ratio * face
    pitch = face + gap + line * max(len(caption) for caption in captions)
    width, height = columns * (across + gap) + gap, top + rows * pitch
    figure = blank(width, height)
    figure.set_layout_engine("none")
    figure.text(gap / width, 1 - 0.16 / height, title, fontsize=13, fontweight="bold", va="top")
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, columns)
        left, upper = gap + column * (across + gap), height - top - row * pitch
        axes = figure.add_axes((left / width, (upper - face) / height, across / width, face / height))
        axes.set_axis_off()
        limit = 255 if image.dtype == np.uint8 else 1
        axes.imshow(image, cmap="gray", vmin=0, vmax=limit, interpolation="nearest")
        for number, (text, ink) in enumerate(caption):
            y = (upper - face - 0.16 - number * line) / height
            figure.text((left + across / 2) / width, y, text, fontsize=8.5, color=ink, ha="center", va="baseline")
    return figure
