"""Counts at a score, the best F1, over-detection, and what the figures show."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from faceexpr.boxes.detections import Detections, no_detections
from faceexpr.boxes.matching import Truth, judge
from faceexpr.boxes.suppression import Suppression
from faceexpr.metrics.detection import (
    METHODS,
    BoxCounts,
    DetectionTable,
    by_method,
    count_boxes,
    count_by_method,
    score_detections,
)
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization import detection as detection_figures
from faceexpr.visualization.detection import at_score, gallery, judged_boxes, spread, training_images, worst


def truth(*boxes, ignored=()):
    return Truth(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array([place in ignored for place in range(len(boxes))], bool),
    )


def found(*rows, limited=False):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4], limited)


FACE, OTHER = (0, 0, 10, 10), (30, 30, 50, 50)

# Scores 0.9 right, 0.8 wrong, 0.6 right, 0.4 right, 0.3 wrong; four faces.
TRUTHS = [truth(FACE, OTHER), truth(FACE, OTHER)]
FOUND = [found((*FACE, 0.9), (70, 70, 80, 80, 0.8)), found((*FACE, 0.6), (*OTHER, 0.4), (70, 70, 80, 80, 0.3))]


def test_counts_at_the_chosen_score_and_at_the_best_f1():
    scores = score_detections(TRUTHS, FOUND)
    values = scores.values
    assert values["recall"] == 3 / 4
    assert values["precision_at_score"] == pytest.approx(2 / 3)
    assert values["recall_at_score"] == 2 / 4
    assert values["f1_at_score"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert values["best_f1_threshold"] == pytest.approx(0.4)
    assert values["best_f1"] == values["best_f1_precision"] == values["best_f1_recall"] == 3 / 4
    assert (scores.images, scores.faces, scores.detections, scores.limited) == (2, 4, 5, 0)
    curve = scores.curves[0.5]
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 3 / 4, 3 / 4])


@pytest.mark.parametrize(("score", "expected"), [(0.6, 2 / 3), (0.61, 1 / 2), (0.9, 1.0), (0.0, 3 / 5)])
def test_a_score_that_is_exactly_the_chosen_one_counts(score, expected):
    # 0.6 as float32 is a little more, 0.9 a little less than the float64 of the option.
    assert score_detections(TRUTHS, FOUND, score=score).values["precision_at_score"] == pytest.approx(expected)


def test_a_score_that_nothing_reaches_has_no_precision():
    scores = score_detections(TRUTHS, FOUND, score=0.95)
    assert scores.values["precision_at_score"] is None
    assert scores.undefined["precision_at_score"] == "no detection with a score of 0.95 or more"
    assert scores.values["recall_at_score"] == scores.values["f1_at_score"] == 0


def test_the_threshold_of_the_best_f1_gives_it_back():
    random = np.random.default_rng(0)
    rows = [(*box, float(np.float32(random.random()))) for box in (FACE, OTHER, (60, 0, 70, 10)) for _ in range(3)]
    truths, boxes = [truth(FACE, OTHER)], [found(*rows)]
    best = score_detections(truths, boxes).values
    assert score_detections(truths, boxes, score=best["best_f1_threshold"]).values["f1_at_score"] == best["best_f1"]


def test_the_overlap_of_the_counts_is_an_option_and_does_not_touch_average_precision():
    loose = [truth(FACE)], [found((0, 0, 10, 6, 0.9))]
    strict = score_detections(*loose, iou=0.75).values
    assert (strict["recall"], strict["ap50"]) == (0, pytest.approx(1))
    assert score_detections(*loose).values["recall"] == 1


def test_d08_pictures_at_the_limit_are_counted():
    many = [truth(FACE)] * 3, [found((*FACE, 0.9), limited=True), FOUND[1], no_detections()]
    assert score_detections(*many).limited == 1
    assert score_detections(*many, max_detections=2).limited == 2


def test_detections_that_are_not_finite_and_lists_of_unequal_length_are_refused():
    with pytest.raises(FaceExprError, match="the detections in 1 of 2 images are not finite"):
        score_detections(TRUTHS, [FOUND[0], found((0, 0, 5, float("inf"), 0.5))])
    with pytest.raises(FaceExprError, match="1 images with detections; expected one for each of 2 truths"):
        score_detections(TRUTHS, FOUND[:1])


def test_boxes_beyond_one_for_the_same_face():
    boxes = torch.tensor([FACE, (0, 0, 10, 9), (1, 0, 11, 10), OTHER, (70, 70, 80, 80), (20, 0, 25, 5)]).float()
    faces = truth(FACE, OTHER, (60, 0, 90, 30), (15, 0, 30, 10), ignored={3})
    assert count_boxes(boxes, faces, 0.5) == BoxCounts(boxes=6, found=2, extra=2, false=1)
    assert count_boxes(boxes, truth(), 0.5) == BoxCounts(boxes=6, found=0, extra=0, false=6)
    assert count_boxes(torch.zeros(0, 4), faces, 0.5) == BoxCounts(0, 0, 0, 0)
    assert count_boxes(boxes, faces, 0.95) == BoxCounts(boxes=6, found=2, extra=0, false=3)


def test_counts_by_method_at_a_score_without_the_limit_of_faces():
    boxes = torch.tensor([FACE, FACE, OTHER, (70, 70, 80, 80)]).float()
    scores = torch.tensor([0.9, 0.8, 0.7, 0.4])
    counts = count_by_method(boxes, scores, truth(FACE, OTHER), Suppression(max_faces=1), score=0.5, iou=0.5)
    assert counts.tolist() == [[3, 2, 1, 0], [2, 2, 0, 0], [2, 2, 0, 0], [2, 2, 0, 0]]
    total = by_method(np.stack([counts, counts]))
    assert list(total) == ["none", "nms", "soft_nms", "wbf"]
    assert total["none"] == BoxCounts(boxes=6, found=4, extra=2, false=0)


TABLE = DetectionTable(np.arange(3), [*FOUND, no_detections()], [*TRUTHS, truth(FACE, ignored={0})])


def test_the_pictures_with_the_most_errors_are_shown_and_a_sample_is_spread():
    outcomes = [judge(truth, at_score(found, 0.5), 0.5) for truth, found in zip(TABLE.truths, TABLE.found, strict=True)]
    # At 0.5 the first has a false box and a missed face, the second a missed face.
    assert worst(outcomes, 5) == [0, 1]
    assert worst(outcomes, 1) == [0]
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(2, 4) == [0, 1]
    assert spread(0, 4) == []
    kinds = [(kind, caption) for _, kind, caption in judged_boxes(TABLE, 0, outcomes[0], 0.5)]
    assert kinds == [("missed", ""), ("true", "0.90"), ("false", "0.80")]
    assert [kind for _, kind, _ in judged_boxes(TABLE, 2, outcomes[2], 0.5)] == ["ignored"]


def texts_inside(figure):
    FigureCanvasAgg(figure).draw()
    found_texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    for text in found_texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    return [text.get_text() for text in found_texts]


def test_figures_show_the_numbers_and_nothing_is_cut_off():
    scores = score_detections(TRUTHS, FOUND)
    shown_texts = texts_inside(detection_figures.precision_recall(scores, "Precision and recall, test"))
    assert f"IoU 0.5, AP {scores.values['ap50']:.3f}" in shown_texts
    assert "best F1 0.750, score ≥ 0.400" in shown_texts
    assert "2 images, 4 faces" in shown_texts
    shown_texts = texts_inside(detection_figures.thresholds(scores, "Which score to ask for, test"))
    assert {"precision", "recall", "F1", "chosen score 0.5", "best F1 0.4"} <= set(shown_texts)
    counts = {method: BoxCounts(10 + place, 4, 1234 * place, 7) for place, method in enumerate(METHODS)}
    figure = detection_figures.over_detection(counts, scores, "Several boxes on one face, test")
    shown_texts = texts_inside(figure)
    assert {"0", "1,234", "2,468", "3,702", *METHODS.values()} <= set(shown_texts)


def test_figures_of_a_detector_that_finds_nothing():
    scores = score_detections(TRUTHS, [no_detections()] * 2)
    assert "IoU 0.5, AP 0.000" in texts_inside(detection_figures.precision_recall(scores, "Nothing"))
    scores = score_detections(TRUTHS, [found((80, 80, 90, 90, 0.9)), no_detections()])
    assert "chosen score 0.5" in texts_inside(detection_figures.thresholds(scores, "Only false ones"))


def test_pictures_are_drawn_with_their_boxes_legend_and_captions():
    pixels = np.full((60, 90, 3), 128, dtype=np.uint8)
    boxes = [(np.array(FACE, np.float32), "true", "0.90"), (np.array(OTHER, np.float32), "missed", "")]
    figure = gallery([pixels] * 3, [boxes, [], boxes], ["one", "two", "three"], "Found and missed, test")
    shown_texts = texts_inside(figure)
    assert [shown_texts.count(text) for text in ("true", "missed", "false", "0.90", "two")] == [1, 1, 0, 2, 1]
    assert len(figure.axes) == 3
    assert [len(axes.patches) for axes in figure.axes] == [2, 0, 2]


def test_training_pictures_may_be_integers_or_floats():
    images = [torch.full((3, 20, 30), 255, dtype=torch.uint8), torch.ones(3, 40, 20)]
    figure = training_images(images, [torch.tensor([[1.0, 1, 9, 9]]), torch.zeros(0, 4)])
    assert {"1 face", "0 faces"} <= set(texts_inside(figure))
    assert [int(axes.images[0].get_array().min()) for axes in figure.axes] == [255, 255]
