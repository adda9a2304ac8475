"""The figure of a sweep: how the metric depends on what was varied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from faceexpr.sweep.space import Plain
from faceexpr.sweep.table import Row, best_row, shown
from faceexpr.visualization.base import DPI, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#2e6da4"
INKS = ("#2e6da4", "#d1783c", "#2e7d4f", "#8a5aa8", "#b3372b", "#5c6b73", "#c2a000", "#3a9e9e")
FEW = len(INKS)
"""So many values of a parameter are still told apart as lines, or named below bars."""

PANELS_IN_A_ROW = 3


def draw_sweep(rows: Sequence[Row], parameters: Sequence[str], monitor: str, mode: str, title: str) -> Figure | None:
    """Draw the metric against the parameters that vary.

    One parameter: bars, or a line where it is a number. Two: a line for each value of the one that has fewer, a map
    where neither is a number, points where both were drawn from ranges. More: for each parameter the best trial of
    each value and all trials as points.

    Args:
        rows: the trials that are over; those without a value are left out, and counted in the heading.
        parameters: the options that were swept, in order.
        monitor: name of the metric.
        mode: whether ``max`` or ``min`` is better.
        title: heading.

    Returns:
        None where no trial has a value.
    """
    from matplotlib.figure import Figure

    used = [row for row in rows if row.value is not None]
    if not used:
        return None
    varied = [name for name in parameters if len(_levels(used, name)) > 1] or [parameters[0]]
    columns = min(len(varied), PANELS_IN_A_ROW) if len(varied) > 2 else 1
    lines = -(-len(varied) // columns) if len(varied) > 2 else 1
    figure = Figure(figsize=(7.2 if columns == 1 else 4.4 * columns, 1 + 3.7 * lines), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    metric = f"{monitor}, best epoch"
    if len(varied) == 1:
        _one(figure.add_subplot(), used, varied[0], mode, metric)
    elif len(varied) == 2:
        _two(figure, used, (varied[0], varied[1]), metric)
    else:
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
        for place, (axes, name) in enumerate(zip(panels, varied, strict=False)):
            _best_of_each(axes, used, name, mode, metric if place % columns == 0 else "")
        for axes in panels[len(varied) :]:
            axes.set_axis_off()
    figure.suptitle(f"{title}\n", fontsize=13, fontweight="bold", x=0.02, ha="left")
    figure.text(0.02, 1 - 0.42 / figure.get_figheight(), _facts(rows, monitor, mode), fontsize=9.5, color="#444444",
                va="center")  # fmt: skip
    return figure


def _facts(rows: Sequence[Row], monitor: str, mode: str) -> str:
    counts = [(status, sum(row.status == status for row in rows)) for status in ("done", "pruned", "failed")]
    facts = ", ".join(f"{count} {status}" for status, count in counts if count)
    best = best_row(rows, mode)
    if best is None:
        return facts
    values = ", ".join(f"{_short(name)} {shown(value)}" for name, value in best.parameters.items())
    text = f"{facts}   best {monitor} {best.value:.4f}: {values}"
    return text if len(text) <= 110 else f"{text[:109]}…"


def _one(axes: Axes, rows: Sequence[Row], name: str, mode: str, metric: str) -> None:
    levels = _levels(rows, name)
    if _numeric(levels):
        points = sorted((_number(row.parameters[name]), _value(row)) for row in rows)
        axes.plot(*zip(*points, strict=True), marker="o", color=BLUE)
        _number_axis(axes, levels)
        axes.margins(y=0.15)
        if len(points) <= FEW:
            for x, y in points:
                _label(axes, x, y, f"{y:.4f}")
    else:
        heights = _best_by_level(rows, name, levels, mode)
        axes.bar(range(len(levels)), heights, width=0.6, color=BLUE)
        axes.margins(y=0.12)
        for place, height in enumerate(heights):
            _label(axes, place, height, f"{height:.4f}")
        _name_axis(axes, levels)
    _finish(axes, name, metric)


def _two(figure: Figure, rows: Sequence[Row], names: tuple[str, str], metric: str) -> None:
    levels = {name: _levels(rows, name) for name in names}
    numeric = [name for name in names if _numeric(levels[name])]
    axes = figure.add_subplot()
    if not numeric:
        _map(figure, axes, rows, names, metric)
        return
    # The number with the more values is the axis; the other parameter has a line for each of its values.
    x = max(numeric, key=lambda name: len(levels[name]))
    lines = names[0] if x == names[1] else names[1]
    if len(levels[lines]) > FEW:
        _scatter(figure, axes, rows, x, lines, metric)
        return
    for ink, level in zip(INKS, levels[lines], strict=False):
        points = sorted(
            (_number(row.parameters[x]), _value(row)) for row in rows if _same(row.parameters[lines], level)
        )
        axes.plot(*zip(*points, strict=True), marker="o", color=ink, label=shown(level))
    _number_axis(axes, levels[x])
    axes.margins(y=0.1)
    axes.legend(title=_short(lines), frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    _finish(axes, x, metric)


def _map(figure: Figure, axes: Axes, rows: Sequence[Row], names: tuple[str, str], metric: str) -> None:
    down, across = (_levels(rows, name) for name in names)
    cells = np.full((len(down), len(across)), np.nan)
    for row in rows:
        place = tuple(
            next(index for index, level in enumerate(levels) if _same(row.parameters[name], level))
            for name, levels in zip(names, (down, across), strict=True)
        )
        cells[place] = _value(row)
    image = axes.imshow(cells, cmap="Blues", aspect="auto")
    middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
    for place in np.ndindex(*cells.shape):
        if np.isfinite(cells[place]):
            ink = "white" if cells[place] > middle else "#222222"
            axes.text(place[1], place[0], f"{cells[place]:.4f}", color=ink, ha="center", va="center", fontsize=10)
    axes.set_yticks(range(len(down)), [shown(level) for level in down])
    axes.set_ylabel(names[0])
    _name_axis(axes, across)
    axes.set_xlabel(names[1])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=metric).outline.set_visible(False)


def _scatter(figure: Figure, axes: Axes, rows: Sequence[Row], x: str, y: str, metric: str) -> None:
    levels = _levels(rows, y)
    numeric = _numeric(levels)
    places = {id(row): _place(row.parameters[y], levels) if not numeric else _number(row.parameters[y]) for row in rows}
    points = axes.scatter(
        [_number(row.parameters[x]) for row in rows],
        [places[id(row)] for row in rows],
        c=[_value(row) for row in rows], cmap="viridis", s=60, edgecolor="white", linewidth=0.6,
    )  # fmt: skip
    _number_axis(axes, _levels(rows, x))
    if numeric:
        if _spans_orders(levels):
            axes.set_yscale("log")
    else:
        axes.set_yticks(range(len(levels)), [shown(level) for level in levels])
    _finish(axes, x, y)
    figure.colorbar(points, ax=axes, label=metric).outline.set_visible(False)


def _best_of_each(axes: Axes, rows: Sequence[Row], name: str, mode: str, metric: str) -> None:
    levels = _levels(rows, name)
    if _numeric(levels) and len(levels) > FEW:
        axes.scatter([_number(row.parameters[name]) for row in rows], [_value(row) for row in rows], s=26, color=BLUE,
                     edgecolor="white", linewidth=0.5)  # fmt: skip
        _number_axis(axes, levels)
    else:
        tops = _best_by_level(rows, name, levels, mode)
        best = max(tops) if mode == "max" else min(tops)
        axes.bar(range(len(levels)), tops, width=0.62, color=["#7fb392" if top == best else "#a9c4de" for top in tops])
        places = [_place(row.parameters[name], levels) for row in rows]
        axes.scatter(places, [_value(row) for row in rows], s=14, color=GREY, zorder=3)
        for place, top in enumerate(tops):
            _label(axes, place, top, f"{top:.4f}")
        _name_axis(axes, levels)
    axes.margins(y=0.12)
    _finish(axes, name, metric)


def _best_by_level(rows: Sequence[Row], name: str, levels: Sequence[Plain], mode: str) -> list[float]:
    better = max if mode == "max" else min
    return [better(_value(row) for row in rows if _same(row.parameters[name], level)) for level in levels]


def _levels(rows: Sequence[Row], name: str) -> list[Plain]:
    """Return the values of a parameter: numbers by size, others in the order of the trials."""
    found: list[Plain] = []
    for row in rows:
        value = row.parameters.get(name)
        if not any(_same(value, level) for level in found):
            found.append(value)
    return sorted(found, key=_number) if _numeric(found) else found


def _same(one: Plain, other: Plain) -> bool:
    # 1 and true are equal to Python.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _place(value: Plain, levels: Sequence[Plain]) -> int:
    return next(index for index, level in enumerate(levels) if _same(value, level))


def _numeric(levels: Sequence[Plain]) -> bool:
    return all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)


def _number(value: Plain) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _value(row: Row) -> float:
    assert row.value is not None
    return row.value


def _spans_orders(levels: Sequence[Plain]) -> bool:
    numbers = [_number(level) for level in levels]
    return min(numbers) > 0 and max(numbers) / min(numbers) >= 50


def _number_axis(axes: Axes, levels: Sequence[Plain]) -> None:
    if _spans_orders(levels):
        axes.set_xscale("log")
    elif len(levels) <= FEW:
        axes.set_xticks([_number(level) for level in levels], [shown(level) for level in levels])


def _name_axis(axes: Axes, levels: Sequence[Plain]) -> None:
    names = [text if len(text) <= 24 else f"{text[:23]}…" for text in map(shown, levels)]
    crowded = sum(map(len, names)) > 40
    axes.set_xticks(range(len(levels)), names, rotation=25 if crowded else 0, ha="right" if crowded else "center")


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), xytext=(0, 6 if y >= 0 else -6), textcoords="offset points", ha="center",
        va="bottom" if y >= 0 else "top", fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )  # fmt: skip


def _finish(axes: Axes, name: str, metric: str) -> None:
    axes.set_xlabel(name)
    axes.set_ylabel(metric)
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    """Return the last part of an option's name, where there is no room for all."""
    return name.rpartition(".")[2]
