"""One command line in a process of its own: what it says goes to a file, and it is ended with care."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

PATIENCE = 300.0
"""Seconds that a process gets to save its state: a validation that has begun is finished first."""


def launch(args: Sequence[str], folder: Path, log: Path, kept_open: IO[Any]) -> int:
    """Run a command line of ``faceexpr`` and return its exit code.

    Where this process is interrupted, SIGTERM tells the other to save its state, and it is waited for.

    Args:
        args: the arguments, verb included.
        folder: where it runs.
        log: file to which what it says is added.
        kept_open: the file by whose lock this process keeps the folder for itself; the other one keeps it as well, so
            that it is not joined by a third where this one is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "faceexpr", *args],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, pass_fds=(kept_open.fileno(),),
            start_new_session=True,  # Ctrl-C at a terminal would reach it too, and fit saves nothing then
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
