"""Which detection is which face."""

import pytest
from box_values import found, truth

from faceexpr.boxes.matching import judge, match, stack


def test_the_surest_chooses_first_and_a_face_is_found_once():
    outcome = judge(truth((0, 0, 10, 10)), found((0, 0, 10, 9, 0.9), (0, 0, 10, 10, 0.8)), 0.5)
    assert outcome.true.tolist() == [True, False]
    assert outcome.false.tolist() == [False, True]
    assert outcome.missed.tolist() == [False]


def test_a_detection_takes_the_face_that_it_overlaps_most():
    faces = truth((0, 0, 10, 10), (3, 0, 13, 10))
    stacked = stack([faces], [found((2, 0, 12, 10, 0.9), (1, 0, 11, 10, 0.8))], 10)
    assert match(stacked, [0.5]).tolist() == [[1, 0]]


def test_the_overlap_needed_decides():
    stacked = stack([truth((0, 0, 10, 10))], [found((0, 0, 10, 7.5, 0.9))], 10)
    assert match(stacked, [0.5, 0.75, 0.8]).tolist() == [[0], [0], [-1]]


def test_an_overlap_of_one_is_met_by_equal_boxes():
    box = (0.1, 0.2, 10.7, 33.3)
    assert judge(truth(box), found((*box, 0.5)), 1.0).true.tolist() == [True]


def test_ignored_faces_take_any_number_and_only_what_no_other_face_takes():
    faces = truth((0, 0, 20, 20), (0, 0, 10, 10), ignored={0})
    outcome = judge(
        faces, found((0, 0, 10, 10, 0.9), (0, 0, 9, 9, 0.8), (8, 8, 18, 18, 0.7), (40, 40, 50, 50, 0.6)), 0.5
    )
    assert outcome.true.tolist() == [True, False, False, False]
    assert outcome.false.tolist() == [False, False, False, True]
    assert outcome.missed.tolist() == [False, False]


def test_an_ignored_face_that_is_not_found_is_not_missed():
    outcome = judge(truth((0, 0, 9, 9), (20, 20, 30, 30), ignored={1}), found(), 0.5)
    assert outcome.missed.tolist() == [True, False]
    assert outcome.true.shape == outcome.false.shape == (0,)


def test_images_stay_apart_and_the_surest_of_each_are_looked_at():
    faces = [truth((0, 0, 10, 10)), truth(), truth((0, 0, 10, 10))]
    boxes = [found((50, 50, 60, 60, 0.2), (0, 0, 10, 10, 0.9)), found((0, 0, 10, 10, 0.5)), found()]
    stacked = stack(faces, boxes, 1)
    assert stacked.scores.tolist() == pytest.approx([0.9, 0.5])
    assert stacked.starts.tolist() == [0, 1, 2, 2]
    assert stacked.truth_starts.tolist() == [0, 1, 1, 2]
    assert match(stacked, [0.5]).tolist() == [[0, -1]]


def test_nothing_at_all():
    assert match(stack([], [], 10), [0.5, 0.6]).shape == (2, 0)


def test_boxes_without_area_match_nothing():
    outcome = judge(truth((5, 5, 5, 5)), found((5, 5, 5, 5, 0.9)), 0.5)
    assert outcome.false.tolist() == [True]
    assert outcome.missed.tolist() == [True]
