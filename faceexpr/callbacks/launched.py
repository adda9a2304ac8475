"""How the processes of a run were started, and whether that is what its options say."""

from __future__ import annotations

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from faceexpr.utils.errors import BAD_INPUT, FaceExprError
from faceexpr.utils.text import counted


def launched() -> ClusterEnvironment | None:
    """Return what ``torchrun`` or SLURM says of its processes; None where neither has started this one.

    Raises:
        FaceExprError: what it says is not enough.
    """
    if TorchElasticEnvironment.detect():  # first, as for Lightning: it works within SLURM too
        return TorchElasticEnvironment()
    if not SLURMEnvironment.detect():
        return None
    try:
        return SLURMEnvironment()
    except RuntimeError as error:
        if os.environ.get("SLURM_PROCID", "0") != "0":
            raise SystemExit(BAD_INPUT) from None  # all tasks find the same
        raise FaceExprError(" ".join(str(error).split())) from error


def work_alone() -> None:
    """Forget what started this process, which does not share its work with the others that were started with it."""
    for name in (
        "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID",
        "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID",
    ):  # fmt: skip
        os.environ.pop(name, None)


def check_count(trainer: Trainer) -> None:
    """Refuse options for another number of processes than were started.

    Otherwise each might take itself for the only one, and all would write into the same run folder.

    Raises:
        FaceExprError: the numbers differ.
    """
    environment = launched()
    if environment is None:
        return
    started = environment.world_size()
    if isinstance(environment, TorchElasticEnvironment):
        name, here = "torchrun", _number("LOCAL_WORLD_SIZE", 1)
        advice = ""
    else:
        name, here = "SLURM", _number("SLURM_NTASKS_PER_NODE", started)
        advice = (
            ", and srun before the command (outside of srun, as in an interactive job: the variable "
            "SLURM_JOB_NAME=interactive)"
        )
    nodes = max(started // here, 1)
    if (trainer.num_devices, trainer.num_nodes) == (here, nodes):
        return
    what = f"{counted(started, 'process', 'processes')}, {here} on each of {counted(nodes, 'machine')}"
    raise FaceExprError(
        f"{name} has started {what}, but trainer.devices is {trainer.num_devices} and trainer.num_nodes is "
        f"{trainer.num_nodes}; expected --trainer.devices {here} --trainer.num_nodes {nodes}{advice}"
    )


def _number(variable: str, default: int) -> int:
    # SLURM writes "4(x2)" for 4 on each of 2.
    value = os.environ.get(variable, "").partition("(")[0]
    return int(value) if value.isdecimal() else default
