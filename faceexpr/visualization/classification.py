"""Draw the figures of a classifier's evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor

from faceexpr.data.corruptions import CORRUPTIONS, REFERENCE_SIDE, STRENGTHS, corrupt
from faceexpr.data.image_reading import StreamedFaces
from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.metrics.calibration import CALIBRATION_BINS
from faceexpr.metrics.classification import Scores
from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import Calibration, as_percent, prediction_sets
from faceexpr.utils.labels import colour
from faceexpr.visualization.base import (
    DASHED,
    GREY,
    INK,
    blank,
    class_labels,
    heading,
    image_grid,
    near_square,
    percent_axes,
    shortened,
    wrapped,
)
from faceexpr.visualization.explain import side_by_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG = "#2e7d4f", "#b3372b"
BAR = "#2e6da4"

Maps: TypeAlias = "Callable[[Tensor, Sequence[int]], NDArray[np.float32]]"
"""From faces, uint8 (N, C, H, W), and a class for each to what speaks for it, (N, H, W), from 0 to 1."""

_AT_ONCE = 64  # faces that are explained together
_SIDE = 160  # pixels of a face beside its explanation
_LEVEL = 0.9  # the coverage that is drawn, or the one that is nearest to it


def draw_evaluation(
    title: str, table: SampleTable, scores: Scores, images: StreamedFaces | Tensor | None = None, gallery_size: int = 0,
    maps: Maps | None = None, calibration: Calibration | None = None,
) -> dict[str, Figure]:  # fmt: skip
    """Draw every figure of an evaluation, by name.

    The faces are those of the split, each uint8 (C, H, W), where they are at hand; ``gallery_size`` is the largest
    number of them in a gallery. What ``maps`` says to speak for their classes is laid over them in a second image.
    Prediction sets are drawn where the calibration has thresholds.
    """
    drawn = {}
    if calibration is not None and calibration.thresholds:
        drawn["prediction_sets"] = draw_sets(table, scores.class_names, calibration, title)
    drawn["confusion_matrix"] = confusion_matrix(scores, f"Confusion matrix, {title}")
    drawn["per_class_accuracy"] = per_class_accuracy(scores, f"Accuracy of each class, {title}")
    drawn["reliability"] = reliability(table, scores, f"Reliability, {title}")
    if images is None or gallery_size == 0:
        return drawn
    names = [shortened(name) for name in scores.class_names]
    looks = "" if maps is None else ", and where the network looks"
    for name, rows, ink, text in (
        ("right", surest_right(table, gallery_size), RIGHT, "Confidently right, class by class"),
        ("wrong", surest_wrong(table, gallery_size), WRONG, "Confidently wrong"),
    ):
        if not rows:
            continue
        chosen = torch.stack([images[index] for index in table.indices[rows].tolist()])
        faces = [as_pixels(image) for image in chosen]
        if maps is not None:
            # Each face has what speaks for its class beside it, as large as both are shown.
            parts = zip(chosen.split(_AT_ONCE), torch.tensor(table.predicted[rows]).split(_AT_ONCE), strict=True)
            values = np.concatenate([maps(part, classes.tolist()) for part, classes in parts])
            faces = [side_by_side(face, one, _SIDE, gap=4) for face, one in zip(faces, values, strict=True)]
        described = zip(table.predicted[rows], table.confidence[rows], table.labels[rows], strict=True)
        captions = [
            [(f"{names[guess]} {share:.0%}", ink), (f"true: {names[label]}", INK)] for guess, share, label in described
        ]
        drawn[name] = gallery(faces, captions, f"{text}, {title}{looks}")
    return drawn


def surest_right(table: SampleTable, size: int) -> list[int]:
    """Return rows predicted right, the classes taking turns, each class's surest first."""
    turns = []
    for label in np.unique(table.labels):
        rows = np.flatnonzero(table.correct & (table.labels == label))
        rows = rows[np.argsort(-table.confidence[rows], kind="stable")][:size]
        turns += [(turn, int(label), int(row)) for turn, row in enumerate(rows)]
    return [row for _, _, row in sorted(turns)[:size]]


def surest_wrong(table: SampleTable, size: int) -> list[int]:
    """Return rows predicted wrong, the surest first."""
    rows = np.flatnonzero(~table.correct)
    return [int(row) for row in rows[np.argsort(-table.confidence[rows], kind="stable")][:size]]


