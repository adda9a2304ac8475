r"""How much work is it to start a command, beside the import of torch in the same run?

    python benchmarks/start.py [--image photo.jpg] [--rounds 5] [--only '[fit, analyze]']

Each command is run in a process of its own, in turns, and what counts is the time that the processor has worked for it
(user and system), which other work on the machine hardly changes; the whole of it, from Python's own start on. With an
image of yours that is analysed; by default a drawn one is, so that reading, finding and classifying are in the figure.

Prints the median CPU seconds of each, and the median of its ratio to ``import torch`` in the same round: far below 1
torch is not imported, and what is above 1 is what the command does beside.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jsonargparse import auto_cli
from PIL import Image

from faceexpr.data.synthetic.drawing import draw_scene

PEER = "import torch"
HELP = ("merge", "compare", "runs", "fetch", "annotate", "analyze", "serve", "export", "sweep", "audit", "fit")
CODES = (PEER, "import numpy", "import lightning.pytorch", "from faceexpr import FacePipeline; FacePipeline()")


def cpu_seconds(arguments: list[str]) -> float:
    """Return the CPU seconds of a Python with these arguments."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(image: Path | None = None, rounds: int = 5, only: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        image: a photograph to analyse; a drawn one by default.
        rounds: how often each command is run.
        only: verbs that are run; all by default.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with TemporaryDirectory() as folder:
        if image is None:
            image = Path(folder, "drawn.png")
            Image.fromarray(draw_scene(np.random.default_rng(0), 640, 480, 3)[0]).save(image)
        commands = {code: ["-c", code] for code in CODES}
        commands |= {f"{verb} --help": ["-m", "faceexpr", verb, "--help"] for verb in HELP}
        commands["analyze"] = ["-m", "faceexpr", "analyze", str(image), "--device", "cpu", "--out"]
        if only is not None:
            commands = {name: line for name, line in commands.items() if name in CODES or name.split()[0] in only}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):  # the first one reads the files, and compiles what is not yet
            for name, line in commands.items():
                out = [str(Path(folder, str(number)))] if name == "analyze" else []
                seconds[name].append(cpu_seconds([*line, *out]))
    for name, found in seconds.items():
        ratio = statistics.median(own / torch for own, torch in zip(found[1:], seconds[PEER][1:], strict=True))
        print(f"{name:55} {statistics.median(found[1:]):6.2f} s  {ratio:5.2f} times {PEER}")


if __name__ == "__main__":
    auto_cli(main)
