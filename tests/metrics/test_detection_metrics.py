"""Detection metrics: average precision as COCO's, counts at a score, boxes beyond one, every image once."""

import contextlib
import io

import numpy as np
import pytest
import torch
from box_values import FACE, OTHER, SEEN, TRUTHS, found, truth
from evaluation_runs import FACES, FOUND
from gathering import compute_together
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth, stack
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.metrics.detection import (
    FACE_METRICS,
    IMAGE_METRICS,
    RECALLS,
    SIZES,
    BoxCounts,
    DetectionCollector,
    average_precision,
    by_method,
    count_boxes,
    count_by_method,
    from_tensors,
    measure_faces,
    measure_images,
    score_detections,
)
from faceexpr.utils.errors import FaceExprError


def random_images(seed, count=25, ties=True):
    """Return faces of all sizes and detections near them, doubled and missing, and elsewhere; some images empty."""
    random = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(count):
        faces = max(0, int(random.integers(-2, 9)))
        sides = np.exp(random.uniform(np.log(8), np.log(200), (faces, 2)))
        sides[: faces // 4] = random.choice([32, 96])  # the borders of the sizes belong to both sides
        corner = np.round(random.uniform(0, 250, (faces, 2)))  # crowded, so that one detection overlaps several
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        truths.append(Truth(boxes, random.random(faces) < 0.2))
        near = boxes.repeat(random.integers(0, 4, faces), axis=0)
        size = np.tile(near[:, 2:] - near[:, :2], 2)
        near = near + size * random.choice([0, 0.02, 0.1, 0.3]) * random.normal(size=near.shape)
        corner = random.uniform(0, 300, (int(random.integers(0, 6)), 2))
        other = np.concatenate([corner, corner + np.exp(random.uniform(1, 5, corner.shape))], axis=1)
        boxes = np.concatenate([near, other]).astype(np.float32)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        scores = np.sort(random.random(len(boxes)).astype(np.float32))[::-1]
        scores = torch.from_numpy(np.round(scores, 1) if ties else scores.copy())
        found.append(Detections(torch.from_numpy(random.permutation(boxes)), scores))
    return truths, found


def with_pycocotools(truths, found, most):
    """Return average precision by size and overlap, -1 where undefined, as (4, 10)."""
    annotations, results = [], []
    for image, (one, detections) in enumerate(zip(truths, found, strict=True), start=1):
        same = {"image_id": image, "category_id": 1}
        for (left, top, right, bottom), ignored in zip(one.boxes.tolist(), one.ignored.tolist(), strict=True):
            wide, high = right - left, bottom - top
            face = {"id": len(annotations) + 1, "bbox": [left, top, wide, high], "area": wide * high, **same}
            annotations.append({**face, "iscrowd": int(ignored)})
        for box, score in zip(detections.boxes.tolist(), detections.scores.tolist(), strict=True):
            left, top, right, bottom = box
            results.append({"bbox": [left, top, right - left, bottom - top], "score": score, **same})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": image} for image in range(1, len(truths) + 1)]
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.maxDets = [most]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, :, 0].mean(axis=1).T, evaluation.eval["recall"][:, 0, 0, 0]


@pytest.mark.parametrize(("seed", "ties", "most"), [(0, "together", 5), (1, "together", 100), (2, "in_order", 100)])
def test_the_same_as_pycocotools_to_rounding(seed, ties, most):
    truths, found = random_images(seed, ties=ties == "in_order")
    theirs, recall = with_pycocotools(truths, found, most)
    ours = average_precision(stack(truths, found, most), ties=ties)[0]
    for size, expected in zip(SIZES, theirs, strict=True):
        np.testing.assert_allclose(ours[size], expected, atol=1e-9, rtol=0)
    values = score_detections(truths, found, max_detections=most, ties=ties).values
    assert values["ap"] == pytest.approx(theirs[0].mean(), abs=1e-9)
    assert (values["ap50"], values["ap75"]) == pytest.approx((theirs[0, 0], theirs[0, 5]), abs=1e-9)
    assert values["ap_small"] == pytest.approx(theirs[1].mean(), abs=1e-9)
    assert values["recall"] == pytest.approx(recall[0], abs=1e-9)


def test_an_image_without_predictions_lowers_recall_and_average_precision():
    values = score_detections([truth(FACE)] * 2, [found((*FACE, 0.9)), found()]).values
    assert values["recall"] == 0.5
    # 51 of the 101 recalls are reached with full precision.
    assert (values["ap"], values["ap50"]) == pytest.approx((51 / len(RECALLS),) * 2)


def test_equal_scores_in_any_order_of_the_images():
    truths, found = random_images(5, count=40)
    expected = score_detections(truths, found).values
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(truths))
        values = score_detections([truths[place] for place in order], [found[place] for place in order]).values
        assert values == pytest.approx(expected, abs=1e-12)


def test_what_is_not_defined_without_faces_or_detections():
    for truths, seen in ([], []), ([truth()], [Detections(torch.zeros(0), torch.zeros(0))]):
        scores = score_detections(truths, seen)
        assert set(scores.values.values()) == {None}
        assert set(scores.undefined) == set(scores.values)
        assert scores.undefined["ap"] == "no face in any image"
    values = score_detections([truth()], [found((*FACE, 0.9))]).values
    assert {name: value for name, value in values.items() if value is not None} == {"precision_at_score": 0}
    blind = score_detections([truth(FACE)], [found()])
    assert blind.values["ap"] == blind.values["recall"] == blind.values["best_f1"] == 0
    assert blind.undefined["best_f1_threshold"] == "no face is found"
    unsure = score_detections([truth(FACE)], [found((*FACE, 0.9))], score=0.95)
    assert unsure.undefined["precision_at_score"] == "no detection with a score of 0.95 or more"
    assert unsure.values["recall_at_score"] == unsure.values["f1_at_score"] == 0


