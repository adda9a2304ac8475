"""Draw the paper's figures from stored results; drawn faces and a portrait stand in for images of the data sets."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import box_iou

from experiments.paper import published
from experiments.paper.dataset1 import BOXES, read_boxes
from experiments.paper.experiments import ALL_BOXES, BEFORE, RUNS, SYSTEM, TEST
from experiments.paper.runs import Curve, Results, Run, curves
from faceexpr.data.synthetic.drawing import draw_face, draw_scene
from faceexpr.metrics.classification import Scores
from faceexpr.pipeline.records import RECORDS, read_records
from faceexpr.utils.crop import Crop, cut_face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file
from faceexpr.utils.images import read_image
from faceexpr.utils.labels import FER_NAMES, colour
from faceexpr.utils.text import counted
from faceexpr.visualization import classification as figures
from faceexpr.visualization.base import GREY, blank, heading
from faceexpr.visualization.boxes import draw_boxes
from faceexpr.visualization.classification import RIGHT, WRONG, gallery

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

KEY = "Source"
"""Field of a PNG file that holds the digest of what was drawn."""


BLUE, ORANGE = "#2e6da4", "#d1783c"
DRAWN = "Made from drawn faces and a portrait; the same with images of the data is in `RUNS/figures`."


@dataclass(frozen=True)
class Drawn:
    """One figure.

    Attributes:
        number: in the paper.
        title: in the paper's words, or ours.
        figure: the drawing.
        data: plain values that it was made from.
        note: what differs from the paper's figure.
    """

    number: int
    title: str
    figure: Figure
    data: Any
    note: str = ""

    @property
    def name(self) -> str:
        """The name of its file."""
        return file_name(self.number)

    @property
    def key(self) -> str:
        """A digest of the data."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> Path:
        """Write the PNG file, and return its path."""
        content = io.BytesIO()
        # Neither time nor version, so that the same figure is the same file.
        self.figure.savefig(content, format="png", metadata={KEY: self.key, "Software": None})
        write_file(folder / self.name, content.getvalue())
        return folder / self.name


def file_name(number: int) -> str:
    """Return the name of the file of a figure."""
    return f"figure_{number:02d}.png"


def stored_key(path: Path) -> str | None:
    """Return the digest of what a stored figure was made from; None where there is none."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return str(image.info[KEY]) if KEY in image.info else None


PORTRAIT = "portrait.png"
GROUPS = {"group_1.png": (480, 320, 6, 2026), "group_2.png": (480, 320, 3, 2027)}
"""Width, height, faces and seed of each drawn group."""

FACES_A_CLASS = 2
FACE_SIDE = 96


def portrait() -> NDArray[np.uint8]:
    """Return matplotlib's portrait of Grace Hopper, RGB uint8 (600, 512, 3)."""
    from matplotlib.cbook import get_sample_data

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        return np.asarray(image.convert("RGB"))


def group(name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[str]]:
    """Return a drawn group with the boxes and the expressions of its faces."""
    width, height, faces, seed = GROUPS[name]
    return draw_scene(np.random.default_rng(seed), width, height, faces)


def example(name: str) -> NDArray[np.uint8]:
    """Return one of the pictures by the name of its file."""
    return portrait() if name == PORTRAIT else group(name)[0]


def face_names() -> list[tuple[str, str]]:
    """Return the file of each single drawn face with its expression."""
    return [
        (f"{number:02d}_{name.lower()}.png", name)
        for number, name in enumerate(name for _ in range(FACES_A_CLASS) for name in FER_NAMES)
    ]


def drawn_face(number: int, expression: str) -> NDArray[np.uint8]:
    """Return one of the single drawn faces."""
    return draw_face(expression, np.random.default_rng([2026, number]), FACE_SIDE)


def write_examples(folder: Path) -> None:
    """Write ``pictures/`` and ``faces/``; what is there already is left as it is."""
    images = {f"pictures/{name}": example(name) for name in (PORTRAIT, *GROUPS)}
    images |= {f"faces/{name}": drawn_face(number, what) for number, (name, what) in enumerate(face_names())}
    for name, pixels in images.items():
        if not (folder / name).exists():
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            write_file(folder / name, content.getvalue())


KS, NORMS = (1, 3, 5, 7, 9), (1, 2, 3)
REPRESENTATIONS = {"RawPixels": ("raw pixels", BLUE), "Histogram": ("histogram", ORANGE)}

