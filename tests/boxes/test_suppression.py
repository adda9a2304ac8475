"""One box a face, by each way of suppression."""

import itertools
import math

import pytest
import torch

from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.utils.errors import FaceExprError


def candidates(*rows):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return values[:, :4], values[:, 4]


# Two faces; the first with three boxes.
TWO_FACES = candidates((0, 0, 10, 10, 0.6), (1, 0, 11, 10, 0.9), (50, 50, 70, 70, 0.8), (0, 0, 10, 11, 0.3))

by_every_method = pytest.mark.parametrize("method", ["nms", "soft_nms", "wbf", "none"])


def found(method, pairs=TWO_FACES, **options):
    result = suppress(*pairs, Suppression(method=method, **options))
    return result.boxes.tolist(), pytest.approx(result.scores.tolist(), abs=1e-6), result.limited


def test_nms_keeps_the_surest_of_overlapping_boxes_and_none_all_in_order_of_their_scores():
    assert found("nms") == ([[1, 0, 11, 10], [50, 50, 70, 70]], [0.9, 0.8], False)
    assert found("none")[1] == [0.9, 0.8, 0.6, 0.3]


@pytest.mark.parametrize("sigma", [0.5, 10.0])
def test_soft_nms_lowers_scores_by_the_gaussian_of_the_overlap(sigma):
    boxes, scores, _ = found("soft_nms", min_score=0.0, sigma=sigma)
    assert boxes[:2] == [[1, 0, 11, 10], [50, 50, 70, 70]]
    first = 0.6 * math.exp(-((90 / 110) ** 2) / sigma)
    # The last is lowered by both others of its face: IoU with them 90 / 120 and 100 / 110.
    last = 0.3 * math.exp(-((90 / 120) ** 2) / sigma) * math.exp(-((100 / 110) ** 2) / sigma)
    assert scores == [0.9, 0.8, first, last]
    assert len(found("soft_nms", min_score=first - 0.01, sigma=sigma)[0]) == 3


def test_fusion_gives_the_mean_weighted_by_score_and_the_surest_score():
    boxes, scores, _ = found("wbf")
    weights = 0.9 + 0.6 + 0.3
    mean = [0.9 / weights, 0, (0.9 * 11 + 0.6 * 10 + 0.3 * 10) / weights, (0.9 * 10 + 0.6 * 10 + 0.3 * 11) / weights]
    assert boxes == [pytest.approx(mean, abs=1e-5), [50, 50, 70, 70]]
    assert scores == [0.9, 0.8]
    of_nothing = candidates((0, 0, 10, 10, 0), (1, 0, 11, 10, 0))
    assert found("wbf", of_nothing, min_score=0.0)[0] == [[0, 0, 10, 10]]


def random_boxes(number, seed=0):
    """Return boxes of all sizes and overlaps, many of them within one another, and their scores."""
    generator = torch.Generator().manual_seed(seed)
    corners = 100 * torch.rand(number, 2, 2, generator=generator)
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1) + 1], dim=1)
    return boxes, torch.rand(number, generator=generator)


