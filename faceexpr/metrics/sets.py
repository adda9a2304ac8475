"""Prediction sets of a calibrated classifier: how often they hold the true class, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from faceexpr.models.calibrator import Calibration, as_percent, mass_before, prediction_sets
from faceexpr.utils.labels import colour
from faceexpr.visualization.classification import GREY, blank, heading, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from faceexpr.metrics.tables import SampleTable

COVERAGE, SIZE = "coverage/", "set_size/"
"""Beginnings of the names of the metrics; the stated coverage follows, as in ``coverage/0.9``."""

_SHOWN = 0.9  # the coverage that is drawn, or the one that is nearest to it
_BAR = "#2e6da4"


def set_values(table: SampleTable, calibration: Calibration | None) -> dict[str, float]:
    """Measure the sets of each stated coverage; nothing without a calibration.

    - ``coverage/0.9``: share of samples whose true class is in the set that is to hold it in 90%.
    - ``set_size/0.9``: mean number of classes in these sets.

    Args:
        table: samples with their labels and with calibrated probabilities.
        calibration: has the thresholds.
    """
    if calibration is None or not calibration.thresholds:
        return {}
    before = mass_before(table.probabilities)
    of_truth = before[np.arange(len(before)), table.labels]
    values = {}
    for level, threshold in calibration.thresholds.items():
        values[f"{COVERAGE}{level}"] = float((of_truth <= threshold).mean())
        values[f"{SIZE}{level}"] = float((before <= threshold).sum(axis=1).mean())
    return values


def recorded(values: Mapping[str, float]) -> dict[str, float]:
    """Return those of the metrics that are of prediction sets."""
    return {name: value for name, value in values.items() if name.startswith((COVERAGE, SIZE))}


def set_lines(values: Mapping[str, float], count: int) -> list[str]:
    """Return what people read of the sets of each stated coverage; see `set_values`."""
    return [
        f"  prediction sets at {as_percent(name.removeprefix(COVERAGE))}: cover {value:.1%} of {count:,}, "
        f"{values[name.replace(COVERAGE, SIZE)]:.2f} expressions on average"
        for name, value in values.items()
        if name.startswith(COVERAGE)
    ]


def set_figures(
    table: SampleTable, class_names: tuple[str, ...], calibration: Calibration | None, title: str
) -> dict[str, Figure]:
    """Draw how many classes the sets hold, and how often the true one is among them, class by class.

    Args:
        table: the samples.
        class_names: names of the classes in index order.
        calibration: of the model, if it has one with thresholds; without it, nothing is drawn.
        title: what was evaluated.

    Returns:
        The figure by its name, of the stated coverage of 90% or the one nearest to it.
    """
    if calibration is None or not calibration.thresholds:
        return {}
    level, threshold = min(calibration.thresholds.items(), key=lambda item: abs(float(item[0]) - _SHOWN))
    sets = prediction_sets(table.probabilities, threshold)
    covered = sets[np.arange(len(sets)), table.labels]
    figure = blank(max(9.6, 4.6 + 0.8 * len(class_names)), 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1, max(1.2, len(class_names) / 6)))
    _sizes(left, sets.sum(axis=1), len(class_names))
    heading(left, f"Prediction sets, {title}", f"{as_percent(level)} stated   {sets.sum(1).mean():.2f} on average")
    _by_class(right, covered, table.labels, class_names, level)
    heading(right, "Coverage of each class", f"n = {len(sets):,}   all samples {covered.mean():.1%}")
    return {"prediction_sets": figure}


def _sizes(axes: Axes, sizes: NDArray[np.int64], most: int) -> None:
    shares = np.bincount(sizes, minlength=most + 1)[1:] / len(sizes)
    axes.bar(range(1, most + 1), shares, width=0.72, color=_BAR)
    for size, share in enumerate(shares, 1):
        axes.text(size, share + 0.012, f"{share:.0%}", ha="center", va="bottom", fontsize=10)
    axes.set_xticks(range(1, most + 1))
    axes.set_xlabel("expressions in the set")
    axes.set_ylabel("share of samples")
    _finish(axes, max(shares) * 1.15)


def _by_class(
    axes: Axes, covered: NDArray[np.bool_], labels: NDArray[np.int64], names: tuple[str, ...], level: str
) -> None:
    for place, name in enumerate(names):
        own = covered[labels == place]
        if not len(own):
            axes.text(place, 0.01, "no\nsample", ha="center", va="bottom", fontsize=9, color=GREY)
            continue
        axes.bar(place, own.mean(), width=0.72, color=colour(name), zorder=2)
        axes.text(place, 0.03, f"{own.mean():.1%}", ha="center", va="bottom", fontsize=9.5, color="white", zorder=3)
    axes.axhline(
        float(level), color="#222222", linewidth=1, linestyle=(0, (4, 3)), label=f"stated {as_percent(level)}", zorder=4
    )
    counts = np.bincount(labels, minlength=len(names))
    axes.set_xticks(
        range(len(names)), [f"{wrapped(name)}\n({count:,})" for name, count in zip(names, counts, strict=True)],
        fontsize=9,
    )  # fmt: skip
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), frameon=False, fontsize=9)
    _finish(axes, 1.0)


def _finish(axes: Axes, top: float) -> None:
    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