LOSSES: tuple[tuple[int, str, str, dict[str, Any]], ...] = (
    (9, "MLP with sigmoid", "mlp", {"net.activation": "sigmoid"}),
    (10, "MLP with ReLU", "mlp", {"net.activation": "relu"}),
    (11, "MLP with tanh", "mlp", {"net.activation": "tanh"}),
    (12, "Simple CNN", "simple_cnn", {}),
    (13, "ResNet-based CNN", "resnet18", {}),
)
"""Figures 9 to 13: number, title, experiment and settings."""


def nearest(results: Results) -> list[Drawn]:
    """Return Figure 7, accuracy by norm, and Figure 8, accuracy by number of neighbours."""
    found = {
        (run.setting("representation"), run.setting("p"), run.setting("k")): run.test["accuracy"]
        for run in results.of("knn")
    }
    by_norm = {kind: [found.get((kind, p, 3)) for p in NORMS] for kind in REPRESENTATIONS}
    by_number = {kind: [found.get((kind, 1, k)) for k in KS] for kind in REPRESENTATIONS}
    drawn = []
    if _complete(by_norm):
        figure = blank(6.4, 4.2)
        axes = figure.add_subplot()
        _lines(axes, [f"L{p}" for p in NORMS], by_norm)
        heading(axes, "KNN accuracy by norm", "K = 3, weighted by distance, PrivateTest")
        drawn.append(Drawn(7, "KNN accuracies with respect to L1, L2, L3 norm", figure, by_norm))
    if _complete(by_number):
        figure = blank(6.4, 4.2)
        axes = figure.add_subplot()
        _lines(axes, [str(k) for k in KS], by_number)
        paper = {
            "paper": [(0, published.KNN_ONE.value), (1, published.KNN_RAW.value), (1, published.KNN_HISTOGRAM.value)]
        }
        places, values = zip(*paper["paper"], strict=True)
        axes.plot(places, [value / 100 for value in values], "x", color=GREY, label="paper, where its text has numbers")
        axes.set_xlabel("neighbours K")
        axes.legend(frameon=False, fontsize=9)
        heading(axes, "KNN accuracy by number of neighbours", "L1, weighted by distance, PrivateTest")
        data = {**by_number, **paper}
        drawn.append(Drawn(8, "KNN accuracies with respect to K = 1, 3, 5, 7, 9", figure, data))
    return drawn


def _complete(lines: dict[str, list[float | None]]) -> bool:
    return all(value is not None for values in lines.values() for value in values)


def _lines(axes: Axes, names: Sequence[str], lines: dict[str, list[float | None]]) -> None:
    for kind, values in lines.items():
        label, ink = REPRESENTATIONS[kind]
        shares = [value or 0.0 for value in values]
        axes.plot(range(len(names)), shares, marker="o", color=ink, label=label, linewidth=2)
        for place, share in enumerate(shares):
            axes.annotate(
                f"{share:.1%}", (place, share), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9
            )
    axes.set_xticks(range(len(names)), names)
    axes.margins(x=0.1, y=0.2)
    _plain(axes)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, fontsize=9)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8ea", linewidth=0.8)
    axes.set_axisbelow(True)


def losses(results: Results) -> list[Drawn]:
    """Return Figures 9 to 13, the loss in training and on PublicTest epoch by epoch."""
    drawn = []
    for number, name, key, settings in LOSSES:
        run = results.first(key, settings)
        found = {} if run is None else curves(run.folder, ("train/loss", "val/loss"))
        if run is None or not found:
            continue
        figure = blank(6.4, 4.2)
        axes = figure.add_subplot()
        for (tag, curve), ink in zip(found.items(), (BLUE, ORANGE), strict=False):
            label = "training" if tag == "train/loss" else "PublicTest"
            axes.plot(range(1, len(curve) + 1), [value for _, value in curve], color=ink, label=label, linewidth=2)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        _plain(axes)
        axes.legend(frameon=False, fontsize=9)
        heading(axes, f"Loss, {name}", f"seed {run.seed}, best epoch by PublicTest: {run.val['epoch'] + 1}")
        drawn.append(Drawn(number, f"Training loss, {name}", figure, _rounded(found)))
    return drawn


def _rounded(found: dict[str, Curve]) -> dict[str, list[list[float]]]:
    return {tag: [[step, float(f"{value:.6g}")] for step, value in curve] for tag, curve in found.items()}


