"""Figures show the numbers, and nothing of them is cut off or lies on something else."""

from itertools import pairwise

import numpy as np
import pytest
from box_values import FACE, OTHER, SEEN, TRUTHS, found, truth
from evaluation_runs import make_table, texts_inside
from matplotlib.colors import to_rgba
from PIL import ImageColor

from faceexpr.boxes.matching import judge
from faceexpr.callbacks.robustness import score_robustness
from faceexpr.data.corruptions import CORRUPTIONS
from faceexpr.metrics.classification import score
from faceexpr.metrics.detection import METHODS, BoxCounts, DetectionTable, score_detections
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.labels import FER_NAMES, colour
from faceexpr.visualization import classification as figures
from faceexpr.visualization import detection
from faceexpr.visualization.classification import surest_right, surest_wrong

LONG_NAMES = (*FER_NAMES[:6], "Neutral or without any expression", "Contemptuous_and_disapproving")


def assert_apart(labels):
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    for left, right in pairwise(boxes):
        assert left.x1 <= right.x0


@pytest.mark.parametrize("names", [LONG_NAMES, ("no", "yes")], ids=["long", "two"])
def test_confusion_matrix_shows_counts_and_shares_in_label_order(names):
    scores = score(make_table(400, len(names)), names)
    figure = figures.confusion_matrix(scores, "Confusion matrix, test")
    shown = texts_inside(figure)
    axes = figure.axes[0]
    letters = [label.get_text().replace("\n", "").replace(" ", "") for label in axes.get_xticklabels()]
    assert letters == [name.replace(" ", "") for name in names]
    assert_apart(axes.get_xticklabels())
    share = scores.confusion[0, 0] / scores.confusion[0].sum()
    assert f"{share:.0%}" in shown
    assert f"{scores.confusion[0, 0]:,}" in shown
    assert any("n = 400" in text and f"accuracy {scores.values['accuracy']:.1%}" in text for text in shown)


def test_bars_are_the_recall_in_the_colour_of_the_class():
    labels = np.random.default_rng(1).choice([0, *range(2, 8)], 400)  # none of Disgust
    scores = score(make_table(400, 8, labels), LONG_NAMES)
    figure = figures.per_class_accuracy(scores, "Accuracy of each class, test")
    assert "no\nsample" in texts_inside(figure)
    axes = figure.axes[0]
    assert_apart(axes.get_xticklabels())
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [scores.values[f"recall/{name}"] for name in LONG_NAMES if name != "Disgust"]
    assert axes.patches[0].get_facecolor() == to_rgba(colour("Angry"))


def test_reliability_is_what_ece_is_made_of():
    table = make_table()
    scores = score(table, FER_NAMES)
    figure = figures.reliability(table, scores, "Reliability, test")
    texts_inside(figure)
    upper, lower = figure.axes
    bars = [bar for container in upper.containers[1:] for bar in container.patches]
    gaps = {round(bar.get_x() * 15): abs(bar.get_height()) for bar in bars}
    weights = [bar.get_height() for bar in lower.patches]
    assert sum(weights) == pytest.approx(1)
    assert sum(gap * weights[place] for place, gap in gaps.items()) == pytest.approx(scores.values["ece"], abs=1e-5)


@pytest.mark.parametrize("count", [1, 16])
def test_gallery_shows_every_face_with_its_caption(count):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (48, 48, 3) if place % 2 else (48, 48), np.uint8) for place in range(count)]
    name = figures.shortened("Neutral or without any expression")
    captions = [[(f"{name} 100%", figures.WRONG), (f"true: {place}", "#000000")] for place in range(count)]
    figure = figures.gallery(images, captions, "Confidently wrong, test")
    shown = texts_inside(figure)
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


TABLE = DetectionTable(np.arange(3), [*SEEN, found()], [*TRUTHS, truth(FACE, ignored={0})])


def test_the_images_with_the_most_errors_are_shown_and_a_sample_is_spread():
    sure = [detection.at_score(found, 0.5) for found in TABLE.found]
    outcomes = [judge(truth, found, 0.5) for truth, found in zip(TABLE.truths, sure, strict=True)]
    # At 0.5 the first has a false box and a missed face, the second a missed face.
    assert (detection.worst(outcomes, 5), detection.worst(outcomes, 1)) == ([0, 1], [0])
    assert [detection.spread(number, 4) for number in (10, 2, 0)] == [[0, 3, 6, 9], [0, 1], []]
    drawn = map(detection.judged_boxes, sure, TABLE.truths, outcomes)
    kinds = [[(kind, caption) for _, kind, caption in boxes] for boxes in drawn]
    assert kinds[0] == [("missed", ""), ("true", "0.90"), ("false", "0.80")]
    assert kinds[2] == [("ignored", "")]


