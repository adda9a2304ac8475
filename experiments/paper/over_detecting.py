"""Figure 17: several boxes for one face, in pictures and in numbers, before suppression and after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Rectangle

from experiments.paper import examples
from experiments.paper.commands import BEFORE, RUNS, SYSTEM
from experiments.paper.drawing import DRAWN, ORANGE, Drawn
from experiments.paper.results import Results, Run
from faceexpr.pipeline.records import RECORDS, read_records
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image
from faceexpr.utils.text import counted
from faceexpr.visualization.classification import blank, heading

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

METHODS = {"none": "before", "nms": "NMS", "soft_nms": "Soft-NMS", "wbf": "weighted boxes fusion"}
INKS = ("#00f58a", "#ffd400", "#ff6ec7", "#4cc9ff", "#ff8c42")
"""Colours of boxes that lie over one another."""

SHOWN = 4
"""Photographs of the data, those with the most boxes beyond one for a face."""

Boxes = list[list[float]]


def over_detection(results: Results) -> list[Drawn]:
    """Return Figure 17: the portrait with its boxes before and after suppression, and the counts of all photographs."""
    run = results.first("wider_light")
    counts = {} if run is None else run.test.get("over_detection", {})
    if run is None or not counts:
        return []
    boxes = {
        stage: next((boxes for path, boxes in found.items() if Path(path).name == examples.PORTRAIT), [])
        for stage, found in _found(results.folder, "examples").items()
    }
    figure = blank(11.0 if boxes else 7.2, 3.6)
    *pictures, chart = figure.subplots(1, len(boxes) + 1, squeeze=False, width_ratios=[1] * len(boxes) + [1.8])[0]
    for axes, (stage, found) in zip(pictures, boxes.items(), strict=True):
        _picture(axes, examples.portrait(), stage, found)
        _near(axes, boxes["before"])
    _chart(chart, run, {name: counts[method]["extra"] for method, name in METHODS.items()})
    note = (
        f"To the right all photographs, before suppression and after it. {DRAWN}"
        if boxes
        else "The counts of all photographs."
    )
    return [Drawn(17, 'An example of "over-detecting"', figure, [counts, boxes], note)]


def over_detected_photographs(out: Path) -> Figure:
    """Return the photographs with the most boxes beyond one for a face, before suppression and after it.

    Args:
        out: folder of the runs.

    Raises:
        FaceExprError: the two-step system has not run yet.
    """
    found = _found(out / RUNS, "photographs")
    if not found:
        raise FaceExprError("the two-step system has not run yet")
    before, after = found.values()
    most = sorted(before, key=lambda name: len(after.get(name, [])) - len(before[name]))[:SHOWN]
    figure = blank(3.2 * len(most), 6.0)
    panels = figure.subplots(2, len(most), squeeze=False)
    for column, name in enumerate(most):
        pixels = read_image(out / name).pixels
        for row, (stage, boxes) in enumerate(found.items()):
            _picture(panels[row, column], pixels, stage, boxes.get(name, []))
    return figure


def _found(runs: Path, name: str) -> dict[str, dict[str, Boxes]]:
    """Return the boxes in each picture before and after suppression; empty where one of them is not stored."""
    folders = {"before": runs / SYSTEM / f"{name}{BEFORE}", "after": runs / SYSTEM / name}
    if not all((folder / RECORDS).is_file() for folder in folders.values()):
        return {}
    return {
        stage: {record["image"]: [face["box"] for face in record["faces"]] for record in read_records(folder / RECORDS)}
        for stage, folder in folders.items()
    }


def _picture(axes: Axes, pixels: NDArray[np.uint8], stage: str, boxes: Boxes) -> None:
    axes.imshow(pixels)
    for number, (left, top, right, bottom) in enumerate(boxes):
        ink = INKS[number % len(INKS)]
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=ink, linewidth=1.2))
    axes.set_title(f"{stage}: {counted(len(boxes), 'box', 'boxes')}", fontsize=11)
    axes.set_axis_off()


def _near(axes: Axes, boxes: Boxes) -> None:
    """Show the part of a picture around the boxes of one face."""
    if boxes:
        left, top, right, bottom = (
            reach([box[side] for box in boxes]) for side, reach in enumerate((min, min, max, max))
        )
        around = (bottom - top) / 3
        axes.set_xlim(left - around, right + around)
        axes.set_ylim(bottom + around, top - around)


def _chart(axes: Axes, run: Run, extra: dict[str, int]) -> None:
    places: Sequence[Any] = range(len(extra))[::-1]
    axes.barh(places, list(extra.values()), color=ORANGE, height=0.6)
    for place, value in zip(places, extra.values(), strict=True):
        axes.text(value, place, f" {value:,}", va="center", fontsize=10)
    axes.set_yticks(places, list(extra))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.margins(x=0.12)
    detail = f"{run.test['images']:,} photographs, {run.test['faces']:,} faces, score ≥ {run.test['score']:g}"
    heading(axes, "Boxes beyond one for the same face", detail)