def classes(results: Results) -> list[Drawn]:
    """Return Figure 15, the accuracy of each class, and Figure 16, the confusion matrix, of the ResNet-based CNN."""
    run = results.first("resnet18")
    if run is None:
        return []
    scores = scores_of(run)
    names = list(scores.class_names)
    figure = figures.per_class_accuracy(scores, "Accuracy of each class, PrivateTest")
    axes = figure.axes[0]
    marks = {"Happy": published.RESNET_HAPPY.value, **dict.fromkeys(published.HARD, published.RESNET_HARD.value)}
    places = [names.index(name) for name in marks]
    axes.plot(places, [value / 100 for value in marks.values()], "_", color="#222222", markersize=50, label="paper")
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=3, frameon=False, fontsize=9, markerscale=0.4)
    data = {"confusion": scores.confusion.tolist(), "paper": marks}
    matrix = figures.confusion_matrix(scores, "Confusion matrix, PrivateTest")
    return [
        Drawn(15, "Per class accuracy", figure, data, "The marks are the paper's, where its text has numbers."),
        Drawn(16, "Confusion matrix", matrix, data["confusion"]),
    ]


def scores_of(run: Run) -> Scores:
    """Return the metrics of a test as its evaluation had them."""
    test = run.test
    values = {name: value for name, value in test.items() if isinstance(value, float)}
    for name, entry in test["per_class"].items():
        values |= {f"{metric}/{name}": entry[metric] for metric in ("recall", "precision", "f1")}
    values = {name: value for name, value in values.items() if value is not None}
    confusion = np.array(test["confusion_matrix"], dtype=np.int64)
    return Scores(tuple(test["class_names"]), values, test["undefined"], confusion)


def relabelled(results: Results) -> list[Drawn]:
    """Return Figure 18: what FER+ calls the test images of each label of FER-2013."""
    found = results.facts.get("ferplus")
    if not found:
        return []
    moved = np.array(found["labels"], dtype=np.int64)
    diagonal = int(moved.trace())
    scores = Scores(FER_NAMES, {"accuracy": diagonal / int(moved.sum())}, {}, moved)
    figure = figures.confusion_matrix(scores, "FER-2013's labels (rows) and FER+'s (columns)")
    axes = figure.axes[0]
    facts = next(text for text in axes.texts if text.get_text().startswith("n = "))
    facts.set_text(f"{int(moved.sum()):,} images, {diagonal / int(moved.sum()):.1%} of them with the same label")
    axes.set_xlabel("FER+, majority of the votes")
    axes.set_ylabel("FER-2013 (number of images)")
    note = "The paper shows some re-labelled faces; this is the count of all PrivateTest images with a majority label."
    return [Drawn(18, "FER vs FER+", figure, moved.tolist(), note)]


BOX_COLOUR = "#00f58a"
SHOWN_EACH = 3
"""Right and wrong faces in Figure 14."""

Found = dict[str, list[dict[str, Any]]]
"""The faces of each example picture, as `faceexpr analyze` has found them."""


def of_the_data() -> list[Drawn]:
    """Return Figures 2 and 3, samples of the two data sets, and Figure 4, what IoU means."""
    groups = {name: group(name) for name in GROUPS}
    shown = {name: draw_boxes(pixels, boxes, colours=BOX_COLOUR) for name, (pixels, boxes, _) in groups.items()}
    boxes = {name: found.round(1).tolist() for name, (_, found, _) in groups.items()}
    faces = [drawn_face(number, name) for number, name in enumerate(FER_NAMES)]
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
    groups = {name: found.get(name, []) for name in GROUPS}
    one = next(iter(groups))
    boxed = {name: _with_boxes(name, faces) for name, faces in groups.items()}
    portrait = {PORTRAIT: found.get(PORTRAIT, [])}
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
    return draw_boxes(example(name), [face["box"] for face in faces], scores, BOX_COLOUR)


