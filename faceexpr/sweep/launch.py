"""Run one trial in a process of its own, and read what it has measured."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from faceexpr.sweep.table import METRICS
from faceexpr.sweep.trial import Assignment

LOG = "log.txt"
PATIENCE = 20.0
"""Seconds that an interrupted trial gets to end by itself."""


def launch(args: Sequence[str], assignment: Assignment, folder: Path) -> int:
    """Run ``fit`` and return the exit code of its process; what it says goes to ``log.txt`` in the run folder.

    Args:
        args: the arguments, verb included.
        assignment: which trial it is.
        folder: the run folder; what an interrupted attempt has left in it is removed.
    """
    if folder.exists():
        rank_zero_info(f"{folder} holds an attempt that was interrupted; it is removed and the trial is run again")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "faceexpr.sweep.trial", *args],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env=assignment.environment(),
        )  # fmt: skip
        assert process.stdin is not None
        try:
            return process.wait()
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def val_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of the best epoch from ``metrics.json``; none where the run has measured none."""
    try:
        entry: Any = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["val"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: entry[name] for name in METRICS if isinstance(entry.get(name), int | float)}
