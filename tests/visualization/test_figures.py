"""Figures show the numbers, and nothing of them is cut off or lies on something else."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from faceexpr.metrics.classification import score
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.labels import FER_NAMES, colour
from faceexpr.visualization import classification as figures
from faceexpr.visualization.classification import surest_right, surest_wrong

LONG_NAMES = (*FER_NAMES[:6], "Neutral or without any expression", "Contemptuous_and_disapproving")


def make_table(classes, count=400, missing=None):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, count)
    if missing is not None:
        labels[labels == missing] = 0
    logits = generator.normal(size=(count, classes)) * 2
    logits[np.arange(count), labels] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return SampleTable(np.arange(count), probabilities.astype(np.float32), labels)


def texts(figure):
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def assert_inside(figure):
    found = texts(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for text in found:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    return [text.get_text() for text in found]


def assert_apart(labels):
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    for left, right in pairwise(boxes):
        assert left.x1 <= right.x0


@pytest.mark.parametrize("names", [FER_NAMES, LONG_NAMES, ("no", "yes")], ids=["seven", "long", "two"])
def test_confusion_matrix_shows_counts_and_shares_in_label_order(names):
    scores = score(make_table(len(names)), names)
    figure = figures.confusion_matrix(scores, "Confusion matrix, test")
    shown = assert_inside(figure)
    axes = figure.axes[0]
    letters = [label.get_text().replace("\n", "").replace(" ", "") for label in axes.get_xticklabels()]
    assert letters == [name.replace(" ", "") for name in names]
    assert_apart(axes.get_xticklabels())
    share = scores.confusion[0, 0] / scores.confusion[0].sum()
    assert f"{share:.0%}" in shown
    assert f"{scores.confusion[0, 0]:,}" in shown
    assert any("n = 400" in text and f"accuracy {scores.values['accuracy']:.1%}" in text for text in shown)


@pytest.mark.parametrize("names", [FER_NAMES, LONG_NAMES], ids=["seven", "long"])
def test_bars_are_the_recall_in_the_colour_of_the_class(names):
    scores = score(make_table(len(names), missing=1), names)
    figure = figures.per_class_accuracy(scores, "Accuracy of each class, test")
    shown = assert_inside(figure)
    axes = figure.axes[0]
    assert_apart(axes.get_xticklabels())
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [scores.values[f"recall/{name}"] for name in names if name != "Disgust"]
    assert axes.patches[0].get_facecolor()[:3] == pytest.approx(
        [int(colour("Angry")[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    )
    assert "no\nsample" in shown


def test_reliability_is_what_ece_is_made_of():
    table = make_table(7)
    scores = score(table, FER_NAMES)
    figure = figures.reliability(table, scores, "Reliability, test")
    assert_inside(figure)
    upper, lower = figure.axes
    gaps = {
        round(bar.get_x() * 15): abs(bar.get_height())
        for container in upper.containers[1:]
        for bar in container.patches
    }
    weights = [bar.get_height() for bar in lower.patches]
    assert sum(weights) == pytest.approx(1)
    assert sum(gap * weights[place] for place, gap in gaps.items()) == pytest.approx(scores.values["ece"], abs=1e-5)


@pytest.mark.parametrize("count", [1, 5, 16, 40])
def test_gallery_shows_every_face_with_its_caption(count):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (48, 48, 3) if place % 2 else (48, 48), np.uint8) for place in range(count)]
    name = figures.shortened("Neutral or without any expression")
    captions = [[(f"{name} 100%", figures.WRONG), (f"true: {place}", "#000000")] for place in range(count)]
    figure = figures.gallery(images, captions, "Confidently wrong, test")
    shown = assert_inside(figure)
    assert len(figure.axes) == count
    assert {f"true: {place}" for place in range(count)} <= set(shown)
    assert len(name) == 16


def test_galleries_choose_the_surest_and_let_the_classes_take_turns():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.05, 0.95], [0.3, 0.7]], np.float32)
    table = SampleTable(np.arange(6), probabilities, np.array([0, 0, 0, 1, 0, 0]))
    assert surest_right(table, 3) == [0, 3, 1]
    assert surest_right(table, 10) == [0, 3, 1, 2]
    assert surest_wrong(table, 10) == [4, 5]
    assert surest_wrong(table, 1) == [4]