def _with_expressions(name: str, faces: list[dict[str, Any]]) -> NDArray[np.uint8]:
    names = list(faces[0]["probabilities"]) if faces else []
    return draw_boxes(
        example(name), [face["box"] for face in faces], [face["expression"] for face in faces],
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
    faces = [_grey(drawn_face(row["number"], row["true"])) for row in shown]
    figure = gallery(faces, captions, "Predicted correctly and wrong", SHOWN_EACH)
    note = f"Drawn faces, which a network trained on photographs has never seen. {DRAWN}"
    return [Drawn(14, "Example of predictions made by our model", figure, shown, note), _several(results, rows)]


def classified_faces(results: Results) -> list[dict[str, Any]]:
    """Return the probabilities that the second step gives the single drawn faces."""
    path = results.folder / SYSTEM / "drawn/predictions.csv"
    if not path.is_file():
        return []
    truth = {name: (number, what) for number, (name, what) in enumerate(face_names())}
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
    faces = [(_grey(drawn_face(row["number"], row["true"])), row["probabilities"]) for row in rows]
    for face in found_in_examples(results).get(PORTRAIT, []):
        pixels = cut_face(portrait(), face["box"], Crop())
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


METHODS = {"none": "before", "nms": "NMS", "soft_nms": "Soft-NMS", "wbf": "weighted boxes fusion"}
INKS = ("#00f58a", "#ffd400", "#ff6ec7", "#4cc9ff", "#ff8c42")
"""Colours of boxes that lie over one another."""

DATASET_1_RUN = "dataset1_light"
LEAST_SCORE = 0.5
"""Of the boxes that are shown."""

SHOWN = 4
"""Photographs of the data, those with the most boxes beyond one for a face."""

Boxes = list[list[float]]


def over_detection(results: Results) -> list[Drawn]:
    """Return Figure 17: the portrait with its boxes before and after suppression, and the counts of all photographs."""
    run = over_detecting(results)
    if run is None:
        return []
    counts = run.test["over_detection"]
    boxes = {
        stage: next((boxes for path, boxes in found.items() if Path(path).name == PORTRAIT), [])
        for stage, found in _found(results.folder, "examples").items()
    }
    figure = blank(11.0 if boxes else 7.2, 3.6)
    *pictures, chart = figure.subplots(1, len(boxes) + 1, squeeze=False, width_ratios=[1] * len(boxes) + [1.8])[0]
    for axes, (stage, found) in zip(pictures, boxes.items(), strict=True):
        _picture(axes, portrait(), stage, found)
        _near(axes, boxes["before"])
    _count_chart(chart, run, {name: counts[method]["extra"] for method, name in METHODS.items()})
    where = "of Dataset 1's test part" if run.experiment == DATASET_1_RUN else "of WIDER FACE"
    note = f"To the right all photographs {where}, before suppression and after it. {DRAWN}"
    note = note if boxes else f"The counts of all photographs {where}."
    return [Drawn(17, 'An example of "over-detecting"', figure, [counts, boxes], note)]


def over_detecting(results: Results) -> Run | None:
    """Return the run whose boxes before and after suppression are counted: on Dataset 1, or else on WIDER FACE."""
    runs = [run for name in (DATASET_1_RUN, "wider_light") for run in results.of(name)]
    return next((run for run in runs if run.test.get("over_detection")), None)


def found_in_dataset_1(out: Path) -> dict[str, dict[str, Boxes]]:
    """Return the boxes in each image of the test part before and after suppression; empty where it has not run."""
    folder = out / RUNS / DATASET_1_RUN / "seed_0"
    files = {"before": folder / ALL_BOXES / BOXES, "after": folder / TEST / BOXES}
    if not all(file.is_file() for file in files.values()):
        return {}
    read = {stage: read_boxes(file, LEAST_SCORE) for stage, file in files.items()}
    return {stage: {name: one.boxes.tolist() for name, one in found.items()} for stage, found in read.items()}


def over_detected_photographs(out: Path) -> Figure:
    """Return the photographs with the most boxes beyond one for a face, before suppression and after it.

    Args:
        out: folder of the runs.

    Raises:
        FaceExprError: the two-step system has not run yet.
    """
    found = found_in_dataset_1(out) or _found(out / RUNS, "photographs")
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


def _count_chart(axes: Axes, run: Run, extra: dict[str, int]) -> None:
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


def draw_all(results: Results) -> dict[int, Drawn]:
    """Return the figures that can be drawn from the results, by number."""
    drawn = [
        *of_the_data(), *of_the_system(results), *of_the_classifier(results), *nearest(results), *losses(results),
        *classes(results), *over_detection(results), *relabelled(results),
    ]  # fmt: skip
    return {one.number: one for one in sorted(drawn, key=lambda one: one.number)}
