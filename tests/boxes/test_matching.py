"""Which detection is which face; tests/metrics compares the scores that follow from it with pycocotools."""

import pytest
from box_values import found, truth

from faceexpr.boxes.matching import judge, match, stack

FACE, ODD = (0, 0, 10, 10), (0.1, 0.2, 10.7, 33.3)


@pytest.mark.parametrize(
    ("faces", "boxes", "iou", "true", "false", "missed"),
    [
        # The surest chooses first, and a face is found once.
        (truth(FACE), [(0, 0, 10, 9, 0.9), (*FACE, 0.8)], 0.5, [1, 0], [0, 1], [0]),
        (truth(ODD), [(*ODD, 0.5)], 1.0, [1], [0], [0]),
        (truth((5, 5, 5, 5)), [(5, 5, 5, 5, 0.9)], 0.5, [0], [1], [1]),  # no area
        (truth(FACE, (20, 20, 30, 30), ignored={1}), [], 0.5, [], [], [1, 0]),
        # An ignored face takes any number, but only what no other face takes.
        (
            truth((0, 0, 20, 20), FACE, ignored={0}),
            [(*FACE, 0.9), (0, 0, 9, 9, 0.8), (8, 8, 18, 18, 0.7), (40, 40, 50, 50, 0.6)],
            0.5, [1, 0, 0, 0], [0, 0, 0, 1], [0, 0],
        ),
    ],
)  # fmt: skip
def test_detections_are_true_or_false_and_faces_missed_or_not(faces, boxes, iou, true, false, missed):
    outcome = judge(faces, found(*boxes), iou)
    assert (outcome.true.tolist(), outcome.false.tolist(), outcome.missed.tolist()) == (true, false, missed)


def test_a_detection_takes_the_face_that_it_overlaps_most_where_that_is_enough():
    stacked = stack([truth(FACE, (3, 0, 13, 10))], [found((2, 0, 12, 10, 0.9), (1, 0, 11, 10, 0.8))], 10)
    assert match(stacked, [0.5, 0.81, 0.9]).tolist() == [[1, 0], [1, 0], [-1, -1]]


def test_images_stay_apart_and_the_surest_of_each_are_looked_at():
    boxes = [found((50, 50, 60, 60, 0.2), (*FACE, 0.9)), found((*FACE, 0.5)), found()]
    stacked = stack([truth(FACE), truth(), truth(FACE)], boxes, 1)
    assert stacked.scores.tolist() == pytest.approx([0.9, 0.5])
    assert (stacked.starts.tolist(), stacked.truth_starts.tolist()) == ([0, 1, 2, 2], [0, 1, 1, 2])
    assert match(stacked, [0.5]).tolist() == [[0, -1]]
    assert match(stack([], [], 10), [0.5, 0.6]).shape == (2, 0)
