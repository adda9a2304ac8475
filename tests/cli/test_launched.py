"""Options have to fit the processes that were started: each might take itself for the only one otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from faceexpr.callbacks.launched import check_count, launched, work_alone
from faceexpr.utils.errors import FaceExprError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "run", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2",
         "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {**TORCHRUN, **SLURM}:
        monkeypatch.delenv(name, raising=False)


def use(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def trainer(devices: int, nodes: int) -> Any:
    return SimpleNamespace(num_devices=devices, num_nodes=nodes)


def test_without_a_launcher_any_options_will_do() -> None:
    assert launched() is None
    check_count(trainer(3, 2))


@pytest.mark.parametrize(
    ("variables", "name"), [(TORCHRUN, "torchrun"), (SLURM, "SLURM"), (SLURM | TORCHRUN, "torchrun")]
)
def test_options_that_do_not_fit_are_refused_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    use(monkeypatch, variables)
    check_count(trainer(4, 2))
    # As many in all, but not on each machine.
    for devices, nodes in ((1, 1), (4, 1), (8, 1), (2, 4)):
        with pytest.raises(FaceExprError) as refused:
            check_count(trainer(devices, nodes))
        said = str(refused.value)
        assert said.startswith(
            f"{name} has started 8 processes, 4 on each of 2 machines, but trainer.devices is {devices}"
        )
        assert "expected --trainer.devices 4 --trainer.num_nodes 2" in said
        assert ("srun" in said) == (name == "SLURM")


def test_a_job_of_one_task_with_several_devices_would_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1"})
    with pytest.raises(
        FaceExprError, match=r"SLURM has started 1 process, 1 on each of 1 machine, .* SLURM_JOB_NAME=inter"
    ):
        check_count(trainer(2, 1))


def test_an_interactive_job_starts_its_processes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, SLURM | {"SLURM_JOB_NAME": "interactive"})
    assert launched() is None


def test_tasks_without_their_number_on_each_machine_are_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"})
    with pytest.raises(FaceExprError, match="Use `--ntasks-per-node=2` instead"):
        launched()
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit):
        launched()


@pytest.mark.parametrize("variables", [TORCHRUN, SLURM])
def test_a_sweep_started_as_several_processes_runs_its_trials_alone(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    use(monkeypatch, variables)
    assert launched() is not None
    work_alone()
    assert launched() is None
    check_count(trainer(1, 1))
