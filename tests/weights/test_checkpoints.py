"""Which checkpoint a run folder stands for, and which training `last` means."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.checkpoints import best_checkpoint, find_checkpoint, find_last, list_runs

STATE = "BestCheckpoint{'monitor': 'val/accuracy', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1}"


def save(path, step, scores=None, calibrated=False):
    """Write a checkpoint as version 0.1 did: with the score of each of the best ones at its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    callbacks = {}
    if scores is not None:
        kept = {f"/elsewhere/checkpoints/{name}": torch.tensor(score) for name, score in scores.items()}
        callbacks[STATE] = {"best_k_models": kept, "best_model_path": max(kept, key=kept.get)}
    options = {"calibration": {"temperature": 2.0}} if calibrated else {}
    state = {"state_dict": {}, "global_step": step, "epoch": step, "callbacks": callbacks, "hyper_parameters": options}
    torch.save(state, path)


def record(folder, **entries):
    """Write the record of a run, with a file to go on from."""
    save(folder / "checkpoints/last.ckpt", 1)
    last = {"path": "checkpoints/last.ckpt"}
    content = {"faceexpr": "0.2", "verb": "fit", "options": {}, "last": last, "training": folder.name, **entries}
    (folder / "run.json").write_text(json.dumps(content))


@pytest.fixture
def diverged(tmp_path):
    """A run without a record whose second epoch was the best; the newest and the first file are others. Case N20."""
    folder = tmp_path / "run"
    scores = {"best.ckpt": 0.5, "best-v1.ckpt": 0.9, "best-v2.ckpt": 0.1}
    for step, name in enumerate(scores):
        save(folder / "checkpoints" / name, step, dict([*scores.items()][: step + 1]))
    save(folder / "checkpoints/last.ckpt", 2, scores)
    return folder


def test_the_best_is_that_of_the_highest_score_whatever_the_names_and_times(diverged):
    folder = diverged / "checkpoints"
    for time, name in enumerate(("best-v1.ckpt", "last.ckpt", "best.ckpt", "best-v2.ckpt")):
        os.utime(folder / name, (time, time))
    assert best_checkpoint(diverged) == folder / "best-v1.ckpt"
    assert best_checkpoint(folder) == folder / "best-v1.ckpt"
    assert find_checkpoint(str(diverged.parent), Path()) == folder / "best-v1.ckpt"  # the only run there


def test_a_calibrated_copy_goes_before_the_best_that_it_is_of(diverged):
    folder = diverged / "checkpoints"
    scores = {"best.ckpt": 0.5, "best-v1.ckpt": 0.9}
    save(folder / "best-v1.calibrated.ckpt", 1, scores, calibrated=True)
    os.utime(folder / "best-v1.calibrated.ckpt", (0, 0))  # as after `cp -r`
    assert best_checkpoint(diverged) == folder / "best-v1.calibrated.ckpt"
    save(folder / "best-v1.calibrated.ckpt", 0, scores, calibrated=True)  # of an earlier epoch's weights
    assert best_checkpoint(diverged) == folder / "best-v1.ckpt"


def test_where_nothing_says_which_is_the_best_the_folder_is_refused(diverged, tmp_path):
    (diverged / "checkpoints/best-v1.ckpt").unlink()
    with pytest.raises(FaceExprError, match=r"nothing says which checkpoint in .*run is the best; expected a file"):
        best_checkpoint(diverged)
    save(tmp_path / "plain/a.ckpt", 1)
    assert best_checkpoint(tmp_path / "plain") == tmp_path / "plain/a.ckpt"
    save(tmp_path / "plain/b.ckpt", 2)
    with pytest.raises(FaceExprError, match="nothing says which checkpoint"):
        best_checkpoint(tmp_path / "plain")
    with pytest.raises(FaceExprError, match=r"holds several runs; expected one of .*plain, .*run"):
        best_checkpoint(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FaceExprError, match=r"there is no checkpoint in .*empty"):
        best_checkpoint(tmp_path / "empty")


