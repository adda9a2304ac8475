"""Distances between predicted probabilities and the votes of people."""

import json

import numpy as np
import pytest
import torch
from pixel_runs import ReadsThePixel, make_split, pixel_faces
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faceexpr.callbacks.checks import RunChecks
from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.data.loading import Selection
from faceexpr.metrics.classification import DISTANCES, METRICS, higher_is_better, score
from faceexpr.metrics.tables import SampleTable
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


def distances(probabilities, targets):
    table = SampleTable(np.arange(len(targets)), probabilities, targets)
    return {name: METRICS[name].compute(table) for name in DISTANCES}


def rows(*values):
    return np.array(values, dtype=np.float32)


def test_by_hand():
    half, sure, other = rows([0.5, 0.5]), rows([1, 0]), rows([0, 1])
    found = distances(half, sure)
    assert found["kl"] == pytest.approx(np.log(2), abs=1e-6)
    assert found["total_variation"] == pytest.approx(0.5)
    # Votes (1, 0) against (1/2, 1/2): the middle is (3/4, 1/4).
    assert found["js"] == pytest.approx((np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5 * np.log2(2)) / 2)
    found = distances(other, sure)
    assert found["js"] == pytest.approx(1)
    assert found["total_variation"] == pytest.approx(1)
    assert found["kl"] == pytest.approx(-np.log(np.finfo(np.float32).eps))  # finite, as nll is


def test_as_scipy_has_them():
    rng = np.random.default_rng(0)
    predicted, votes = rng.dirichlet(np.ones(7), 200), rng.multinomial(10, np.full(7, 1 / 7), 200) / 10
    found = distances(predicted.astype(np.float32), votes.astype(np.float32))
    assert found["kl"] == pytest.approx(entropy(votes, predicted, axis=1).mean(), abs=1e-5)
    assert found["js"] == pytest.approx((jensenshannon(votes, predicted, base=2, axis=1) ** 2).mean(), abs=1e-6)
    assert found["total_variation"] == pytest.approx(np.abs(votes - predicted).sum(1).mean() / 2, abs=1e-6)


@pytest.mark.parametrize("votes", [np.eye(7)[[0, 3, 6]], np.full((3, 7), 1 / 7), np.eye(7)[[1, 1, 2]] * 0.5 + 0.5 / 7])
def test_what_is_the_same_has_no_distance(votes):
    votes = votes.astype(np.float32)
    assert distances(votes, votes) == {name: pytest.approx(0, abs=1e-6) for name in DISTANCES}
    assert all(value >= 0 for value in distances(votes, votes).values())


def test_the_cross_entropy_is_the_entropy_of_the_votes_and_the_kl():
    rng = np.random.default_rng(1)
    votes = (rng.multinomial(10, np.full(7, 1 / 7), 300) / 10).astype(np.float32)
    predicted = rng.dirichlet(np.ones(7), 300).astype(np.float32)
    values = score(SampleTable(np.arange(300), predicted, votes), FER_NAMES).values
    assert values["nll"] - values["kl"] == pytest.approx(entropy(votes, axis=1).mean(), abs=1e-5)
    assert not any(higher_is_better(f"val/{name}") for name in DISTANCES)


def test_single_classes_have_no_distances():
    values = score(SampleTable(np.arange(2), rows([0.6, 0.4], [0.3, 0.7]), np.array([0, 1])), ("a", "b")).values
    assert not set(DISTANCES) & values.keys()


SOFT = torch.eye(7) * 0.6 + torch.eye(7).roll(1, 1) * 0.4
"""Two expressions for each face; the first has the majority."""


def divided_votes(stages, **extra):
    return pixel_faces({stage: make_split(list(range(7)), SOFT.tolist(), **extra) for stage in stages})


def test_one_pass_tells_accuracy_and_distance_everywhere(make_trainer, tmp_path, capsys):
    selection = Selection("more than half of the votes", {"no majority": 3, "unknown": 1})
    trainer = make_trainer(ClassificationEvaluation(figures=False))
    trainer.test(ReadsThePixel(), datamodule=divided_votes(["test"], selection=selection), verbose=False)
    predicted = (torch.eye(7) * 3).softmax(1).numpy()
    expected = distances(predicted, SOFT.numpy())
    record = json.loads(next(tmp_path.rglob("metrics.json")).read_text())["test"]
    events = EventAccumulator(str(tmp_path / "runs" / "version_0"))
    events.Reload()
    printed = capsys.readouterr().out
    for name, value in expected.items():
        assert record[name] == pytest.approx(value, abs=1e-6)
        assert float(trainer.callback_metrics[f"test/{name}"]) == pytest.approx(value, abs=1e-6)
        assert [event.value for event in events.Scalars(f"test/{name}")] == [pytest.approx(value, abs=1e-6)]
        assert f"{value:.4f}" in printed
    assert record["accuracy"] == 1.0  # by the class of most votes
    assert record["labels"] == {
        "rule": "more than half of the votes", "left_out": {"no majority": 3, "unknown": 1},
    }  # fmt: skip
    assert "accuracy 100.00% of 7 images: more than half of the votes; 4 left out (3 no majority, 1 unknown)" in printed


def test_a_distance_can_choose_the_best_epoch(make_trainer):
    class Watching(RunChecks):
        monitor, mode = "val/kl", "min"

    data = divided_votes(["train", "val"])
    evaluation = ClassificationEvaluation(figures=False, monitor="val/kl")
    trainer = make_trainer(evaluation, max_epochs=2)
    trainer.callbacks.append(Watching())
    trainer.fit(ReadsThePixel(), datamodule=data)
    assert {f"val/{name}" for name in DISTANCES} <= evaluation.logged("val", trainer.lightning_module).keys()
    assert evaluation.logged("val", trainer.lightning_module)["val/kl"] is False
    state = evaluation.state_dict()
    table, scores = ClassificationEvaluation().unpack(state)
    assert table.targets.shape == (7, 7)
    assert scores.values["kl"] == pytest.approx(state["value"], abs=1e-6)


def test_a_distance_is_refused_as_monitor_where_there_are_only_classes(make_trainer):
    class Watching(RunChecks):
        monitor, mode = "val/kl", "min"

    trainer = make_trainer(ClassificationEvaluation(figures=False))
    trainer.callbacks.append(Watching())
    classes = [(label, label) for label in range(7)]
    with pytest.raises(FaceExprError, match="watches val/kl, which this run does not measure"):
        trainer.fit(ReadsThePixel(), datamodule=pixel_faces({"train": classes, "val": classes}))
