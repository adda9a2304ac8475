"""Two machines for real: network namespaces joined by a cable, with host names and, by choice, files of their own."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import processes
import pytest
import torch
from machines import ADDRESSES, Machine, torchrun, two_machines, wait
from processes import start

from faceexpr.utils.errors import BAD_INPUT

FACES = ["--data=SyntheticFaces", "--data.train_size=14", "--data.val_size=7", "--data.test_size=9",
         "--data.batch_size=4", "--evaluation.figures=false", "--evaluation.resamples=50",
         "--trainer.accelerator=cpu"]  # fmt: skip
FIT = ["fit", *FACES, "--model.net=MLP", "--model.net.hidden=[8]", "--trainer.max_epochs=1", "--trainer.strategy=ddp"]
TWO = ["--trainer.devices=1", "--trainer.num_nodes=2"]
PORT = 29500
"""Nobody else listens on a machine that has just been made; each run takes the next one."""


def run_on(machines: list[Machine], args: list[str], folder: Path, logs: Path, port: int = PORT) -> list[int | None]:
    """Run a command line on each machine, as ``torchrun`` does but without its start of some seconds."""
    running = []
    for machine in machines:
        given = {**processes.torchrun(machine.rank, len(machines), port), **machine.environment}
        given |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(machine.rank)}
        given["MASTER_ADDR"] = ADDRESSES[0]
        running.append(start(args, folder, logs / f"{machine.rank}.log", given, machine.namespaces))
    for process in running:
        process.join(60)
        process.kill()
        process.join()
    return [process.exitcode for process in running]


def run_alone(args: list[str], folder: Path) -> None:
    process = start(args, folder, folder / "alone.log")
    process.join(60)
    assert process.exitcode == 0, (folder / "alone.log").read_text()


def said(logs: Path) -> list[str]:
    return [(logs / f"{rank}.log").read_text() for rank in range(2)]


def files_of(machine: Machine, folder: Path) -> list[str]:
    listing = machine.output(["find", str(folder), "-type", "f"]).decode().splitlines()
    return sorted(str(Path(line).relative_to(folder)) for line in listing)


def another_checkpoint(content: bytes) -> bytes:
    """Return one of a later step."""
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    checkpoint["global_step"] += 1
    changed = io.BytesIO()
    torch.save(checkpoint, changed)
    return changed.getvalue()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_machines_reach_each_other_by_the_cable_only(work: Path) -> None:
    with two_machines(own_folder=work) as machines:
        assert [machine.output(["hostname"]) for machine in machines] == [b"machine-0\n", b"machine-1\n"]
        (work / "here").touch()
        assert [files_of(machine, work) for machine in machines] == [[], []]
        devices = machines[1].output(["ip", "-brief", "address"]).decode()
    assert ADDRESSES[1] in devices
    assert ADDRESSES[0] not in devices


def test_torchrun_on_two_machines_measures_what_one_process_measures(work: Path, logs: Path) -> None:
    run_alone([*FIT, "--trainer.devices=1"], work)
    measure = ["test", "--ckpt_path=lightning_logs/version_0", *FACES, "--trainer.devices=1"]
    run_alone([*measure, "--trainer.logger.version=one"], work)
    args = [*measure, "--trainer.strategy=ddp", "--trainer.num_nodes=2", "--trainer.logger.version=two"]
    with two_machines() as machines:
        running = [
            machine.start(torchrun(machine.rank, PORT, 1, args), work, logs / f"{machine.rank}.log")
            for machine in machines
        ]
        assert wait(running, 90) == [0, 0], said(logs)
    one, two = ((work / f"lightning_logs/{name}/metrics.json").read_bytes() for name in ("one", "two"))
    assert json.loads(two)["test"]["n"] == 9
    assert one == two


def test_machines_with_file_systems_of_their_own(work: Path, logs: Path) -> None:
    """The first one writes; the others need the checkpoint to go on, and a missing one ends all with one sentence."""
    again = [*FIT, *TWO, "--trainer.max_epochs=2", "--ckpt_path=lightning_logs/version_0/checkpoints/last.ckpt"]
    with two_machines(own_folder=work) as machines:
        assert run_on(machines, [*FIT, *TWO], work, logs) == [0, 0], said(logs)
        first, second = (files_of(machine, work) for machine in machines)
        assert {"lightning_logs/version_0/checkpoints/best.ckpt", "lightning_logs/version_0/config.yaml"} <= {*first}
        assert second == []

        assert run_on(machines, again, work, logs, PORT + 1) == [BAD_INPUT, BAD_INPUT]
        missing = "--ckpt_path: lightning_logs/version_0/checkpoints/last.ckpt does not exist; expected"
        assert f"error: process 1 of 2 on machine-1 has ended: {missing}" in said(logs)[0]
        assert f"error: {missing}" in said(logs)[1]
        assert "Traceback" not in "".join(said(logs))

        path = work / "lightning_logs/version_0/checkpoints/last.ckpt"
        content = machines[0].output(["cat", str(path)])
        machines[1].output(["sh", "-c", f"mkdir -p {path.parent} && cat > {path}"], another_checkpoint(content))
        assert run_on(machines, again, work, logs, PORT + 2) == [BAD_INPUT, BAD_INPUT]
        assert "process 1 on machine-1 would start from a checkpoint with SHA-256" in said(logs)[1]
        assert "expected the same checkpoint on all machines" in said(logs)[0]

        # The last checkpoint alone is enough: of the best one, the first machine knows.
        machines[1].output(["sh", "-c", f"cat > {path}"], content)
        assert run_on(machines, again, work, logs, PORT + 3) == [0, 0], said(logs)
        assert "lightning_logs/version_1/checkpoints/last.ckpt" in files_of(machines[0], work)


@pytest.mark.slow
def test_two_machines_with_two_processes_each_learn_what_one_process_learns(work: Path, logs: Path) -> None:
    whole = [*FIT, "--data.global_batch_size=8", "--model.optimizer=SGD", "--model.optimizer.lr=0.05"]
    run_alone([*whole, "--trainer.devices=1", "--trainer.logger.version=one"], work)
    args = [*whole, "--trainer.devices=2", "--trainer.num_nodes=2", "--trainer.logger.version=four"]
    with two_machines() as machines:
        running = [
            machine.start(torchrun(machine.rank, PORT, 2, args), work, logs / f"{machine.rank}.log")
            for machine in machines
        ]
        assert wait(running, 120) == [0, 0], said(logs)
    one, four = (
        torch.load(work / f"lightning_logs/{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "four")
    )
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, rtol=0, atol=1e-5)
    measured = [
        json.loads((work / f"lightning_logs/{name}/metrics.json").read_text())["val"] for name in ("one", "four")
    ]
    assert measured[0]["n"] == 7
    assert measured[0]["per_class"] == measured[1]["per_class"]
    assert measured[0]["nll"] == pytest.approx(measured[1]["nll"], abs=1e-5)


@pytest.mark.slow
def test_torchrun_ends_on_both_machines_where_one_cannot_go_on(work: Path, logs: Path) -> None:
    args = ["fit", "--data=FER2013", "--data.path=faces.csv", "--model.net=MLP", "--model.net.hidden=[8]",
            "--trainer.accelerator=cpu", *TWO]  # fmt: skip
    table = ["emotion,pixels,Usage"]
    pixels = " ".join(["7"] * 48 * 48)
    table += [f"{row},{pixels},{usage}" for usage in ("Training", "PublicTest") for row in range(7)]
    with two_machines(own_folder=work) as machines:
        machines[0].output(["sh", "-c", f"cat > {work}/faces.csv"], "\n".join(table).encode())
        running = [
            machine.start(torchrun(machine.rank, PORT, 1, args), work, logs / f"{machine.rank}.log")
            for machine in machines
        ]
        assert wait(running, 90) == [1, 1]  # torchrun's own code
    assert "process 1 of 2 on machine-1 has ended" in said(logs)[0]
    assert said(logs)[1].count("faceexpr fit: error: ") == 1
    assert subprocess.run(["ip", "netns"], capture_output=True, check=True).stdout == b""