def test_what_another_training_has_left_in_the_same_folder_is_not_compared(diverged):
    save(diverged / "checkpoints/best-v7.ckpt", 9, {"best-v7.ckpt": 0.2})
    with pytest.raises(FaceExprError, match="nothing says which checkpoint"):
        best_checkpoint(diverged)


def test_a_record_decides_and_holds_in_a_copied_folder(tmp_path):
    best = {"path": "checkpoints/mine.ckpt"}
    record(tmp_path / "a", best=best)
    for name in ("mine", "mine.calibrated", "newer"):
        save(tmp_path / f"a/checkpoints/{name}.ckpt", 1)
    shutil.move(tmp_path / "a", tmp_path / "b")
    folder = tmp_path / "b/checkpoints"
    assert best_checkpoint(tmp_path / "b") == folder / "mine.calibrated.ckpt"
    save(folder / "mine.calibrated.ckpt", 0)  # of another epoch's weights
    assert best_checkpoint(tmp_path / "b") == folder / "mine.ckpt"
    (folder / "mine.ckpt").unlink()  # then the files have to say it
    with pytest.raises(FaceExprError, match="nothing says which checkpoint"):
        best_checkpoint(tmp_path / "b")


@pytest.mark.parametrize("content", ["", "[]", '{"experiment": "mlp"}', '{"faceexpr": "1", "verb": "fit", "best": 3}'])
def test_a_file_that_is_no_record_of_ours_says_nothing(content, diverged):
    (diverged / "run.json").write_text(content)
    assert best_checkpoint(diverged).name == "best-v1.ckpt"


# `last`, case N21.


def test_last_is_the_run_that_the_same_command_has_started(tmp_path):
    one, other = {"model.net": "MLP"}, {"model.net": "SimpleCNN"}
    record(tmp_path / "version_0", started="2026-01-01", options=one)
    record(tmp_path / "version_1", started="2026-01-02", options=one, training="version_0")
    record(tmp_path / "version_2", started="2026-01-03", options=other)
    runs = list_runs(tmp_path, "*/")
    assert find_last(runs, options=one).parents[1].name == "version_1"
    assert find_last(runs, options=other).parents[1].name == "version_2"
    assert find_last(runs).parents[1].name == "version_2"  # to be measured: the training that was started last
    for unknown in ({}, {"model.net": "ResNet"}):
        with pytest.raises(FaceExprError, match=r"no record says .*version_1, .*version_2; expected the command"):
            find_last(runs, options=unknown)
    # A command that says nothing of its model and data goes on with the only training, but no other command does.
    assert find_last(runs[:2], options={}).parents[1].name == "version_1"
    with pytest.raises(FaceExprError, match="no record says"):
        find_last(runs[:2], options=other)
    assert find_last([], options=one) is None


def test_a_torn_checkpoint_is_named_and_passed_over(tmp_path, recwarn):
    record(tmp_path / "version_0", started="1")
    record(tmp_path / "version_1", started="2", training="version_0")
    torn = tmp_path / "version_1/checkpoints/last.ckpt"
    torn.write_bytes(torn.read_bytes()[:-100])
    assert find_checkpoint("last", tmp_path) == tmp_path / "version_0/checkpoints/last.ckpt"
    assert ["version_1/checkpoints/last.ckpt cannot be loaded" in str(one.message) for one in recwarn] == [True]


def test_of_several_runs_without_a_record_none_is_the_last(tmp_path):
    save(tmp_path / "version_0/checkpoints/last.ckpt", 3)
    save(tmp_path / "version_0/checkpoints/last.calibrated.ckpt", 3)
    assert find_last(list_runs(tmp_path), options={"model.net": "MLP"}) is not None
    save(tmp_path / "version_1/checkpoints/last.ckpt", 3)
    for options in (None, {}, {"model.net": "MLP"}):
        with pytest.raises(FaceExprError, match="no record says which of these"):
            find_last(list_runs(tmp_path), options=options)
