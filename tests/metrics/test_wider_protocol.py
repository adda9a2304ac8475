"""WIDER FACE's protocol: equal to an independent implementation, levels by lists and by heights."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from box_values import found, truth
from wider_files import write_levels

from faceexpr.boxes.detections import Detections
from faceexpr.metrics.detection import level_by_height, read_wider_levels, wider_precision
from faceexpr.utils.errors import FaceExprError

evaluate = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/common/wider_reference.py"))["evaluate"]


def made_up(seed, folder):
    """Write the levels of photographs, and return what is found in each of them, by event and name.

    With equal scores, photographs without faces or detections, faces of no level, and several boxes for one face.
    """
    random = np.random.default_rng(seed)
    events, detections = {}, {}
    for event in ("0--Parade", "1--Handshaking"):
        events[event] = {}
        for number in range(12):
            faces = int(random.integers(0, 8)) if number else 0
            boxes = np.concatenate([random.integers(0, 300, (faces, 2)), random.integers(3, 90, (faces, 2))], axis=1)
            levels, hardness = [], random.integers(0, 4, faces)
            for level in range(3):
                levels.append(np.flatnonzero(hardness <= level) + 1)
            name = f"{event[0]}_{number}"
            events[event][name] = boxes, levels
            near = np.repeat(boxes, random.integers(0, 4, faces), axis=0)
            rows = np.concatenate([near, random.integers(0, 300, (0 if number == 1 else 5, 4))]).astype(float)
            rows[:, :4] += random.normal(0, 3, rows.shape)
            rows[:, 2:] = rows[:, :2] + np.maximum(rows[:, 2:], 1)
            scores = random.choice(np.round(random.random(9), 3), len(rows)) if seed % 2 else random.random(len(rows))
            detections[f"{event}/{name}"] = Detections(
                torch.tensor(rows, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32)
            )
    write_levels(folder, events)
    return detections


def as_files(detections):
    """Return detections as the benchmark wants them: (N, 5), left, top, width, height, score, the surest first."""
    predictions = {}
    for name, one in detections.items():
        rows = np.concatenate([one.boxes.numpy(), one.scores.numpy()[:, None]], axis=1).astype(float)
        rows[:, 2:4] -= rows[:, :2]
        predictions[name] = rows[np.argsort(-rows[:, 4], kind="stable")]
    return predictions


@pytest.mark.parametrize("seed", range(4))
def test_it_is_equal_to_an_independent_implementation(tmp_path, seed):
    detections = made_up(seed, tmp_path)
    known = read_wider_levels(tmp_path)
    assert set(known) == set(detections)
    for names in (list(detections), list(detections)[2:14]):  # all, and some of them
        values = wider_precision([detections[name] for name in names], [known[name] for name in names])
        expected = evaluate({name: rows for name, rows in as_files(detections).items() if name in names}, tmp_path)
        assert list(values.values()) == pytest.approx(expected, abs=1e-9)
        assert 0 < min(expected) < max(expected) < 1


def test_what_counts_as_right_and_wrong():
    boxes = np.array([[0, 0, 9, 9], [50, 50, 59, 59], [100, 100, 109, 109]], float)
    counts = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0]], bool)
    first, second, neither = ((*box, score) for box, score in zip(boxes.tolist(), (0.9, 0.8, 0.7), strict=True))
    nothing = (200, 200, 210, 210, 0.95)

    def measure(*rows):
        return list(wider_precision([found(*rows)], [(boxes, counts)]).values())

    assert measure(first, second, neither, (*nothing[:4], 0.0)) == [1, 1, 1]
    assert measure(nothing, first, second, neither) == [1 / 2, 2 / 3, 2 / 3]
    # Once more on a face that is found is wrong, on one that does not count it is nothing.
    assert measure(first, (*first[:4], 0.85), second, (*second[:4], 0.75), (*nothing[:4], 0)) == pytest.approx(
        [1, 5 / 6, 5 / 6]
    )
    # A pixel is added to each side: 5 x 10 of 10 x 10 are a half, where 4 x 9 of 9 x 9 are less.
    assert measure((0, 0, 4, 9, 0.9), (*nothing[:4], 0))[0] == 1
    assert measure((0, 0, 3.9, 9, 0.9), (*nothing[:4], 0))[0] == 0
    assert measure() == [0, 0, 0]
    empty = np.zeros((0, 4)), np.zeros((0, 3), bool)
    assert list(wider_precision([found(nothing)], [empty]).values()) == [None, None, None]
    assert wider_precision([], []) == {"easy": None, "medium": None, "hard": None}


def test_levels_by_height():
    boxes, counts = level_by_height(truth((0, 0, 9, 51), (0, 0, 40, 50), (0, 0, 40, 10), (0, 0, 9, 90), ignored=[3]))
    assert boxes.shape == (4, 4)
    assert counts.tolist() == [[True, True, True], [False, True, True], [False] * 3, [False] * 3]


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FaceExprError, match=r"cannot be read as WIDER FACE's levels .*wider_face_val.mat"):
        read_wider_levels(tmp_path)
    made_up(0, tmp_path)
    (tmp_path / "wider_hard_val.mat").write_bytes((tmp_path / "wider_hard_val.mat").read_bytes()[:300])
    with pytest.raises(FaceExprError, match="cannot be read as WIDER FACE's levels"):
        read_wider_levels(tmp_path)
