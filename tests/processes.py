"""Command lines in processes of their own, which can be killed: forked from a server that has imported them already."""

import multiprocessing
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch
from lightning.pytorch import Callback

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["faceexpr.cli.train", "faceexpr.cli.analyze"])


def start(args, folder, log, environment=None, then=()):
    """Start a command line in a folder, and return its process: ``join`` it, look at its ``exitcode``, or ``kill`` it.

    What it prints goes to a file. The same process runs the command lines of ``then`` after it.
    """
    commands = [[*each] for each in (args, *then)]
    # One of another name would import the module that the tests were started with.
    process = _SERVER.Process(target=_run, args=(commands, str(folder), str(log), dict(environment or {})))
    process.start()
    return process


def run_together(
    args, folder, processes, environment = None,
    timeout = 120, then = (),
):  # fmt: skip
    """Run a command line, and then others, in several processes as ``torchrun`` does on one machine.

    What they print is in ``process-0.log`` and so on in the folder. Returned are the exit codes; None where a process
    had to be killed after the timeout, in seconds.
    """
    port = free_port()
    running = []
    for rank in range(processes):
        variables = torchrun(rank, processes, port) | dict(environment or {})
        running.append(start(args, folder, folder / f"process-{rank}.log", variables, then))
    for process in running:
        process.join(timeout)
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
    return codes


def torchrun(rank, processes, port):
    """Return the variables that ``torchrun`` gives to a process."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(commands, folder, log, environment):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell have it ignored
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.chdir(folder)
    os.environ.update(environment, JSONARGPARSE_DEPRECATION_WARNINGS="off", OMP_NUM_THREADS="1")
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    from faceexpr.cli.main import main

    torch.set_num_threads(1)
    # For processes of its own, it would start another server; as on the command line, they are forked.
    multiprocessing.set_start_method("fork", force=True)
    try:
        for args in commands:
            main(args)
    except Exception:  # multiprocessing would write it to where the tests print
        traceback.print_exc()
        raise SystemExit(1) from None


class RankWeights(Callback):
    """Write what each process has learnt to ``weights-0.pt`` and so on when training ends."""

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), Path(f"weights-{trainer.global_rank}.pt"))
