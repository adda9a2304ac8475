"""Draw the accuracy of a classifier over the strengths of corruptions, and what the corruptions look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from faceexpr.data.corruptions import CORRUPTIONS, REFERENCE_SIDE, STRENGTHS, corrupt
from faceexpr.data.synthetic.drawing import draw_face
from faceexpr.visualization.base import DASHED, GREY, INK, blank, percent_axes
from faceexpr.visualization.classification import BAR, as_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves(found: Mapping[str, Any], title: str) -> Figure:
    """Draw a panel for each corruption: the accuracy over the strengths, from the clean images at 0.

    Args:
        found: what was measured, see `score_robustness`.
        title: above the panels.
    """
    names = list(found["corruptions"])
    columns = min(3, len(names))
    rows = ceil(len(names) / columns)
    figure = blank(max(4.8, 3.5 * columns), 0.9 + 2.5 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        _panel(axes, found, name)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    clean, mean = found["clean"]["accuracy"], found["mean"]["accuracy"]
    figure.suptitle(
        f"{title}\nn = {found['n']:,}   clean {clean:.1%} (dashed)   mean of all {mean:.1%}",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    return figure


def _panel(axes: Axes, found: Mapping[str, Any], name: str) -> None:
    corruption, clean, own = CORRUPTIONS[name], found["clean"]["accuracy"], found["corruptions"][name]
    values = [clean, *(one["accuracy"] for one in own["strengths"])]
    places = [0, *STRENGTHS]
    axes.axhline(clean, color=INK, linewidth=1, linestyle=DASHED)
    axes.plot(places, values, color=BAR, linewidth=2, marker="o", markersize=4.5, clip_on=False)
    for place, value in zip(places[1:], values[1:], strict=True):
        # Below the line, where the dashed one seldom is, unless there is no room.
        below = value > 0.12
        axes.annotate(
            f"{value:.0%}", (place, value), xytext=(0, -6 if below else 6), textcoords="offset points",
            ha="center", va="top" if below else "bottom", fontsize=8.5, color=BAR,
        )  # fmt: skip
    axes.set_title(corruption.label, fontsize=11, fontweight="bold", loc="left")
    axes.set_title(f"mean {own['mean']['accuracy']:.1%}", fontsize=9, color="#444444", loc="right")
    axes.set_xlabel(corruption.unit, fontsize=9)
    axes.set_xticks(places, ["clean", *(f"{value:g}" for value in corruption.values)], fontsize=9)
    axes.set_xlim(-0.3, len(STRENGTHS) + 0.3)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
    axes.tick_params(length=0)
    percent_axes(axes, "y")


def examples(corruptions: Sequence[str], seed: int) -> Figure:
    """Draw one drawn face under each corruption and strength, so that no image of a data set is shown.

    Args:
        corruptions: their names, one or more.
        seed: of what is drawn at random.
    """
    drawn = draw_face("Happy", np.random.default_rng(3), REFERENCE_SIDE)
    image = torch.from_numpy(drawn.mean(axis=2).round().astype(np.uint8))[None, None]
    index = torch.zeros(1, dtype=torch.int64)
    figure = blank(6.6, 0.3 + 1.14 * len(corruptions))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(len(corruptions), 1 + len(STRENGTHS), squeeze=False)
    for row, name in zip(grid, corruptions, strict=True):
        corruption = CORRUPTIONS[name]
        spoilt = [image, *(corrupt(image, index, name, strength, seed) for strength in STRENGTHS)]
        captions = ["clean", *(f"{value:g}" for value in corruption.values)]
        for axes, pixels, caption in zip(row, spoilt, captions, strict=True):
            axes.imshow(as_pixels(pixels[0]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(caption, fontsize=8.5, color="#444444", pad=3)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(corruption.label.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=9.5)
    return figure
