"""Which of several processes this one is, which images it takes, and where its part of the results lies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from faceexpr.pipeline.records import RECORDS
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import lock

PARTS = "parts"
_PART = re.compile(r"(\d+)-of-(\d+)")

# What a launcher tells its processes: the index, their number, and the index on the machine. A step of SLURM has a
# number of its own, which may be smaller than that of the job.
_LAUNCHERS = (
    ("RANK", ("WORLD_SIZE",), "LOCAL_RANK"),
    ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Shard:
    """One of several processes that share an analysis.

    Attributes:
        index: from 0.
        count: how many there are.
        local: index among those of the machine, from 0, by which it takes its GPU.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def takes(self, position: int) -> bool:
        """Tell whether the image at this position, from 0, of the list of all is analysed by this process.

        Images are dealt in rounds, each of which begins one process later: what one process has left undone is then
        spread evenly over the processes of another number.
        """
        return (position + position // self.count) % self.count == self.index


def find_shard(option: str | None, environment: Mapping[str, str]) -> Shard:
    """Return which process this is; the only one where nothing says otherwise.

    Args:
        option: ``INDEX/COUNT``, which goes before what the environment says.
        environment: the variables of ``torchrun`` or of SLURM.

    Raises:
        FaceExprError: one of them makes no sense.
    """
    told = [
        (index, next((name for name in counts if name in environment), ""), local)
        for index, counts, local in _LAUNCHERS
        if index in environment
    ]
    launcher = next(((index, count, local) for index, count, local in told if count), None)
    local = max(0, _whole(environment.get(launcher[2], ""))) if launcher else 0
    if option is not None:
        index, slash, count = option.partition("/")
        if not slash:
            raise FaceExprError(f"--shard is {option}; expected INDEX/COUNT with INDEX from 0, such as 3/16")
        return _checked(f"--shard is {option}", index, count, local)
    if launcher is None:
        return Shard()
    index, count = environment[launcher[0]], environment[launcher[1]]
    return _checked(f"{launcher[0]} is {index} and {launcher[1]} {count}", index, count, local)


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else -1


def _checked(given: str, index: str, count: str, local: int) -> Shard:
    place, of = _whole(index), _whole(count)
    if not 0 <= place < of:
        raise FaceExprError(f"{given}; expected an index from 0 to one less than the number of processes")
    return Shard(place, of, local)


def part_folder(out: Path, shard: Shard) -> Path:
    """Return the folder into which a process writes its records."""
    return out / PARTS / str(shard)


def part_folders(out: Path) -> list[Path]:
    """Return the folders of all parts that there are, of whatever number of processes, in an order of their own."""
    if not (out / PARTS).is_dir():
        return []
    numbered = [(match, path) for path in (out / PARTS).iterdir() if (match := _PART.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, key=lambda item: (int(item[0][2]), int(item[0][1])))]


def record_files(out: Path) -> list[Path]:
    """Return the files that hold records, the merged one first."""
    return [path for folder in (out, *part_folders(out)) if (path := folder / RECORDS).is_file()]


def is_written(records: Path) -> bool:
    """Tell whether a process is writing to a file of records."""
    try:
        with records.open("rb") as file:
            return not lock(file, shared=True)
    except FileNotFoundError:
        return False


def refuse_others(out: Path, shard: Shard | None) -> None:
    """Make sure that nobody writes who shares the images out in another way, and would do some of ours again.

    Args:
        out: folder of the results.
        shard: ours; None where this process writes no part.

    Raises:
        FaceExprError: somebody does.
    """
    for records in record_files(out):
        ours = records.parent.name.endswith(f"-of-{shard.count}") if shard else records.parent == out
        if not ours and is_written(records):
            raise FaceExprError(
                f"--out: another analysis, which shares the images out in another way, is writing to {records.parent}; "
                "expected its end to be waited for, or another folder"
            )
