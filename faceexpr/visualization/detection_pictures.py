"""Pictures with what was found and what was missed (the paper's Figures 4 to 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Outcome, judge
from faceexpr.metrics.detection_table import DetectionTable
from faceexpr.visualization.classification import GREY, blank
from faceexpr.visualization.detection import VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Literal["-", "--", ":"]

KINDS: dict[str, tuple[str, Line]] = {
    "true": ("#56b4e9", "-"),
    "false": (VERMILLION, "--"),
    "missed": ("#f0e442", ":"),
    "ignored": (GREY, "-"),
}
"""Colour and line of each kind of box; the lines tell them apart without colours."""

SIDE = 480
"""Longest side of a picture in a figure, in its pixels."""

Shown = list[tuple[NDArray[np.float32], str, str]]
"""Boxes to draw: box, kind, caption."""


def at_score(found: Detections, score: float) -> Detections:
    """Return the detections that have a score or a higher one."""
    sure = found.scores >= score
    return Detections(found.boxes[sure], found.scores[sure], found.limited)


def judged(table: DetectionTable, score: float, iou: float) -> list[Outcome]:
    """Return what became of the detections with a score or a higher one, for each picture."""
    return [judge(truth, at_score(found, score), iou) for truth, found in zip(table.truths, table.found, strict=True)]


def worst(outcomes: Sequence[Outcome], size: int) -> list[int]:
    """Return the rows with the most false detections and missed faces, the worst first; those without any left out."""
    errors = np.array([int(outcome.false.sum() + outcome.missed.sum()) for outcome in outcomes], dtype=np.int64)
    return [int(row) for row in np.argsort(-errors, kind="stable")[:size] if errors[row]]


def spread(number: int, size: int) -> list[int]:
    """Return ``size`` of ``number`` rows, evenly spaced: a sample that nobody has picked."""
    return np.unique(np.linspace(0, number - 1, min(size, number)).round().astype(int)).tolist() if number else []


def shown(table: DetectionTable, row: int, outcome: Outcome, score: float) -> Shown:
    """Return the boxes of a picture: true, false and ignored detections with their scores, and missed faces."""
    found, truth = at_score(table.found[row], score), table.truths[row]
    boxes: Shown = [(box, "missed", "") for box in truth.boxes[outcome.missed]]
    boxes += [(box, "ignored", "") for box in truth.boxes[truth.ignored]]
    for box, certainty, true, false in zip(
        found.boxes.numpy(), found.scores.tolist(), outcome.true, outcome.false, strict=True
    ):
        boxes.append((box, "true" if true else "false" if false else "ignored", f"{certainty:.2f}"))
    return boxes


def gallery(
    pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[Shown], captions: Sequence[str], title: str
) -> Figure:
    """Draw pictures in a grid, each with its boxes.

    Args:
        pictures: RGB (H, W, 3), one or more.
        boxes: those of each picture, in its pixels.
        captions: a line under each.
        title: above the grid.
    """
    from matplotlib.lines import Line2D

    columns = min(4, max(2, int(np.ceil(np.sqrt(len(pictures))))))
    rows = int(np.ceil(len(pictures) / columns))
    # In inches. Each picture fills the width of its column or, upright ones, a square; a row is as high as its highest.
    side, gap, line, top = 3.4, 0.14, 0.24, 0.8
    shares = [min(1.0, pixels.shape[0] / pixels.shape[1]) for pixels in pictures]
    heights = [side * max(shares[row * columns : (row + 1) * columns]) for row in range(rows)]
    width, height = columns * (side + gap) + gap, top + sum(heights) + rows * (gap + line)
    figure = blank(width, height)
    figure.set_layout_engine("none")
    figure.text(gap / width, 1 - 0.14 / height, title, fontsize=13, fontweight="bold", va="top")
    used = {kind for picture in boxes for _, kind, _ in picture}
    handles = [
        Line2D([], [], color=ink, linestyle=style, linewidth=2.4, label=kind)
        for kind, (ink, style) in KINDS.items()
        if kind in used
    ]
    if handles:
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(gap / width, 1 - 0.4 / height), borderaxespad=0, ncols=4,
            fontsize=10, facecolor="#5d6166", labelcolor="white", framealpha=1, edgecolor="none",
        )  # fmt: skip
    for place, (pixels, found, caption) in enumerate(zip(pictures, boxes, captions, strict=True)):
        row, column = divmod(place, columns)
        left = gap + column * (side + gap)
        lower = height - top - sum(heights[: row + 1]) - row * (gap + line)
        axes = figure.add_axes((left / width, lower / height, side / width, heights[row] / height))
        axes.set_axis_off()
        _draw(axes, pixels, found)
        figure.text(
            (left + side / 2) / width, (lower - 0.16) / height, caption, fontsize=9, ha="center", color="#222222"
        )
    return figure


def _draw(axes: Axes, pixels: NDArray[np.uint8], boxes: Shown) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    high, wide = pixels.shape[:2]
    zoom = min(1.0, SIDE / max(high, wide))
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    small = picture.resize((max(1, round(wide * zoom)), max(1, round(high * zoom))), Image.Resampling.BOX)
    axes.imshow(np.asarray(small), extent=(0, wide, high, 0), interpolation="nearest" if zoom == 1 else "antialiased")
    for (x0, y0, x1, y1), kind, caption in boxes:
        ink, style = KINDS[kind]
        edge = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=ink, linestyle=style, linewidth=1.8)
        # A dark border keeps a line visible on any picture.
        edge.set_path_effects([withStroke(linewidth=3.2, foreground="#000000aa")])
        axes.add_patch(edge)
        if caption:
            # Above the box, or inside it where there is no room above.
            side = "bottom" if y0 > 0.05 * high else "top"
            text = axes.text(x0, y0, caption, fontsize=6.5, color="white", va=side, clip_on=True)
            text.set_path_effects([withStroke(linewidth=1.6, foreground=ink)])
    axes.set_xlim(0, wide)
    axes.set_ylim(high, 0)


def training_pictures(images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Figure:
    """Draw training pictures as the network gets them, with their faces.

    Args:
        images: each (3, H, W), uint8 or floating point in 0 to 1, on any device; one or more.
        boxes: the faces of each, (F, 4).
    """
    pictures = []
    for image in images:
        pixels = image.detach().cpu()
        if pixels.dtype != torch.uint8:
            pixels = (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)
        pictures.append(pixels.permute(1, 2, 0).numpy())
    faces: list[Shown] = [[(box, "true", "") for box in found.numpy(force=True)] for found in boxes]
    captions = [f"{len(found)} face{'' if len(found) == 1 else 's'}" for found in boxes]
    return gallery(pictures, faces, captions, "Training pictures as the network gets them")


def draw_examples(
    table: DetectionTable, score: float, iou: float, size: int, picture: Callable[[int], NDArray[np.uint8]], title: str
) -> dict[str, Figure]:
    """Draw pictures of a split.

    Args:
        table: the pictures' detections and faces.
        score: detections with this score or a higher one are drawn.
        iou: smallest overlap of a detection with its face.
        size: largest number of pictures in a figure.
        picture: gives the pixels of an index.
        title: what was evaluated.

    Returns:
        ``pictures``, a sample of the split, and ``worst``, those with the most errors where there is any.
    """
    outcomes = judged(table, score, iou)
    drawn = {}
    for name, rows, text in (
        ("pictures", spread(len(outcomes), size), "Found and missed"),
        ("worst", worst(outcomes, size), "Most errors"),
    ):
        if rows:
            drawn[name] = gallery(
                [picture(int(table.indices[row])) for row in rows],
                [shown(table, row, outcomes[row], score) for row in rows],
                [_caption(outcomes[row]) for row in rows],
                f"{text}, score ≥ {score:g}, {title}",
            )
    return drawn


def _caption(outcome: Outcome) -> str:
    return f"{outcome.true.sum()} true, {outcome.false.sum()} false, {outcome.missed.sum()} missed"
