"""What all figures share: size, colours, headings, axes in percent."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY = "#222222", "#8a8f94"
# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, VERMILLION, PURPLE = "#0072b2", "#e69f00", "#d55e00", "#cc79a7"
DASHED = (0, (4, 3))
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


def class_labels(names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return the labels of an axis of classes: each name with its number of samples under it."""
    return [f"{wrapped(name)}\n({count:,})" for name, count in zip(names, counts, strict=True)]


def shortened(name: str, width: int = 16) -> str:
    """Return a class name that fits under a face of a gallery."""
    return name if len(name) <= width else name[: width - 1] + "…"


def heading(axes: Axes, title: str, detail: str) -> None:
    """Put a title above axes, and a line of facts under it."""
    axes.set_title(title, fontsize=13, fontweight="bold", loc="left", pad=25)
    axes.annotate(
        detail, (0, 1), xycoords="axes fraction", xytext=(0, 7), textcoords="offset points", fontsize=10,
        color="#444444",
    )  # fmt: skip


def percent_axes(axes: Axes, *names: str) -> None:
    """Print the values of axes, ``x`` or ``y``, in percent, and draw no frame above and to the right."""
    for name in names:
        getattr(axes, f"{name}axis").set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)


def near_square(count: int, least: int, most: int, stretch: float = 1.0) -> int:
    """Return the number of columns, within limits, of a grid that is ``stretch`` images wider than it is high."""
    return min(most, max(least, int(np.ceil(np.sqrt(count * stretch)))))


def image_grid(
    title: str, columns: int, width: float, heights: Sequence[float], captions: Sequence[Sequence[tuple[str, str]]],
    top: float,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Return a figure of axes without a frame in a grid, one for each image, with captions under them.

    All lengths are in inches: the width of each axes, the height of each image, of which the highest makes its row,
    and the room above the first row. The caption of an image has lines, each a text and its colour.
    """
    # Constrained layout does not see text that lies outside of axes, so the grid is laid out by hand.
    gap, line = 0.13, 0.18
    rows = [max(heights[start : start + columns]) for start in range(0, len(heights), columns)]
    below = gap + line * max(map(len, captions))
    wide, high = columns * (width + gap) + gap, top + sum(rows) + len(rows) * below
    figure = blank(wide, high)
    figure.set_layout_engine("none")
    figure.text(gap / wide, 1 - 0.15 / high, title, fontsize=13, fontweight="bold", va="top")
    drawn = []
    for place, caption in enumerate(captions):
        row, column = divmod(place, columns)
        left, lower = gap + column * (width + gap), high - top - sum(rows[: row + 1]) - row * below
        axes = figure.add_axes((left / wide, lower / high, width / wide, rows[row] / high))
        axes.set_axis_off()
        drawn.append(axes)
        for number, (text, ink) in enumerate(caption):
            x, y = (left + width / 2) / wide, (lower - 0.16 - number * line) / high
            figure.text(x, y, text, fontsize=8.5, color=ink, ha="center", va="baseline")
    return figure, drawn


def draw_groups(columns: Mapping[str, Any], title: str) -> Figure:
    """Draw the main metric of each group with its interval, a panel for each column of ``slices_test.json``."""
    panels = {
        name: [
            (f"{shortened(group, 24)} ({one['n']:,})", one["metrics"][column["main"]])
            for group, one in column["groups"].items()
            if column["main"] in one["metrics"]
        ]
        for name, column in columns.items()
    }
    rows = [max(1, len(groups)) for groups in panels.values()]
    figure = blank(7.5, 0.6 + 0.36 * sum(rows) + 0.9 * len(panels))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[0.5 + number for number in rows])[:, 0]
    for axes, (name, groups), number in zip(grid, panels.items(), rows, strict=True):
        for place, (_, one) in enumerate(groups):
            axes.plot([one["low"], one["high"]], [place, place], color=BLUE, linewidth=2.2, clip_on=False)
            axes.plot(one["value"], place, "o", color=BLUE, markersize=6, clip_on=False)
            axes.annotate(f"{one['value']:.3f}", (one["value"], place - 0.15), ha="center", va="bottom", fontsize=8)
        axes.set_yticks(range(len(groups)), [label for label, _ in groups])
        axes.set(xlim=(0, 1), ylim=(number - 0.5, -0.9))
        axes.set_title(f"{name}: {columns[name]['main'].replace('_', ' ')}", fontsize=10, fontweight="bold", loc="left")
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
    figure.suptitle(f"{title}, with 95% intervals", x=0.01, ha="left", fontsize=12)
    return figure