def test_figures_show_the_numbers_and_nothing_is_cut_off():
    scores = score_detections(TRUTHS, SEEN)
    shown = texts_inside(detection.precision_recall(scores, "Precision and recall, test"))
    average = f"IoU 0.5, AP {scores.values['ap50']:.3f}"
    assert {average, "best F1 0.750, score ≥ 0.400", "2 images, 4 faces"} <= set(shown)
    shown = texts_inside(detection.thresholds(scores, "Which score to ask for, test"))
    assert {"precision", "recall", "F1", "chosen score 0.5", "best F1 0.4"} <= set(shown)
    counts = {method: BoxCounts(10 + place, 4, 1234 * place, 7) for place, method in enumerate(METHODS)}
    shown = texts_inside(detection.over_detection(counts, scores, "Several boxes on one face, test"))
    assert {"0", "1,234", "2,468", "3,702", *METHODS.values()} <= set(shown)
    # A detector that finds nothing, and one that finds nothing right.
    scores = score_detections(TRUTHS, [found()] * 2)
    assert "IoU 0.5, AP 0.000" in texts_inside(detection.precision_recall(scores, "Nothing"))
    scores = score_detections(TRUTHS, [found((80, 80, 90, 90, 0.9)), found()])
    assert "chosen score 0.5" in texts_inside(detection.thresholds(scores, "Only false ones"))


def test_images_are_drawn_with_their_boxes_legend_and_captions():
    pixels = np.full((60, 90, 3), 128, dtype=np.uint8)
    boxes = [(np.array(FACE, np.float32), "true", "0.90"), (np.array(OTHER, np.float32), "missed", "")]
    figure = detection.gallery([pixels] * 3, [boxes, [], boxes], ["one", "two", "three"], "Found and missed, test")
    shown_texts = texts_inside(figure)
    assert [shown_texts.count(text) for text in ("true", "missed", "false", "0.90", "two")] == [1, 1, 0, 2, 1]
    assert len(figure.axes) == 3
    assert [len(axes.patches) for axes in figure.axes] == [2, 0, 2]


def test_robustness_curves_show_the_numbers_and_nothing_is_cut_off():
    counts = np.random.default_rng(0).integers(1, 50, (1 + 5 * len(CORRUPTIONS), 7, 7))
    passes = score_robustness(counts, list(CORRUPTIONS), FER_NAMES, seed=0)
    figure = figures.robustness_curves(passes, "Accuracy under corruptions, test")
    shown = set(texts_inside(figure))
    clean = passes["clean"]["accuracy"]
    for axes, (name, own) in zip(figure.axes, passes["corruptions"].items(), strict=True):
        reference, line = axes.lines
        assert list(reference.get_ydata()) == [clean, clean]
        assert list(line.get_ydata()) == [clean, *(one["accuracy"] for one in own["strengths"])]
        assert {CORRUPTIONS[name].label, f"mean {own['mean']['accuracy']:.1%}"} <= shown
    one = {**passes, "corruptions": {"shift": passes["corruptions"]["shift"]}}
    texts_inside(figures.robustness_curves(one, "Accuracy under corruptions, test"))
    figure = figures.corrupted_faces(["low_resolution", "jpeg"], seed=0)
    assert texts_inside(figure).count("clean") == 2
    assert len(figure.axes) == 12


def test_a_timeline_has_a_lane_for_each_face_stacked_in_colours_and_white_where_it_is_not_seen():
    shares = np.zeros((2, 4, 2))
    shares[0, :2] = [1, 3]  # twice, a quarter of the first class
    shares[1, 3] = [2, 0]
    figure = figures.timeline(shares, 8.0, ["face 1", "face 7"], ["Happy", "Sad"], "clip")
    first, second = (axes.images[0].get_array() for axes in figure.axes)
    happy, sad = ([*ImageColor.getrgb(colour(name))] for name in ("Happy", "Sad"))
    assert [first[row, 0].tolist() for row in (0, 11, 13, 49)] == [happy, happy, sad, sad]
    assert first[0, 2].tolist() == [255, 255, 255]
    assert second[:, 3].tolist() == [happy] * 50
    assert [axes.get_ylabel() for axes in figure.axes] == ["face 1", "face 7"]
