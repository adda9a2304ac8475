"""Trainings that are killed, pre-empted or run out of room: the same command goes on, and nothing shows of it."""

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killed_runs import FACES, PICTURES, assert_same, fit, fit_at_once, load, newest
from killing import random_point

from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, PROCESS_LOST

KILLED = -signal.SIGKILL
POINTS = 20


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(folder, FACES) == [0]
    return folder


def test_a_training_that_is_killed_anywhere_ends_as_if_it_had_not_been(whole: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"KILL_SEED={seed}")
    rng = random.Random(seed)
    points = [random_point(rng, seconds=0.4) for _ in range(POINTS)]

    for first in range(0, POINTS, 2):
        two = {tmp_path / str(number): points[number] for number in (first, first + 1)}
        assert fit_at_once({folder: [FACES, point] for folder, point in two.items()}) == [KILLED] * 2, two
        assert fit_at_once({folder: [FACES, None] for folder in two}) == [0] * 2, two
        for folder in two:
            assert_same(folder, whole)


@pytest.mark.parametrize("where", ["before fsync", "before rename", "after rename"])
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_one_before(where: str, whole: Path, tmp_path: Path) -> None:
    # In the middle of the second checkpoint, of step 4; each is settled twice, the file and its folder.
    nth = {"before fsync": 3, "before rename": 2, "after rename": 2}[where]
    assert fit(tmp_path, FACES, {"where": where, "nth": nth}) == [KILLED]
    last = newest(tmp_path, "last.ckpt")
    assert load(last)["global_step"] == (4 if where == "after rename" else 2)
    assert last.with_name(".last.ckpt.part").exists() == (where != "after rename")
    assert fit(tmp_path, [*FACES, f"--last_checkpoint.dirpath={last.parent}"]) == [0]
    assert not list(tmp_path.rglob("*.part"))
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("point", "step"),
    [
        ({"where": "batch ends", "nth": 5}, 5),
        ({"where": "start", "nth": 1, "signals": [signal.SIGTERM] * 2}, 0),
        ({"where": "validation", "nth": 2}, 7),
    ],
)
def test_sigterm_saves_and_exits_with_a_code_of_its_own(
    point: dict[str, Any], step: int, whole: Path, tmp_path: Path
) -> None:
    assert fit(tmp_path, FACES, {"signals": [signal.SIGTERM], **point}) == [PREEMPTED]
    last = newest(tmp_path, "last.ckpt")
    assert load(last)["global_step"] == step
    said = (tmp_path / "log").read_text()
    assert f"pre-empted at step {step} (epoch {step // 7}): {last.relative_to(tmp_path)} is saved" in said
    assert said.count("SIGTERM") == 1
    assert fit(tmp_path, FACES) == [0]
    assert_same(tmp_path, whole)


def test_sigterm_waits_for_the_gradients_of_a_step(tmp_path: Path) -> None:
    args = [*FACES, "--trainer.accumulate_grad_batches=3", "--model.scheduler=null"]
    assert fit(tmp_path / "whole", args) == [0]
    assert fit(tmp_path / "run", args, {"where": "batch ends", "nth": 4, "signals": [signal.SIGTERM]}) == [PREEMPTED]
    assert load(newest(tmp_path / "run", "last.ckpt"))["global_step"] == 2  # six batches
    assert fit(tmp_path / "run", args) == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_batch_of_another_size_goes_on_at_the_same_sample(tmp_path: Path) -> None:
    assert fit(tmp_path, FACES, {"where": "batch ends", "nth": 3, "signals": [signal.SIGTERM]}) == [PREEMPTED]
    assert fit(tmp_path, [*FACES, "--data.batch_size=4"]) == [0]
    # 18 of 42 images are done, which is the fifth of eleven batches.
    assert "the epoch goes on at batch 4 of 11" in (tmp_path / "log").read_text()
    assert load(newest(tmp_path, "last.ckpt"))["global_step"] == 3 + 7 + 11


