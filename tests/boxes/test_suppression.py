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


@pytest.mark.parametrize(("name", "value"), [("iou", 1.5), ("min_score", -1), ("max_faces", 0), ("sigma", 0)])
def test_bad_options_are_named(name, value):
    with pytest.raises(FaceExprError, match=f"{name} is {value}; expected"):
        Suppression(**{name: value})
