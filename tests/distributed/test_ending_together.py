"""What makes one process end, or all, ends all within seconds, and is said once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import free_port, run_together, start

from faceexpr.utils.errors import BAD_INPUT, PROCESS_LOST

TINY = ["fit", "--data=odd_rank.OddFaces", "--data.train_size=14", "--data.val_size=7", "--data.batch_size=4",
        "--model.net=MLP", "--model.net.hidden=[8]", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
        "--trainer.strategy=ddp", "--trainer.devices=2", "--evaluation.figures=false"]  # fmt: skip
SENTENCE = "faceexpr fit: error: odd.png is no image; expected one\n"
SECONDS = 30
"""Far more than an ending takes, far less than torch waits for a process that has gone."""


def outputs(folder: Path, processes: int = 2) -> list[str]:
    return [(folder / f"process-{rank}.log").read_text() for rank in range(processes)]


def test_an_option_that_is_wrong_in_all_processes_is_said_once(tmp_path: Path) -> None:
    codes = run_together([*TINY, "--data.batch_size=0"], tmp_path, 2, timeout=SECONDS)
    first, second = outputs(tmp_path)
    assert codes == [BAD_INPUT, BAD_INPUT]
    assert first.count("batch_size") == 1
    assert "error" not in second


def test_what_all_processes_find_in_their_data_is_said_once(tmp_path: Path) -> None:
    codes = run_together(TINY, tmp_path, 2, {"ODD": "setup refuse all"}, timeout=SECONDS)
    first, second = outputs(tmp_path)
    assert codes == [BAD_INPUT, BAD_INPUT]
    assert SENTENCE in first
    assert "error" not in second
    assert "Traceback" not in first + second


@pytest.mark.parametrize(("moment", "rank"), [("prepare", 0), ("setup", 1), ("batch", 0)])
def test_what_one_process_finds_ends_the_other_with_one_sentence(tmp_path: Path, moment: str, rank: int) -> None:
    codes = run_together(TINY, tmp_path, 2, {"ODD": f"{moment} refuse {rank}"}, timeout=SECONDS)
    assert codes == [BAD_INPUT, BAD_INPUT]
    said = outputs(tmp_path)
    assert SENTENCE in said[rank]
    assert "error" not in said[1 - rank]
    assert "Traceback" not in said[1 - rank]


def test_a_process_that_is_killed_ends_the_other_with_a_code_of_its_own(tmp_path: Path) -> None:
    codes = run_together(TINY, tmp_path, 2, {"ODD": "batch kill 1"}, timeout=SECONDS)
    assert codes == [PROCESS_LOST, -9]
    said = outputs(tmp_path)[0]
    assert "another process of this run was lost" in said
    assert "--ckpt_path last" in said
    assert "Traceback" not in said


def test_a_defect_of_all_processes_is_shown_once(tmp_path: Path) -> None:
    codes = run_together(TINY, tmp_path, 2, {"ODD": "batch fail all"}, timeout=SECONDS)
    first, second = outputs(tmp_path)
    assert codes == [1, 1]
    assert first.count("TypeError: a defect") == 1
    assert "Traceback" not in second


def test_a_process_that_hears_nothing_ends_all_the_same(tmp_path: Path) -> None:
    """As one does that waits in a collective operation of GPUs, which does not return when another process ends."""
    began = time.monotonic()
    codes = run_together(TINY, tmp_path, 2, {"ODD": "batch refuse 1, batch sleep 0"}, timeout=50)
    assert time.monotonic() - began < 45
    assert codes == [BAD_INPUT, BAD_INPUT]
    first, second = outputs(tmp_path)
    assert SENTENCE in second
    assert "error" not in first  # it has the same terminal


def slurm(rank: int, tasks: int, port: int) -> dict[str, str]:
    """Return the variables that ``srun`` gives to a task on one machine."""
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": str(tasks), "SLURM_PROCID": str(rank),
        "SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_NNODES": "1", "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def run_tasks(args: list[str], folder: Path, tasks: int = 2) -> list[int | None]:
    port = free_port()
    running = [start(args, folder, folder / f"process-{rank}.log", slurm(rank, tasks, port)) for rank in range(tasks)]
    for process in running:
        process.join(SECONDS)
        process.kill()
    return [process.exitcode for process in running]


def test_tasks_of_slurm_measure_what_one_process_measures(tmp_path: Path) -> None:
    assert run_tasks(TINY, tmp_path) == [0, 0]
    checkpoint = tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt"
    measure = ["test", f"--ckpt_path={checkpoint}", "--data.test_size=9", "--trainer.accelerator=cpu",
               "--evaluation.figures=false", "--evaluation.resamples=50"]  # fmt: skip
    two = [*measure, "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.logger.version=two"]
    assert run_tasks(two, tmp_path) == [0, 0]
    one = start([*measure, "--trainer.devices=1", "--trainer.logger.version=one"], tmp_path, tmp_path / "one.log")
    one.join(SECONDS)
    metrics = [(tmp_path / f"lightning_logs/{name}/metrics.json").read_bytes() for name in ("one", "two")]
    assert b'"n": 9' in metrics[0]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("odd", "code"),
    [
        ("prepare refuse 0", {2}),
        ("setup refuse all", {2}),
        ("batch refuse 1", {2, -9}),
        ("batch kill 1", {76, -9}),
    ],
)
def test_processes_that_lightning_starts_end_together(tmp_path: Path, odd: str, code: set[int]) -> None:
    """The first process has five seconds until Lightning kills it for the other's end, and mostly ends by itself."""
    environment = {**os.environ, "ODD": odd, "PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run(
        [sys.executable, "-m", "faceexpr", *TINY],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode in code
    assert run.stderr.count(SENTENCE) == (0 if "kill" in odd else 1)
    assert "Traceback" not in run.stderr
