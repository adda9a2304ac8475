"""Figures that are pictures, made from drawn faces and a portrait: those of the data sets are not ours to publish."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import box_iou

from experiments.paper import examples
from experiments.paper.commands import SYSTEM
from experiments.paper.drawing import DRAWN, Drawn
from experiments.paper.results import Results
from faceexpr.pipeline.crop import Crop, cut
from faceexpr.pipeline.records import RECORDS, read_records
from faceexpr.utils.labels import FER_NAMES, colour
from faceexpr.visualization.boxes import draw_boxes
from faceexpr.visualization.classification import GREY, RIGHT, WRONG, blank, gallery

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOX_COLOUR = "#00f58a"
SHOWN_EACH = 3
"""Right and wrong faces in Figure 14."""

Found = dict[str, list[dict[str, Any]]]
"""The faces of each example picture, as `faceexpr analyze` has found them."""


def of_the_data() -> list[Drawn]:
    """Return Figures 2 and 3, samples of the two data sets, and Figure 4, what IoU means."""
    groups = {name: examples.group(name) for name in examples.GROUPS}
    shown = {name: draw_boxes(pixels, boxes, colours=BOX_COLOUR) for name, (pixels, boxes, _) in groups.items()}
    boxes = {name: found.round(1).tolist() for name, (_, found, _) in groups.items()}
    faces = [examples.face(number, name) for number, name in enumerate(FER_NAMES)]
    captions = [[(name, colour(name))] for name in FER_NAMES]
    labelled = gallery([_grey(face) for face in faces], captions, "Faces with their labels")
    return [
        Drawn(2, "Sample images from Dataset 1, with their boxes", _side_by_side(shown), boxes, DRAWN),
        Drawn(3, "Example images with emotion labels", labelled, list(FER_NAMES), DRAWN),
        _overlap(),
    ]


def _overlap() -> Drawn:
    first = (0.0, 0.0, 4.0, 4.0)
    others = [(2.5, 2.0, 6.5, 6.0), (1.2, 0.6, 5.2, 4.6), (0.3, 0.2, 4.2, 4.1)]
    figure = blank(9.0, 3.4)
    panels = figure.subplots(1, len(others))
    for axes, other in zip(panels, others, strict=True):
        for box, ink in ((first, RIGHT), (other, WRONG)):
            axes.fill(*_outline(box), facecolor=ink, alpha=0.25, edgecolor=ink, linewidth=2)
        value = _iou(first, other)
        axes.set_title(f"IoU {value:.2f}: {'found' if value >= 0.5 else 'not found'}", fontsize=11)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.invert_yaxis()
    figure.suptitle("Intersection over union of the true box (green) and the predicted one (red)", fontsize=12)
    return Drawn(4, "A representation of IoU", figure, [first, others])


def _outline(box: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    left, top, right, bottom = box
    return [left, right, right, left], [top, top, bottom, bottom]


def _iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return float(box_iou(torch.tensor([first]), torch.tensor([second])))


def of_the_system(results: Results) -> list[Drawn]:
    """Return Figures 1, 5 and 6, faces that were found in pictures."""
    found = found_in_examples(results)
    if not found:
        return []
    groups = {name: found.get(name, []) for name in examples.GROUPS}
    one = next(iter(groups))
    boxed = {name: _with_boxes(name, faces) for name, faces in groups.items()}
    portrait = {examples.PORTRAIT: found.get(examples.PORTRAIT, [])}
    charts = {name: _with_expressions(name, faces) for name, faces in portrait.items()}
    return [
        Drawn(1, "The detected human faces in an input image", _side_by_side({one: boxed[one]}), groups[one], DRAWN),
        Drawn(5, "Sample images, result of the face detection model", _side_by_side(boxed), groups, DRAWN),
        Drawn(
            6, "Human face detection in an image from elsewhere, and its expression", _side_by_side(charts), portrait,
            "A portrait of Grace Hopper, in the public domain; the chart has the probabilities of the second step.",
        ),
    ]  # fmt: skip


def found_in_examples(results: Results) -> Found:
    """Return what the two-step system has found in the example pictures, by the name of the file."""
    records = read_records(results.folder / SYSTEM / "examples" / RECORDS)
    return {record["image"].rpartition("/")[2]: record["faces"] for record in records}


def _with_boxes(name: str, faces: list[dict[str, Any]]) -> NDArray[np.uint8]:
    scores = [f"{face['score']:.0%}" for face in faces]
    return draw_boxes(examples.picture(name), [face["box"] for face in faces], scores, BOX_COLOUR)


def _with_expressions(name: str, faces: list[dict[str, Any]]) -> NDArray[np.uint8]:
    names = list(faces[0]["probabilities"]) if faces else []
    return draw_boxes(
        examples.picture(name), [face["box"] for face in faces], [face["expression"] for face in faces],
        [colour(face["expression"]) for face in faces],
        bars=[list(face["probabilities"].values()) for face in faces], bar_colours=[colour(one) for one in names],
        bar_names=names,
    )  # fmt: skip


def _side_by_side(pictures: dict[str, NDArray[np.uint8]]) -> Figure:
    widths = [pixels.shape[1] / pixels.shape[0] for pixels in pictures.values()]
    figure = blank(3.6 * sum(widths), 3.7)
    panels = figure.subplots(1, len(pictures), squeeze=False, width_ratios=widths)[0]
    for axes, pixels in zip(panels, pictures.values(), strict=True):
        axes.imshow(pixels)
        axes.set_axis_off()
    return figure


def of_the_classifier(results: Results) -> list[Drawn]:
    """Return Figure 14, faces that are classified right and wrong, and Figure 19, faces of several expressions."""
    rows = classified_faces(results)
    if not rows:
        return []
    surest = sorted(rows, key=lambda row: -row["confidence"])
    right = [row for row in surest if row["true"] == row["predicted"]][:SHOWN_EACH]
    wrong = [row for row in surest if row["true"] != row["predicted"]][:SHOWN_EACH]
    shown = [*right, *wrong]
    captions = [
        [
            (f"{row['predicted']} {row['confidence']:.0%}", RIGHT if row["true"] == row["predicted"] else WRONG),
            (f"true: {row['true']}", "#222222"),
        ]
        for row in shown
    ]
    faces = [_grey(examples.face(row["number"], row["true"])) for row in shown]
    figure = gallery(faces, captions, "Predicted correctly and wrong", SHOWN_EACH)
    note = f"Drawn faces, which a network trained on photographs has never seen. {DRAWN}"
    return [Drawn(14, "Example of predictions made by our model", figure, shown, note), _several(results, rows)]


def classified_faces(results: Results) -> list[dict[str, Any]]:
    """Return the probabilities that the second step gives the single drawn faces."""
    path = results.folder / SYSTEM / "drawn/predictions.csv"
    if not path.is_file():
        return []
    truth = {name: (number, what) for number, (name, what) in enumerate(examples.face_names())}
    with path.open(newline="", encoding="utf-8") as file:
        read = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    rows = []
    for row in read:
        number, what = truth[row["source"].rpartition("/")[2]]
        shares = {name: round(float(row[name]), 4) for name in FER_NAMES}
        rows.append(
            {
                "number": number, "true": what, "predicted": row["predicted"], "probabilities": shares,
                "confidence": max(shares.values()),
            }
        )  # fmt: skip
    return rows


def _several(results: Results, rows: list[dict[str, Any]]) -> Drawn:
    """Return Figure 19: the faces whose second expression is the most probable, with their seven probabilities."""
    faces = [(_grey(examples.face(row["number"], row["true"])), row["probabilities"]) for row in rows]
    for face in found_in_examples(results).get(examples.PORTRAIT, []):
        pixels = cut(examples.portrait(), face["box"], Crop())
        faces.append((_grey(pixels), {name: round(face["probabilities"][name], 4) for name in FER_NAMES}))
    chosen = sorted(faces, key=lambda one: -sorted(one[1].values())[-2])[:4]
    figure = blank(11.0, 4.0)
    panels = figure.subplots(2, len(chosen), height_ratios=(1.3, 1))
    for column, (pixels, shares) in enumerate(chosen):
        _face(panels[0, column], pixels)
        _chart(panels[1, column], shares, named=column == 0)
    figure.suptitle("Faces with several likely expressions", fontsize=13, fontweight="bold", x=0.02, ha="left")
    return Drawn(
        19, "Potential multiple expressions in one face", figure, [shares for _, shares in chosen], DRAWN
    )  # fmt: skip


def _face(axes: Axes, pixels: NDArray[np.uint8]) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def _chart(axes: Axes, shares: dict[str, float], named: bool) -> None:
    places = range(len(shares))[::-1]
    axes.barh(places, list(shares.values()), color=[colour(name) for name in shares], height=0.72)
    for place, share in zip(places, shares.values(), strict=True):
        axes.text(share + 0.02, place, f"{share:.0%}", va="center", fontsize=8)
    axes.set_yticks(places, list(shares) if named else [""] * len(shares), fontsize=9)
    axes.set_xlim(0, 1.15)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(GREY)


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).convert("L"))