def test_counts_at_the_chosen_score_and_at_the_best_f1():
    scores = score_detections(TRUTHS, SEEN)
    values = scores.values
    best = score_detections(TRUTHS, SEEN, score=values["best_f1_threshold"]).values["f1_at_score"]
    assert best == values["best_f1"]
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
    assert score_detections(TRUTHS, SEEN, score=score).values["precision_at_score"] == pytest.approx(expected)


def test_the_overlap_of_the_counts_is_an_option_and_does_not_touch_average_precision():
    loose = [truth(FACE)], [found((0, 0, 10, 6, 0.9))]
    strict = score_detections(*loose, iou=0.75).values
    assert (strict["recall"], strict["ap50"]) == (0, pytest.approx(1))
    assert score_detections(*loose).values["recall"] == 1


def test_detections_that_are_not_finite_and_lists_of_unequal_length_are_refused():
    with pytest.raises(FaceExprError, match="the detections in 1 of 2 images are not finite"):
        score_detections(TRUTHS, [SEEN[0], found((0, 0, 5, float("inf"), 0.5))])
    with pytest.raises(FaceExprError, match="1 images with detections; expected one for each of 2 truths"):
        score_detections(TRUTHS, SEEN[:1])


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


def seen(index):
    """Return what is left of what is found in an image."""
    candidates = found(*FOUND[index])
    return suppress(candidates.boxes, candidates.scores, Suppression())


def image(index):
    """Return the update of a collector with one image."""
    if index < 0:
        return torch.tensor([index]), [found()], [truth()]
    return torch.tensor([index]), [seen(index)], [truth(*FACES[index])]


def test_images_come_sorted_once_each_without_padding_and_survive_a_checkpoint():
    collector = DetectionCollector()
    for index in (2, -1, 0, 2, 1):
        collector.update(*image(index), [np.full((4, 4), index)])
    table = collector.compute()
    assert table.indices.tolist() == [0, 1, 2]
    assert all((one.boxes == truth(*row).boxes).all() for one, row in zip(table.truths, FACES, strict=True))
    again = from_tensors(table.tensors())
    assert again.counts.tolist() == table.counts.tolist() == [np.full((4, 4), index).tolist() for index in (0, 1, 2)]
    # An image with a single detection keeps its shapes.
    assert [found.scores.shape for found in again.found] == [(1,), (1,), (2,)]
    assert score_detections(again.truths, again.found).values == score_detections(table.truths, table.found).values


@pytest.mark.parametrize(
    "share",
    [
        ([0, 2], [1]),  # uneven
        ([2, 1, 0], []),  # a process without an image
        ([0, 1, 2], [-1, -1, -1]),  # a process with padding only
        ([0, 1], [2, 0]),  # an image twice
    ],
)
def test_two_processes_measure_each_image_once(share):  # case E11
    collectors = [DetectionCollector(), DetectionCollector()]
    for collector, indices in zip(collectors, share, strict=True):
        for index in indices:
            collector.update(*image(index))
    truths = [truth(*row) for row in FACES]
    expected = score_detections(truths, [seen(index) for index in range(3)]).values
    for table in compute_together(collectors):
        assert table.indices.tolist() == [0, 1, 2]
        assert score_detections(table.truths, table.found).values == expected


def test_images_measured_together_again_and_again_are_those_that_are_scored():
    rng = np.random.default_rng(3)
    truths, found = [], []
    for count in rng.integers(0, 5, 30).tolist():
        corner = rng.integers(0, 80, (count, 2))
        faces = np.hstack([corner, corner + rng.integers(8, 40, (count, 2))]).astype(np.float32)
        truths.append(Truth(faces, rng.random(count) < 0.2))
        near = faces[rng.random(count) < 0.8] + rng.integers(-4, 5, 4)
        boxes = np.vstack([near, rng.integers(0, 9, (2, 4)) + np.array([0, 0, 9, 9])])
        scores = np.sort(rng.integers(1, 8, len(boxes)) / 8)[::-1].copy()  # with ties
        found.append(Detections(torch.from_numpy(boxes).float(), torch.from_numpy(scores).float()))
    stacked = stack(truths, found, 300)
    every, faces = measure_images(stacked, 0.5, 0.4), measure_faces(stacked, 0.5, 0.4)
    for places in (np.arange(30), rng.integers(0, 30, 30), np.array([4, 4, 5])):
        scores = score_detections([truths[at] for at in places], [found[at] for at in places], 0.5, 0.4)
        expected = [scores.values[name] for name in IMAGE_METRICS]
        assert every(places) == pytest.approx(expected)
    scores = score_detections(truths, found, 0.5, 0.4)
    recalls = faces(np.flatnonzero(~stacked.ignored))
    assert recalls == pytest.approx([scores.values[name] for name in FACE_METRICS])
    nothing = [Detections(torch.zeros(0, 4), torch.zeros(0))] * 30
    silent = measure_images(stack(truths, nothing, 300), 0.5, 0.4)(np.arange(30))
    assert silent == pytest.approx([0, 0, 0, 0, np.nan, 0, 0], nan_ok=True)
    assert np.isnan(measure_images(stack([], [], 1), 0.5, 0.5)(np.zeros(0, np.int64))).all()
