"""Who runs which trial: interruptions, dead processes, and several processes at once."""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from optuna.study import Study
from optuna.trial import TrialState
from sweep_runs import FOLDER, curve, sweep, table

from faceexpr.sweep import queue as queue_module
from faceexpr.sweep.queue import BEAT, Queue, release
from faceexpr.sweep.sampling import POINT, PointSampler
from faceexpr.sweep.space import grid, read_space
from faceexpr.sweep.storage import open_study
from faceexpr.sweep.trial import Assignment

SPACE = read_space({"model.lr": [0.1, 0.2, 0.3]}, "grid")
SEARCHED = read_space({"model.lr": {"low": 1e-4, "high": 1.0, "log": True}, "model.net": ["A", "B"]}, "search")


def study_in(folder: Path, storage: str = "study.journal") -> Study:
    return open_study(storage if "://" in storage else str(folder / storage), "s", "max", PointSampler(0))


def test_points_are_claimed_in_order_once_each(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    queue = Queue(study, SPACE, grid(SPACE))
    for value in (0.1, 0.2, 0.3):
        claimed = queue.claim()
        assert claimed is not None
        assert claimed[1] == {"model.lr": value}
        study.tell(claimed[0], value)
    assert queue.claim() is None
    assert queue.running() == []


@pytest.mark.parametrize("storage", ["study.journal", "sqlite:///study.db"])
def test_two_processes_never_hold_the_same_point(storage: str, workdir: Path) -> None:
    queues = [Queue(study_in(workdir, storage), SPACE, grid(SPACE)) for _ in range(2)]
    claimed = [queues[place].claim() for place in (0, 1, 0, 1)]
    assert [None if item is None else item[1]["model.lr"] for item in claimed] == [0.1, 0.2, 0.3, None]
    assert queues[0].running() == [0, 1, 2]


def test_an_interrupted_point_comes_again_before_the_others(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    first = Queue(study, SEARCHED, [None] * 3).claim()
    assert first is not None
    release(study, first[0].number)
    again = Queue(study_in(tmp_path), SEARCHED, [None] * 3).claim()
    assert again is not None
    assert again[0].user_attrs[POINT] == 0
    assert again[1] == first[1]  # a search runs what it had drawn


def test_the_lower_number_stands_where_two_enqueue_the_same_point(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    for _ in range(2):
        study.enqueue_trial({"model.lr": 0.1}, user_attrs={POINT: 0})
    queues = [Queue(study_in(tmp_path), SPACE, grid(SPACE)[:1]) for _ in range(2)]
    assert queues[0].claim() is not None
    assert queues[1].claim() is None
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.FAIL]


def test_a_point_whose_process_was_killed_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = Queue(study_in(tmp_path), SPACE, grid(SPACE)[:1]).claim()
    assert killed is not None
    mine = Queue(study_in(tmp_path), SPACE, grid(SPACE)[:1])
    assert mine.claim() is None  # it may live
    monkeypatch.setattr(queue_module, "GRACE_SECONDS", 0.0)
    killed[0].set_user_attr(BEAT, -1.0)
    assert mine.claim() is None  # its beat has changed
    time.sleep(0.01)
    taken = mine.claim()
    assert taken is not None
    assert taken[0].user_attrs[POINT] == 0
    with pytest.raises(ValueError, match="Cannot tell"):
        killed[0].study.tell(killed[0], 0.5)


def test_draws_depend_on_seed_and_point_and_not_on_when_they_are_made(tmp_path: Path) -> None:
    def drawn(folder: Path, seed: int, sessions: Sequence[int]) -> list[dict[str, object]]:
        folder.mkdir()
        for length in sessions:
            study = open_study(str(folder / "j"), "s", "max", PointSampler(seed))
            queue = Queue(study, SEARCHED, [None] * 14)
            for _ in range(length):
                claimed = queue.claim()
                assert claimed is not None
                study.tell(claimed[0], float(str(claimed[1]["model.lr"])))
        return [trial.params for trial in study.trials]

    whole = drawn(tmp_path / "a", 0, [14])
    assert whole == drawn(tmp_path / "b", 0, [3, 8, 3])
    assert whole != drawn(tmp_path / "c", 1, [14])
    assert len({str(point) for point in whole}) == 14


def _share(folder: str, log: str) -> None:
    os.chdir(folder)

    def values(options: dict[str, str]) -> list[float]:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()} {options['model.lr']}\n")
        time.sleep(0.3)
        return [float(options["model.lr"])]

    sweep(curve(values), parameters={"model.lr": [index / 100 for index in range(1, 7)]}).run()


def test_two_processes_share_a_grid(workdir: Path) -> None:
    # Nothing is computed with torch in the children, so that they may be forked, which is fast.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_share, args=(str(workdir), "ran.txt")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    ran = [line.split() for line in Path("ran.txt").read_text().splitlines()]
    assert Counter(lr for _, lr in ran) == {f"{index / 100}": 1 for index in range(1, 7)}
    assert len({pid for pid, _ in ran}) == 2
    rows = table()
    assert [row["trial"] for row in rows] == [f"trial_{index:03d}" for index in range(6)]
    assert [float(row["val/accuracy"]) for row in rows] == [index / 100 for index in range(1, 7)]
    assert (FOLDER / "best.yaml").read_text().count("trial_005") == 1


def test_a_trial_that_was_taken_over_does_not_count_twice(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def launch(args: Sequence[str], assignment: Assignment, folder: Path) -> int:
        curve(lambda options: [0.5])(args, assignment, folder)
        if not (folder / "seen").exists():
            (folder / "seen").touch()
            # As another process does to which this one seems dead.
            release(study_in(workdir, str(FOLDER / "study.journal")), 0)
        return 0

    sweep(launch, parameters={"model.lr": [0.1]}).run()
    assert "was taken over by another process" in capsys.readouterr().out
    assert [(row["trial"], row["status"]) for row in table()] == [("trial_000", "done")]
