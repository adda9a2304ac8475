"""Why another process has ended, from its exit code and from what it said."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

ERROR = "error: "


def failure(code: int, log: Path) -> str:
    """Return in one line why a process of ``faceexpr`` that did not exit with 0 has ended.

    Args:
        code: its exit code; negative for a signal.
        log: file with what it said; of several attempts, the last one counts.
    """
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}" + (", as when memory runs out" if code == -9 else "")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.partition(ERROR)[2] for line in reversed(lines) if line.startswith("faceexpr ") and ERROR in line]
    # The last line of a traceback names the exception.
    return next((line.strip() for line in [*said, *reversed(lines)] if line.strip()), f"exit code {code}")
