"""Command lines in processes of their own, which can be killed: forked from a server that has imported them already."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["faceexpr.cli.train", "faceexpr.cli.analyze"])


def start(args: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Start a command line.

    Args:
        args: after the program's name.
        folder: where it runs.
        log: takes what it prints.
        environment: further variables.

    Returns:
        The process: ``join`` it, look at its ``exitcode``, or ``kill`` it.
    """
    # One of another name would import the module that the tests were started with.
    process = _SERVER.Process(target=_run, args=([*args], str(folder), str(log), dict(environment or {})))
    process.start()
    return process


def run_together(
    args: Sequence[str],
    folder: Path,
    processes: int,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> list[int | None]:
    """Run a command line in several processes as ``torchrun`` does on one machine.

    What they print is in ``process-0.log`` and so on in the folder.

    Returns:
        The exit codes; None where a process had to be killed after the timeout, in seconds.
    """
    running = [
        start(args, folder, folder / f"process-{rank}.log", {**torchrun(rank, processes, port), **(environment or {})})
        for port in [free_port()]
        for rank in range(processes)
    ]
    for process in running:
        process.join(timeout)
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
    return codes


def torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return the variables that ``torchrun`` gives to a process."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(args: list[str], folder: str, log: str, environment: dict[str, str]) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.chdir(folder)
    os.environ.update(environment, JSONARGPARSE_DEPRECATION_WARNINGS="off", OMP_NUM_THREADS="1")
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    import torch

    from faceexpr.cli.main import main

    torch.set_num_threads(1)
    # For processes of its own, it would start another server; as on the command line, they are forked.
    multiprocessing.set_start_method("fork", force=True)
    try:
        main(args)
    except Exception:  # multiprocessing would write it to where the tests print
        traceback.print_exc()
        raise SystemExit(1) from None