def as_pixels(image: Tensor) -> NDArray[Any]:
    """Return an image tensor (1 or 3, H, W) as matplotlib wants it: (H, W) or (H, W, 3)."""
    array = image.numpy(force=True)
    return np.asarray(array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0))


def training_faces(images: Tensor, targets: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw one or more training faces as the network gets them, with their labels.

    Images are (N, 1 or 3, H, W), uint8 or floating point in 0 to 1, targets class indices (N,) or distributions (N, C).
    """
    labels = (targets.argmax(dim=1) if targets.ndim == 2 else targets).tolist()
    captions = [[(shortened(class_names[label]), INK)] for label in labels]
    return gallery([as_pixels(image) for image in images], captions, "Training faces as the network gets them")


def _facts(scores: Scores) -> str:
    return f"n = {scores.count:,}   accuracy {scores.values['accuracy']:.1%}"


def confusion_matrix(scores: Scores, title: str) -> Figure:
    """Draw the confusion matrix: each cell has the share of its row in percent and the number of samples."""
    number = len(scores.class_names)
    rows = scores.confusion.sum(axis=1, keepdims=True)
    share = scores.confusion / np.maximum(rows, 1)
    side = max(5.0, 1.6 + 0.86 * number)
    figure = blank(side + 0.9, side)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true, guess in np.ndindex(number, number):
        if rows[true]:
            ink = "white" if share[true, guess] > 0.55 else INK
            cell = ((-0.1, f"{share[true, guess]:.0%}", 11), (0.23, f"{scores.confusion[true, guess]:,}", 8.5))
            for below, text, size in cell:
                axes.text(guess, true + below, text, fontsize=size, color=ink, ha="center", va="center")
    axes.set_xticks(range(number), [wrapped(name) for name in scores.class_names], fontsize=9)
    axes.set_yticks(range(number), class_labels(scores.class_names, rows[:, 0].tolist()), fontsize=9)
    axes.set(xlabel="predicted", ylabel="true (number of samples)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    heading(axes, title, f"{_facts(scores)}   each cell: share of its row, number of samples")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, format=lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    return figure


def per_class_accuracy(scores: Scores, title: str) -> Figure:
    """Draw the accuracy of each class (its recall) as bars, as in the paper's Figure 15."""
    names, counts = scores.class_names, scores.confusion.sum(axis=1)
    figure = blank(max(6.4, 1.4 + 0.95 * len(names)), 4.6)
    axes = figure.add_subplot()
    _class_bars(axes, names, counts, [scores.values.get(f"recall/{name}") for name in names])
    overall, balanced = scores.values["accuracy"], scores.values["balanced_accuracy"]
    axes.axhline(overall, color=INK, linewidth=1, linestyle=DASHED, label=f"all samples {overall:.1%}")
    axes.axhline(balanced, color=GREY, linewidth=1, linestyle=":", label=f"mean of the classes {balanced:.1%}")
    axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, 1.08), yticks=np.linspace(0, 1, 6), ylabel="accuracy")
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=2, frameon=False, fontsize=9)
    heading(axes, title, f"n = {scores.count:,}")
    return figure


def _class_bars(
    axes: Axes, names: Sequence[str], counts: NDArray[Any], values: Sequence[float | None], inside: bool = False
) -> None:
    """Draw a bar for each class in its colour, with its share above or inside it, and its name and count below."""
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is None:
            axes.text(place, 0.01, "no\nsample", ha="center", va="bottom", fontsize=9, color=GREY)
            continue
        axes.bar(place, value, width=0.72, color=colour(name), zorder=2)
        height, ink = (0.03, "white") if inside else (value + 0.012, INK)
        label = axes.text(place, height, f"{value:.1%}", ha="center", va="bottom", color=ink, zorder=3)
        if not inside:
            # A line of the means must not strike the number through.
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_xticks(range(len(names)), class_labels(names, counts.tolist()), fontsize=9)
    axes.tick_params(length=0)
    percent_axes(axes, "y")


