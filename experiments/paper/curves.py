"""Figures of numbers: nearest neighbours, loss curves, accuracy of each class, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.paper import published
from experiments.paper.drawing import BLUE, ORANGE, Drawn
from experiments.paper.events import Curve, curves
from experiments.paper.results import Results, Run
from faceexpr.metrics.classification import Scores
from faceexpr.utils.labels import FER_NAMES
from faceexpr.visualization import classification as figures
from faceexpr.visualization.classification import GREY, blank, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
