"""What a run leaves beside its measurements: by what, when and on what it was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from faceexpr import __version__
from faceexpr.cli.parser import read_config
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file

RECORD = "run.json"


@dataclass
class Record:
    """One run.

    Attributes:
        experiment: its name.
        seed: of the training.
        command: that made it, as it can be given in the folder of the runs.
        digest: of the configuration that it was started with.
        hardware: what it ran on.
        version: of this package.
        minutes: that each of its steps has taken, all attempts together.
        done: names of the steps that are over.
        failed: why the last attempt has ended; None where it has not.
    """

    experiment: str
    seed: int
    command: str
    digest: str
    hardware: str
    version: str = __version__
    minutes: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    failed: str | None = None

    @property
    def trained(self) -> bool:
        """Whether the training, or the whole grid of them, is over."""
        return "fit" in self.done or "sweep" in self.done

    def add(self, step: str, seconds: float) -> None:
        """Add what an attempt at a step has taken."""
        self.minutes[step] = round(self.minutes.get(step, 0.0) + seconds / 60, 2)

    def write(self, folder: Path) -> None:
        """Write ``run.json``."""
        write_file(folder / RECORD, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> Record | None:
    """Return the record of a run folder; None where it has none.

    Raises:
        FaceExprError: the file is not a record.
    """
    path = folder / RECORD
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{each.name: content[each.name] for each in fields(Record)})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FaceExprError(
            f"{path} is not the record of a run ({type(error).__name__}); expected one that faceexpr paper has "
            "written, or none, and the run begins anew"
        ) from error


def digest(files: Sequence[Path]) -> str:
    """Return a digest of what configuration files say; comments and the order of options do not count.

    Raises:
        FaceExprError: a file is missing or does not hold options.
    """
    contents = []
    for path in files:
        if not path.is_file():
            raise FaceExprError(f"{path} does not exist; expected the configurations of a clone of the project")
        contents.append(read_config(path))
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()[:16]


def hardware() -> str:
    """Return the name of the processor, the number of its cores that may be used, and the GPU where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    used = min(int(threads), cores) if threads.isdigit() and int(threads) else cores
    said = f"{processor()}, {used} core{'s' if used != 1 else ''}"
    gpu = gpu_name()
    return said if gpu is None else f"{said}, {gpu}"


def processor() -> str:
    """Return the name of the processor."""
    name = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return name


def gpu_name() -> str | None:
    """Return the name of the GPU; None where there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
