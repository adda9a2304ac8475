"""What ``benchmarks/detection.py`` has printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from faceexpr.utils.errors import FaceExprError

HEAD = re.compile(r"(?P<pictures>\d+) (?:images|pictures), (?P<faces>\d+) faces")
THREADS = re.compile(r"(?P<threads>\d+) threads?")
LINE = re.compile(
    r"(?P<name>\S.*?) +AP50 (?P<ap50>[\d.]+)  AP (?P<ap>[\d.]+) "
    r" first +(?P<first>[\d.]+) ms, ours/this (?P<first_ratio>[\d.]+) "
    r" again +(?P<again>[\d.]+) ms, ours/this (?P<again_ratio>[\d.]+)"
)


def read_benchmark(path: Path) -> dict[str, Any]:
    """Return the numbers of each detector.

    Raises:
        FaceExprError: the file is not what the benchmark prints.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [match for match in map(LINE.fullmatch, lines) if match]
    head, threads = (next(filter(None, map(one.fullmatch, lines)), None) for one in (HEAD, THREADS))
    if not found or head is None or threads is None:
        raise FaceExprError(f"{path} has no line of a detector; expected what benchmarks/detection.py prints")
    rows = [
        {name: value if name == "name" else float(value) for name, value in match.groupdict().items()}
        for match in found
    ]
    return {
        "threads": int(threads["threads"]),
        **{name: int(value) for name, value in head.groupdict().items()},
        "rows": rows,
    }
