"""Average precision is COCO's, and needs neither luck nor a fixed order of the pictures."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from faceexpr.boxes.detections import Detections, no_detections
from faceexpr.boxes.matching import Truth, stack
from faceexpr.metrics.detection import RECALLS, SIZES, average_precision, score_detections


def random_pictures(seed, count=25, ties=True, empty=0.2):
    """Return faces of all sizes and detections near them, doubled and missing, and elsewhere; some pictures empty."""
    random = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(count):
        faces = int(random.integers(0, 9)) * (random.random() > empty)
        sides = np.exp(random.uniform(np.log(8), np.log(200), (faces, 1))) * random.uniform(0.8, 1.25, (faces, 2))
        corner = random.uniform(0, 250, (faces, 2))  # crowded, so that one detection overlaps several
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        # The borders of the sizes belong to both sides.
        boxes[: faces // 4] = np.round(boxes[: faces // 4])
        boxes[: faces // 8, 2:] = boxes[: faces // 8, :2] + random.choice([32, 96])
        truths.append(Truth(boxes, random.random(faces) < 0.2))
        near = boxes.repeat(random.integers(0, 4, faces), axis=0)
        size = np.tile(near[:, 2:] - near[:, :2], 2)
        near = near + size * random.choice([0, 0.02, 0.1, 0.3]) * random.normal(size=near.shape)
        corner = random.uniform(0, 300, (int(random.integers(0, 6)), 2))
        other = np.concatenate([corner, corner + np.exp(random.uniform(1, 5, corner.shape))], axis=1)
        boxes = np.concatenate([near, other]) * (random.random() > empty / 2)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)].astype(np.float32)
        scores = random.random(len(boxes)).astype(np.float32)
        scores = np.round(scores, 1) if ties else scores
        order = np.argsort(-scores, kind="stable")
        found.append(Detections(torch.from_numpy(boxes[order]), torch.from_numpy(scores[order])))
    return truths, found


def with_pycocotools(truths, found, most):
    """Return average precision by size and overlap, -1 where undefined, as (4, 10)."""
    annotations, results = [], []
    for picture, (truth, detections) in enumerate(zip(truths, found, strict=True), start=1):
        for box, ignored in zip(truth.boxes.astype(float), truth.ignored, strict=True):
            wide, high = box[2:] - box[:2]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": picture, "category_id": 1, "iscrowd": int(ignored),
                 "bbox": [*box[:2], wide, high], "area": wide * high}
            )  # fmt: skip
        for box, score in zip(detections.boxes.double().numpy(), detections.scores.tolist(), strict=True):
            results.append(
                {"image_id": picture, "category_id": 1, "bbox": [*box[:2], *(box[2:] - box[:2])], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": picture} for picture in range(1, len(truths) + 1)]
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.maxDets = [most]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, :, 0].mean(axis=1).T, evaluation.eval["recall"][:, 0, 0, 0]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ties", ["together", "in_order"])
def test_d10_the_same_as_pycocotools_to_rounding(seed, ties):
    truths, found = random_pictures(seed, ties=ties == "in_order")
    most = 100 if seed % 3 else 5
    theirs, recall = with_pycocotools(truths, found, most)
    ours = average_precision(stack(truths, found, most), ties=ties).average
    for size, expected in zip(SIZES, theirs, strict=True):
        np.testing.assert_allclose(ours[size], expected, atol=1e-9, rtol=0)
    values = score_detections(truths, found, max_detections=most, ties=ties).values
    assert values["ap"] == pytest.approx(theirs[0].mean(), abs=1e-9)
    assert (values["ap50"], values["ap75"]) == pytest.approx((theirs[0, 0], theirs[0, 5]), abs=1e-9)
    assert values["ap_small"] == pytest.approx(theirs[1].mean(), abs=1e-9)
    assert values["recall"] == pytest.approx(recall[0], abs=1e-9)


def test_the_random_pictures_have_everything_that_matters():
    truths, found = random_pictures(1, count=200)
    scores = score_detections(truths, found)
    assert 0.2 < scores.values["ap50"] < 0.9
    assert scores.ignored > 50
    assert sum(not len(truth.boxes) for truth in truths) > 20
    assert sum(not len(detections) for detections in found) > 10
    areas = np.concatenate([(truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(axis=1) for truth in truths])
    assert (areas == 32**2).any()
    assert (areas == 96**2).any()


def test_a_size_without_a_face_is_none_where_pycocotools_says_minus_one():
    truths, found = random_pictures(3)
    truths = [Truth(truth.boxes, truth.ignored | (truth.boxes[:, 2] - truth.boxes[:, 0] > 20)) for truth in truths]
    theirs, _ = with_pycocotools(truths, found, 100)
    ours = average_precision(stack(truths, found, 100), ties="in_order").average
    assert ours["large"] is None
    assert (theirs[3] == -1).all()
    np.testing.assert_allclose(ours["small"], theirs[1], atol=1e-9)


def one_face(score=None):
    box = np.array([[10, 10, 50, 60]], dtype=np.float32)
    found = no_detections() if score is None else Detections(torch.from_numpy(box), torch.tensor([score]))
    return Truth(box, np.array([False])), found


def no_face(score=None):
    truth, found = one_face(score)
    return Truth(truth.boxes[:0], truth.ignored[:0]), found


def test_d10_a_picture_without_predictions_lowers_recall_and_average_precision():
    truths, found = zip(one_face(0.9), one_face(), strict=True)
    values = score_detections(truths, found).values
    assert values["recall"] == 0.5
    # 51 of the 101 recalls are reached with full precision.
    assert (values["ap"], values["ap50"]) == pytest.approx((51 / len(RECALLS),) * 2)


@pytest.mark.parametrize(("false_score", "expected"), [(0.9, 0.5), (0.8, 0.5), (0.95, 0.5)])
def test_d10_a_false_box_costs_the_same_wherever_its_picture_stands(false_score, expected):
    pictures = [no_face(false_score), one_face(0.8)]
    for order in (pictures, pictures[::-1]):
        truths, found = zip(*order, strict=True)
        assert score_detections(truths, found).values["ap50"] == expected


def test_d10_equal_scores_in_any_order_of_the_pictures():
    truths, found = random_pictures(5, count=40)
    expected = score_detections(truths, found).values
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(truths))
        values = score_detections([truths[place] for place in order], [found[place] for place in order]).values
        assert values == pytest.approx(expected, abs=1e-12)


def test_d10_nothing_at_all_is_not_defined():
    for truths, found in ([], []), ([no_face()[0]], [no_detections()]):
        scores = score_detections(truths, found)
        assert set(scores.values.values()) == {None}
        assert set(scores.undefined) == set(scores.values)
        assert scores.undefined["ap"] == "no face in any image"


def test_d10_only_false_boxes_have_a_precision_of_zero_and_no_average_precision():
    truths, found = zip(no_face(0.9), no_face(), strict=True)
    scores = score_detections(truths, found)
    assert scores.values["precision_at_score"] == 0
    assert {name for name, value in scores.values.items() if value is not None} == {"precision_at_score"}


def test_d10_empty_tensors_of_any_origin():
    truth, _ = one_face()
    for empty in (torch.zeros(0, 4), torch.zeros(0)):
        scores = score_detections([truth], [Detections(empty, torch.zeros(0))])
        assert scores.values["ap"] == scores.values["recall"] == scores.values["best_f1"] == 0
        assert scores.values["best_f1_threshold"] is None
        assert scores.undefined["best_f1_threshold"] == "no face is found"