def test_slurm_puts_the_job_back_as_lightning_does(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho $@ > $(dirname $0)/asked\n")
    scontrol.chmod(0o755)
    job = {
        "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "training", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }  # fmt: skip
    # The first some time before the end of the job, the second at the end.
    point = {"where": "batch ends", "nth": 3, "signals": [signal.SIGUSR1, signal.SIGTERM]}
    assert fit(tmp_path / "run", FACES, point, environment=job) == [PREEMPTED]
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert (tmp_path / "run/hpc_ckpt_1.ckpt").exists()
    assert load(newest(tmp_path / "run", "last.ckpt"))["global_step"] == 3


def test_sigterm_before_training_is_as_usual(tmp_path: Path) -> None:
    assert fit(tmp_path, FACES, {"where": "fit", "nth": 1, "signals": [signal.SIGTERM]}) == [-signal.SIGTERM]
    assert not list(tmp_path.rglob("last.ckpt"))


def test_two_processes_are_resumed_too_whichever_gets_the_signal(tmp_path: Path) -> None:
    args = [*FACES, "--trainer.strategy=ddp", "--data.batch_size=3"]
    assert fit(tmp_path / "whole", args, processes=2) == [0, 0]
    killed = fit(tmp_path / "killed", args, {"where": "batch ends", "nth": 6}, processes=2)
    assert killed == [KILLED, PROCESS_LOST]
    pre_empted = {"where": "batch ends", "nth": 3, "signals": [signal.SIGTERM], "rank": 1}
    assert fit(tmp_path / "killed", args, pre_empted, processes=2) == [PREEMPTED, PREEMPTED]
    assert load(newest(tmp_path / "killed", "last.ckpt"))["global_step"] == 7
    assert fit(tmp_path / "killed", args, processes=2) == [0, 0]
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_pictures_that_workers_have_prepared_but_training_has_not_seen_come_again(tmp_path: Path) -> None:
    assert fit(tmp_path / "whole", PICTURES) == [0]
    # In the middle of the second epoch: the workers must not begin with the order of the first.
    assert fit(tmp_path / "run", PICTURES, {"where": "batch ends", "nth": 8}) == [KILLED]
    assert load(newest(tmp_path / "run", "last.ckpt"))["global_step"] == 6
    assert fit(tmp_path / "run", PICTURES) == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, PREEMPTED), (signal.SIGINT, INTERRUPTED)])
def test_no_worker_keeps_a_training_that_is_stopped_from_ending(number: int, code: int, tmp_path: Path) -> None:
    assert fit(tmp_path, PICTURES, {"where": "batch ends", "nth": 2, "signals": [number]}) == [code]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_last_validation_still_comes_where_less_than_an_epoch_is_left(tmp_path: Path) -> None:
    args = [*FACES, "--trainer.max_epochs=-1", "--trainer.max_steps=8", "--model.scheduler=null"]
    assert fit(tmp_path / "whole", args) == [0]
    assert fit(tmp_path / "run", args, {"where": "batch ends", "nth": 3}) == [KILLED]
    assert fit(tmp_path / "run", args) == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Give a file system of 256 KiB."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(whole: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        args = [*FACES, f"--last_checkpoint.dirpath={disk / 'kept'}"]
        filled = {"where": "batch ends", "nth": 5, "fill": str(disk / "filler")}
        assert fit(tmp_path / "run", args, filled) == [2]
        last = disk / "kept/last.ckpt"
        errors = [line for line in (tmp_path / "run/log").read_text().splitlines() if "error:" in line]
        assert len(errors) == 1
        assert (
            f"the checkpoint {last} cannot be written (No space left on device), and the one before it is" in errors[0]
        )
        assert load(last)["global_step"] == 4
        assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
        (disk / "filler").unlink()
        assert fit(tmp_path / "run", args) == [0]
        (tmp_path / "run/last.ckpt").write_bytes(last.read_bytes())
    assert_same(tmp_path / "run", whole)


def test_a_run_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "run").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        where = [f"--trainer.logger.save_dir={disk}", "--trainer.logger.version=run"]
        assert fit(tmp_path / "run", [*FACES, *where]) == [2]
    said = (tmp_path / "run/log").read_text()
    assert f"error: {disk}/run/events" in said
    assert "cannot be read or written: Read-only file system" in said
    assert "Traceback" not in said
