"""Trainings that are killed or stopped: the same command goes on, and how far nothing shows of it."""

import signal

import pytest
from killed_runs import DROPOUT, FACES, MID_EPOCH, SCENES, curves, differences, fit, load, newest

from faceexpr.utils.errors import INTERRUPTED, PREEMPTED

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training of two epochs, without dropout, that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(folder, FACES) == [0]
    return folder


@pytest.mark.slow
def test_kills_at_the_ends_of_epochs_leave_no_trace(whole, tmp_path):
    for _ in range(2):  # the second of them after the last epoch, before its reports are written
        assert fit(tmp_path, FACES, "saved") == [KILLED]
    assert fit(tmp_path, FACES) == [0]
    assert not differences(tmp_path, whole)
    resumed, uninterrupted = (curves(newest(folder, "events*").parent) for folder in (tmp_path, whole))
    assert all(uninterrupted[tag][step] == value for tag, points in resumed.items() for step, value in points.items())


@pytest.mark.slow
def test_twenty_kills_leave_no_trace_in_a_network_with_dropout(tmp_path):
    args = [*FACES, *DROPOUT, "--trainer.max_epochs=20"]
    assert fit(tmp_path / "whole", args) == [0]
    for _ in range(20):
        assert fit(tmp_path / "run", args, "saved") == [KILLED]
    assert fit(tmp_path / "run", args) == [0]
    assert not differences(tmp_path / "run", tmp_path / "whole")
    print(f"20 kills at epoch ends: {load(newest(tmp_path / 'run', 'last.ckpt'))['global_step']} steps, bit-equal")


@pytest.mark.parametrize(
    ("options", "where", "nth", "number", "code", "step"),
    [
        # The checkpoint before is left whole.
        pytest.param([], "saving", 2, signal.SIGKILL, KILLED, 7, marks=pytest.mark.slow),
        # After the third step of the second epoch.
        pytest.param(MID_EPOCH, "saved", 6, signal.SIGKILL, KILLED, 10, marks=pytest.mark.slow),
        # Which saves between two steps.
        pytest.param([], "batch", 10, signal.SIGTERM, PREEMPTED, 10, marks=pytest.mark.slow),
    ],
)
def test_the_end_of_a_process_leaves_no_trace_wherever_it_is(options, where, nth, number, code, step, whole, tmp_path):
    args = [*FACES, *options]
    assert fit(tmp_path, args, where, nth, number) == [code]
    assert load(newest(tmp_path, "last.ckpt"))["global_step"] == step
    assert ("stopped at step 10" in (tmp_path / "log").read_text()) == (code == PREEMPTED)
    assert fit(tmp_path, args) == [0]
    assert not differences(tmp_path, whole)


@pytest.mark.slow
def test_two_processes_go_on_alike(tmp_path):
    args = [*FACES, *DROPOUT, "--trainer.strategy=ddp", "--data.batch_size=3"]
    assert fit(tmp_path / "whole", args, processes=2) == [0, 0]
    assert fit(tmp_path / "run", args, "saved", processes=2)[0] == KILLED
    assert fit(tmp_path / "run", args, processes=2) == [0, 0]
    assert not differences(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_images_that_workers_have_prepared_but_training_has_not_seen_come_again(tmp_path):
    assert fit(tmp_path / "whole", [*SCENES, *MID_EPOCH]) == [0]
    # In the middle of the second epoch: the workers must not begin with the order of the first.
    assert fit(tmp_path / "run", [*SCENES, *MID_EPOCH], "batch", 8) == [KILLED]
    assert load(newest(tmp_path / "run", "last.ckpt"))["global_step"] == 6
    assert fit(tmp_path / "run", [*SCENES, *MID_EPOCH]) == [0]
    assert not differences(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, PREEMPTED), (signal.SIGINT, INTERRUPTED)])
def test_no_worker_keeps_a_training_that_is_stopped_from_ending(number, code, tmp_path):
    assert fit(tmp_path, SCENES, "batch", 2, number) == [code]
    assert "Traceback" not in (tmp_path / "log").read_text()
