"""Every picture once, gathered over processes."""

import json
from pathlib import Path

import numpy as np
import torch
from box_runs import FACES, FOUND
from torch import multiprocessing

from faceexpr.boxes.detections import no_detections
from faceexpr.boxes.matching import Truth
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.metrics.detection import DetectionCollector, from_tensors, score_detections


def as_pair(rows):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return values[:, :4], values[:, 4]


def picture(index):
    """Return the update of a collector with one picture."""
    found = no_detections() if index < 0 else suppress(*as_pair(FOUND[index]), Suppression())
    faces = torch.tensor([] if index < 0 else FACES[index], dtype=torch.float32).reshape(-1, 4)
    return torch.tensor([index]), [found], [faces], [torch.zeros(len(faces), dtype=torch.bool)]


def test_pictures_come_sorted_once_each_and_without_padding():
    collector = DetectionCollector()
    for index in (2, -1, 0, 2, 1):
        collector.update(*picture(index))
    table = collector.compute()
    assert table.indices.tolist() == [0, 1, 2]
    assert [len(found) for found in table.found] == [1, 1, 2]
    assert [truth.boxes.tolist() for truth in table.truths] == [[list(map(float, box)) for box in row] for row in FACES]
    assert table.counts is None


def test_a_table_survives_a_checkpoint():
    collector = DetectionCollector()
    for index in (0, 1, 2):
        collector.update(*picture(index), [np.full((4, 4), index)])
    table = collector.compute()
    again = from_tensors(table.tensors())
    assert again.counts.tolist() == table.counts.tolist() == [np.full((4, 4), index).tolist() for index in (0, 1, 2)]
    # A picture with a single detection keeps its shapes.
    assert [found.scores.shape for found in again.found] == [(1,), (1,), (2,)]
    assert score_detections(again.truths, again.found).values == score_detections(table.truths, table.found).values


SHARES = [
    ([0, 2], [1]),  # uneven
    ([2, 1, 0], []),  # a process without a picture
    ([0, 1, 2], [-1, -1, -1]),  # a process with padding only
    ([0, 1], [2, 0]),  # a picture twice
]


def gather(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = []
    for share in SHARES:
        collector = DetectionCollector()
        for index in share[rank]:
            collector.update(*picture(index))
        table = collector.compute()
        results.append([table.indices.tolist(), score_detections(table.truths, table.found).values])
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


def test_e11_two_processes_measure_each_picture_once(tmp_path):
    multiprocessing.spawn(gather, args=(str(tmp_path),), nprocs=2)
    truths = [Truth(np.array(row, np.float32).reshape(-1, 4), np.zeros(len(row), bool)) for row in FACES]
    found = [suppress(*as_pair(rows), Suppression()) for rows in FOUND]
    expected = [[0, 1, 2], score_detections(truths, found).values]
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [expected] * len(SHARES)