def reliability(table: SampleTable, scores: Scores, title: str) -> Figure:
    """Draw the reliability diagram: how often predictions of a given confidence are right.

    Bars below the diagonal mean that the network is too sure of itself. The bins are those of ``ece``.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.digitize(table.confidence, edges[1:-1], right=True)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled, divisor = counts > 0, np.maximum(counts, 1)
    accuracy = np.bincount(bins, weights=table.correct, minlength=CALIBRATION_BINS) / divisor
    confidence = np.bincount(bins, weights=table.confidence, minlength=CALIBRATION_BINS) / divisor
    left, gap = edges[:-1], confidence - accuracy

    figure = blank(6.2, 6.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    look: dict[str, Any] = {"width": 1 / CALIBRATION_BINS, "align": "edge", "edgecolor": "white"}
    upper.bar(left[filled], accuracy[filled], color=BAR, label="accuracy", **look)
    for kind, ink, label in (
        (filled & (gap > 0), "#dc9a93", "over-confident by"),
        (filled & (gap < 0), "#e0a800", "under-confident by"),
    ):
        if kind.any():
            upper.bar(left[kind], gap[kind], bottom=accuracy[kind], color=ink, label=label, **look)
    upper.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=DASHED, label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of predictions that are right")
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    mean = float(table.confidence.mean())
    heading(upper, title, f"{_facts(scores)}   mean confidence {mean:.1%}   ECE {scores.values['ece']:.3f}")
    lower.bar(left, counts / max(1, counts.sum()), color=GREY, **look)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="samples")
    percent_axes(upper, "x", "y")
    percent_axes(lower, "y")
    return figure


def draw_sets(table: SampleTable, class_names: Sequence[str], calibration: Calibration, title: str) -> Figure:
    """Draw how many classes the prediction sets hold, and how often the true one is among them, class by class.

    It is of the stated coverage of 90%, or of the one nearest to it; the calibration has a threshold or more.
    """
    level, threshold = min(calibration.thresholds.items(), key=lambda item: abs(float(item[0]) - _LEVEL))
    sets = prediction_sets(table.probabilities, threshold)
    covered, most = sets[np.arange(len(sets)), table.labels], len(class_names)
    counts = np.bincount(table.labels, minlength=most)
    figure = blank(max(9.6, 4.6 + 0.8 * most), 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1, max(1.2, most / 6)))

    shares = np.bincount(sets.sum(axis=1), minlength=most + 1)[1:] / len(sets)
    bars = left.bar(range(1, most + 1), shares, width=0.72, color=BAR)
    left.bar_label(bars, [f"{share:.0%}" for share in shares], padding=2)
    left.set(xticks=range(1, most + 1), xlabel="expressions in the set")
    left.set(ylabel="share of samples", ylim=(0, max(shares) * 1.15))
    left.tick_params(length=0)
    percent_axes(left, "y")
    heading(left, f"Prediction sets, {title}", f"{as_percent(level)} stated   {sets.sum(1).mean():.2f} on average")

    values = [covered[table.labels == label].mean() if counts[label] else None for label in range(most)]
    _class_bars(right, class_names, counts, values, inside=True)
    stated = f"stated {as_percent(level)}"
    right.axhline(float(level), color=INK, linewidth=1, linestyle=DASHED, label=stated, zorder=4)
    right.set_ylim(0, 1)
    right.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), frameon=False, fontsize=9)
    heading(right, "Coverage of each class", f"n = {len(sets):,}   all samples {covered.mean():.1%}")
    return figure


def gallery(
    images: Sequence[NDArray[Any]], captions: Sequence[Sequence[tuple[str, str]]], title: str,
    columns: int | None = None,
) -> Figure:  # fmt: skip
    """Draw faces in a grid, which by default is somewhat wider than high, each with the lines of its caption.

    Images are (H, W) grey or (H, W, 3) RGB, uint8 or floating point in 0 to 1; one or more, all of one shape. A line
    is a text and its colour.
    """
    ratio = images[0].shape[1] / images[0].shape[0]
    columns = columns or near_square(len(images), 4, 8, 1.6 / ratio)
    height = 1.4
    figure, grid = image_grid(title, columns, ratio * height, [height] * len(images), captions, top=0.55)
    for axes, image in zip(grid, images, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, interpolation="nearest")
    return figure


def timeline(
    shares: NDArray[np.float64], seconds: float, names: Sequence[str], class_names: Sequence[str], title: str
) -> Figure:
    """Draw the expressions of several faces over time: a lane each, the probabilities stacked in the classes' colours.

    Args:
        shares: probabilities, or sums of them, (faces, times, classes); all 0 where a face was not seen.
        seconds: from the first of the times to the end of the last.
        names: of the faces.
        class_names: names of the classes.
        title: of the figure.
    """
    from matplotlib.patches import Patch

    figure = blank(10, 1.5 + 0.7 * len(names))
    lanes = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    palette = np.array([ImageColor.getrgb(colour(name)) for name in class_names] + [(255, 255, 255)], dtype=np.uint8)
    levels = (np.arange(50)[:, None, None] + 0.5) / 50
    for axes, lane, name in zip(lanes, shares, names, strict=True):
        total = lane.sum(axis=1, keepdims=True)
        below = np.cumsum(lane / np.where(total > 0, total, 1), axis=1)
        image = palette[(levels > below).sum(axis=2)]  # white where nothing reaches the level: the face was not seen
        axes.imshow(image, aspect="auto", extent=(0, seconds, 0, 1), origin="lower", interpolation="nearest")
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set_yticks([])
    lanes[-1].xaxis.set_major_formatter(lambda value, _: f"{value // 60:.0f}:{value % 60:04.1f}")
    lanes[-1].set_xlabel("minutes:seconds")
    lanes[0].set_title(title, fontsize=13, fontweight="bold", loc="left")
    keys = [Patch(color=colour(name), label=name) for name in class_names]
    figure.legend(handles=keys, loc="outside upper center", ncols=8, frameon=False)
    return figure


def robustness_curves(found: Mapping[str, Any], title: str) -> Figure:
    """Draw a panel for each corruption of `score_robustness`: the accuracy over the strengths, from the clean at 0."""
    number = len(found["corruptions"])
    columns = min(3, number)
    rows = -(-number // columns)
    clean, mean = found["clean"]["accuracy"], found["mean"]["accuracy"]
    figure = blank(max(4.8, 3.5 * columns), 0.9 + 2.5 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, own) in zip(grid.flat, found["corruptions"].items(), strict=False):
        corruption, values = CORRUPTIONS[name], [one["accuracy"] for one in own["strengths"]]
        axes.axhline(clean, color=INK, linewidth=1, linestyle=DASHED)
        axes.plot([0, *STRENGTHS], [clean, *values], color=BAR, linewidth=2, marker="o", markersize=4.5, clip_on=False)
        for place, value in zip(STRENGTHS, values, strict=True):
            # Below the line, where the dashed one seldom is, unless there is no room.
            away, side = (-6, "top") if value > 0.12 else (6, "bottom")
            axes.annotate(
                f"{value:.0%}", (place, value), xytext=(0, away), textcoords="offset points", ha="center", va=side,
                fontsize=8.5, color=BAR,
            )  # fmt: skip
        axes.set_title(corruption.label, fontsize=11, fontweight="bold", loc="left")
        axes.set_title(f"mean {own['mean']['accuracy']:.1%}", fontsize=9, color="#444444", loc="right")
        axes.set_xlabel(corruption.unit, fontsize=9)
        axes.set_xticks([0, *STRENGTHS], ["clean", *(f"{value:g}" for value in corruption.values)], fontsize=9)
        axes.set(xlim=(-0.3, len(STRENGTHS) + 0.3), ylim=(0, 1))
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
        axes.tick_params(length=0)
        percent_axes(axes, "y")
    for axes in grid.flat[number:]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    detail = f"n = {found['n']:,}   clean {clean:.1%} (dashed)   mean of all {mean:.1%}"
    figure.suptitle(f"{title}\n{detail}", x=0.01, ha="left", fontsize=12)
    return figure


def corrupted_faces(corruptions: Sequence[str], seed: int) -> Figure:
    """Draw one drawn face under each of one or more corruptions and strength: no image of a data set is shown."""
    drawn = draw_face("Happy", np.random.default_rng(3), REFERENCE_SIDE)
    clean = torch.from_numpy(drawn.mean(axis=2).round().astype(np.uint8))[None, None]
    index = torch.zeros(1, dtype=torch.int64)
    images, captions = [], []
    for name in corruptions:
        corruption = CORRUPTIONS[name]
        spoilt = [clean, *(corrupt(clean, index, name, strength, seed) for strength in STRENGTHS)]
        images += [as_pixels(image[0]) for image in spoilt]
        values = ["clean", *(f"{value:g}" for value in corruption.values)]
        captions += [[(corruption.label, INK), (value, GREY)] for value in values]
    return gallery(images, captions, "A drawn face under each corruption", columns=1 + len(STRENGTHS))
