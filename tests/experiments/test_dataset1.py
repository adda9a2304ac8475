"""Dataset 1's division is fixed, and its measurements have intervals over images."""

import json

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from experiments.paper.dataset1 import FOLDS, LISTS, METRICS, divide, measure, read_boxes
from experiments.paper.experiments import DATASET_1, DATASET_1_IMAGES, START, TEST, experiment, run_folder
from experiments.paper.runs import BOXES, FACTS, RUNS, write_facts
from faceexpr.boxes.detections import Detections
from faceexpr.boxes.matching import Truth
from faceexpr.callbacks.detection import list_boxes
from faceexpr.metrics.detection import DetectionTable, score_detections

STORED = {path.stem: path.read_text(encoding="utf-8").split() for path in (REPOSITORY / LISTS).glob("*.txt")}


def test_every_image_is_tested_on_once_and_none_is_in_two_parts_of_a_division():
    every = [name for fold in range(FOLDS) for name in STORED[f"test_{fold}"]]
    assert len(every) == len(set(every)) == 404
    for fold in range(FOLDS):
        test, val = set(STORED[f"test_{fold}"]), set(STORED[f"val_{fold}"])
        assert (len(test) in (80, 81), len(val), test & val) == (True, 32, set())
        assert val < set(every)


def test_the_stored_lists_are_what_the_seed_draws():
    every = [name for fold in range(FOLDS) for name in STORED[f"test_{fold}"]]
    assert divide(every[::-1]) == STORED
    assert divide(every, seed=1) != STORED


@pytest.fixture
def folds(tmp_path):
    """Two files of measurements of six images each, the faces, and what each measures as a whole."""
    rng = np.random.default_rng(0)
    files, truths, wholes = [], {}, []
    for fold in range(2):
        found, own, names = [], [], [f"{fold}_{number}.jpg" for number in range(6)]
        for _ in names:
            corners = rng.uniform(0, 50, (3, 2)).astype(np.float32)
            faces = np.hstack([corners, corners + 30])
            moved = torch.from_numpy(faces + rng.uniform(-8, 8, faces.shape).astype(np.float32))[: rng.integers(3) + 1]
            found.append(Detections(moved, torch.from_numpy(np.sort(rng.random(len(moved)))[::-1].astype(np.float32))))
            own.append(Truth(faces, np.zeros(3, dtype=np.bool_)))
        scores = score_detections(own, found)
        files.append(tmp_path / f"{fold}.csv")
        files[-1].write_text(list_boxes(DetectionTable(np.arange(6), found, own), scores, lambda n, of=names: of[n]))
        truths |= dict(zip(names, own, strict=True))
        wholes.append(scores.values)
    return files, truths, wholes


def test_a_measurement_is_that_of_the_run_and_of_several_folds_their_mean_within_its_interval(folds):
    files, truths, wholes = folds
    one, both = measure(files[:1], truths, 50), measure(files, truths, 50)
    for name in METRICS:
        assert one[name][0] == pytest.approx(wholes[0][name], abs=1e-6)
        assert both[name][0] == pytest.approx(np.mean([whole[name] for whole in wholes]), abs=1e-6)
    for values in (one["ap50"], both["ap50"]):
        assert values[1] < values[0] < values[2]
    sure = read_boxes(files[0], 0.5)
    assert len(sure) == 6
    assert all((detections.scores >= 0.5).all() for detections in sure.values())


def test_a_run_that_starts_from_nothing_has_no_measurement_of_a_start(folds, tmp_path):
    files, truths, wholes = folds
    (tmp_path / DATASET_1_IMAGES).mkdir(parents=True)
    entries = []
    for name, truth in truths.items():
        Image.new("RGB", (100, 100)).save(tmp_path / DATASET_1_IMAGES / name)
        points = [[{"x": x / 100, "y": y / 100} for x, y in box.reshape(2, 2).tolist()] for box in truth.boxes]
        boxes = [{"label": ["Face"], "points": each, "imageWidth": 100, "imageHeight": 100} for each in points]
        entries.append(json.dumps({"content": f"http://a/{name}", "annotation": boxes}))
    (tmp_path / DATASET_1).write_text("\n".join(entries))
    measured = {"dataset1_detectron2": ["version_1"], "dataset1_light": [TEST, START]}
    for name, parts in measured.items():
        for part in parts:
            target = tmp_path / run_folder(experiment(name), 0) / part / BOXES
            target.parent.mkdir(parents=True)
            target.write_bytes(files[0].read_bytes())
    write_facts(tmp_path)
    runs = json.loads((tmp_path / RUNS / FACTS).read_text())["dataset1"]["runs"]
    assert {name: set(parts) for name, parts in runs.items()} == {
        "dataset1_detectron2": {TEST}, "dataset1_light": {TEST, START},
    }  # fmt: skip
    assert runs["dataset1_detectron2"][TEST]["ap50"][0] == pytest.approx(wholes[0]["ap50"], abs=1e-6)
