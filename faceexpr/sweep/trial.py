"""Run a trial in a process of its own: ``python -m faceexpr.sweep.trial fit ...`` is ``faceexpr fit ...`` that reports.

Not in the process of the sweep, so that nothing of an earlier trial reaches it, a crash ends one trial only, and the
strategies of Lightning that start their processes from the command line find the right one.

After each validation the trial writes a line to its standard output, and reads from standard input whether it goes on.
What a training prints goes to the log. A trial whose sweep was killed reads the end of its input, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.utils.errors import FaceExprError

LOG = "log.txt"
ERROR = "error: "
PATIENCE = 20.0
"""Seconds that an interrupted trial gets to end by itself."""

Report = Callable[[float, int, bool], bool]
"""Takes the metric, the epochs that have run, and whether there are more; returns whether the training has to end."""


class TrialReport(Callback):
    """Report the metric after each validation, and end the training where the answer is to end it.

    It ends as a training does whose time is up, at the end of the epoch and with all that a run leaves.

    Args:
        monitor: the metric that is reported.
        report: called in the first process of the training.
    """

    def __init__(self, monitor: str, report: Report) -> None:
        self.monitor = monitor
        self.report = report

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None:
            return
        epochs = trainer.current_epoch + 1
        more = trainer.max_epochs is None or trainer.max_epochs < 0 or epochs < trainer.max_epochs
        stop = trainer.is_global_zero and self.report(float(value), epochs, more)
        # One process decides for all; a process that went on alone would wait for the others for ever.
        if trainer.strategy.broadcast(stop):
            trainer.should_stop = True


def run_trial(args: Sequence[str], monitor: str, folder: Path, report: Report) -> int:
    """Run ``fit`` in a process of its own and return its exit code; what it says goes to ``log.txt`` in the run folder.

    What an interrupted attempt has left in the folder is removed.
    """
    if folder.exists():
        rank_zero_info(f"{folder} holds an attempt that was interrupted; it is removed and the trial is run again")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "faceexpr.sweep.trial", monitor, *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "PYTHONUTF8": "1"},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                with contextlib.suppress(OSError):  # it has ended meanwhile; its exit code says how
                    process.stdin.write("stop\n" if report(*json.loads(line)) else "go\n")
                    process.stdin.flush()
            return process.wait()
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def failure(code: int, log: Path) -> str:
    """Return in one line why a trial's process that did not exit with 0 has ended: its signal, or what it said last."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}" + (", as when memory runs out" if code == -9 else "")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.partition(ERROR)[2] for line in reversed(lines) if line.startswith("faceexpr ") and ERROR in line]
    # The last line of a traceback names the exception.
    return next((line.strip() for line in [*said, *reversed(lines)] if line.strip()), f"exit code {code}")


def main() -> None:
    """Run the trial that the command line names: the metric, then the arguments of ``fit``."""
    from faceexpr.cli.train import run

    reports = sys.stdout

    def report(value: float, epochs: int, more: bool) -> bool:
        print(json.dumps([value, epochs, more]), file=reports, flush=True)
        return sys.stdin.readline() != "go\n"

    try:
        with contextlib.redirect_stdout(sys.stderr):
            run(sys.argv[2:], callbacks=[TrialReport(sys.argv[1], report)])
    except FaceExprError as error:
        print(f"faceexpr fit: {ERROR}{error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