def are_of_one_face(first, second, inside, iou):
    """Tell of two boxes, by areas alone, whether suppression takes them for those of one face."""
    shared = max(min(first[2], second[2]) - max(first[0], second[0]), 0)
    shared *= max(min(first[3], second[3]) - max(first[1], second[1]), 0)
    smaller, larger = sorted((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    nested = shared > inside * smaller and smaller >= larger / 8
    return nested or shared / (smaller + larger - shared) > iou


@pytest.mark.parametrize("inside", [0.5, 0.8])
def test_boxes_within_one_another_are_of_one_face_where_that_is_asked_for(inside):
    boxes, scores = random_boxes(120)
    expected = []
    for _, box in sorted(zip(scores.tolist(), boxes.tolist(), strict=True), reverse=True):
        if not any(are_of_one_face(box, other, inside, 0.5) for other in expected):
            expected.append(box)
    alone = suppress(boxes, scores, Suppression()).boxes
    assert suppress(boxes, scores, Suppression(inside=inside)).boxes.tolist() == expected
    assert len(expected) < len(alone)
    assert torch.equal(suppress(boxes, scores, Suppression(inside=1.0)).boxes, alone)


# A loose box, the tight one within it, a quarter of its area, and a child's face before it, a sixteenth of its area.
LOOSE, TIGHT, CHILD = (0, 0, 80, 80, 0.9), (20, 20, 60, 60, 0.8), (60, 60, 80, 80, 0.7)


@pytest.mark.parametrize(("method", "left"), [("nms", 2), ("wbf", 2), ("soft_nms", 3), ("none", 3)])
def test_every_method_joins_a_tight_box_and_its_loose_one_but_no_small_face_before_a_large_one(method, left):
    for order in itertools.permutations((LOOSE, TIGHT, CHILD)):
        assert len(found(method, candidates(*order))[0]) == 3
        boxes, scores, _ = found(method, candidates(*order), inside=0.8)
        assert len(boxes) == left
        assert any(score == pytest.approx(0.7) for score in scores.expected) or method == "soft_nms"
    if method == "soft_nms":  # lowered as far as an equal box would be
        assert min(scores.expected) == pytest.approx(0.8 * math.exp(-1 / 0.5), abs=1e-6)
    # Whichever of the two is surer.
    swapped = candidates((*LOOSE[:4], 0.8), (*TIGHT[:4], 0.9))
    assert len(found("nms", swapped, inside=0.8)[0]) == 1


@by_every_method
def test_equal_scores_give_the_same_whatever_their_order(method):  # case N14
    rows = [(0, 0, 10, 10, 0.7), (2, 0, 12, 10, 0.7), (2, 0, 12, 9, 0.7), (40, 0, 50, 10, 0.7), (1, 1, 11, 11, 0.5)]
    expected = found(method, candidates(*rows))
    for order in itertools.permutations(rows):
        boxes, scores, limited = found(method, candidates(*order))
        assert (boxes, limited) == (expected[0], False)
        assert scores == expected[1].expected
        assert found(method, candidates(*order), max_faces=1)[0] == expected[0][:1]
    assert expected[0][0][0] <= 2  # of equals, the leftmost first


@by_every_method
def test_no_candidate_gives_no_box_of_the_right_shape(method):
    for pairs in (candidates(), candidates((0, 0, 5, 5, 0.01))):
        result = suppress(*pairs, Suppression(method=method, min_score=0.05))
        assert (result.boxes.shape, result.scores.shape, result.limited) == ((0, 4), (0,), False)
        assert result.boxes.dtype == result.scores.dtype == torch.float32


@by_every_method
def test_the_limit_is_said_where_it_is_reached(method):
    crowd = candidates(*[(20 * x, 20 * y, 20 * x + 10, 20 * y + 10, 0.9) for x in range(15) for y in range(10)])
    for most, number, limited in ((300, 150, False), (150, 150, False), (149, 149, True)):
        boxes, _, reached = found(method, crowd, max_faces=most)
        assert (len(boxes), reached) == (number, limited)


@pytest.mark.parametrize(
    ("name", "value"), [("iou", 1.5), ("min_score", -1), ("max_faces", 0), ("sigma", 0), ("inside", 2)]
)
def test_bad_options_are_named(name, value):
    with pytest.raises(FaceExprError, match=f"{name} is {value}; expected"):
        Suppression(**{name: value})


@pytest.mark.parametrize("iou", [0.3, 0.45, 0.7])
def test_few_boxes_and_many_are_suppressed_alike_to_the_bit(iou, monkeypatch):
    torch.manual_seed(0)
    corners = 200 * torch.rand(600, 2)
    boxes, scores = torch.cat([corners, corners + 5 + 60 * torch.rand(600, 2)], dim=1), torch.rand(600)
    few = suppress(boxes, scores, Suppression(iou=iou))
    monkeypatch.setattr("faceexpr.boxes.suppression.FEW", 0)
    many = suppress(boxes, scores, Suppression(iou=iou))
    assert torch.equal(few.boxes, many.boxes)
    assert 20 < len(few) == len(many) < 600
