"""The reference runs: what of each run is kept in the project, small and without images of the data sets.

Kept are the record, ``config.yaml``, ``metrics.json``, the table of a sweep, the event files with their scalars, texts
and hyper-parameters but without images, and the predictions of the test samples of the runs that are compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.paper.experiments import ALL_BOXES, BEFORE, RUNS, START, TEST, Experiment, run_folder
from experiments.paper.runner import next_step
from experiments.paper.runs import FACTS, PATTERN, RECORD, copy_small, is_compared, read_record
from faceexpr.metrics.predictions import file_name
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file

LIMIT = 3_000_000
"""Bytes of all reference runs together."""


KEPT = (RECORD, "config.yaml", "metrics.json", "table.csv", "faces.jsonl", "predictions.csv")


TESTS = (TEST, START, ALL_BOXES)
"""Folders of tests in that of a run."""

UNNEEDED = {
    *((folder, "config.yaml") for folder in TESTS),
    ("photographs", "faces.jsonl"),
    (f"photographs{BEFORE}", "faces.jsonl"),
}
"""Folders and files: what the test of a run repeats, and faces in pictures of a data set, which are counted."""


def keep(out: Path, project: Path, experiments: tuple[Experiment, ...]) -> list[str]:
    """Copy the reference files of finished runs into the project, in the place of those of an earlier time.

    Args:
        out: folder of the runs.
        project: the clone.
        experiments: whose runs are looked at.

    Returns:
        Names of the runs that were copied.

    Raises:
        FaceExprError: they are larger than reference runs may be.
    """
    copied = []
    for experiment in experiments:
        for folder in sorted((out / run_folder(experiment, 0)).parent.glob("seed_*")):
            record = read_record(folder)
            if record is None or next_step(experiment, record.seed, out, record) is not None:
                continue
            target = project / RUNS / experiment.name / folder.name
            if target.exists():
                shutil.rmtree(target)
            for file in _kept(folder, experiment):
                _copy(file, target / file.relative_to(folder))
            copied.append(f"{experiment.name}/{folder.name}")
    if (out / RUNS / FACTS).is_file():
        # Facts that another folder of runs has left stay, also those of each run on Dataset 1.
        files = [folder / RUNS / FACTS for folder in (project, out)]
        old, new = (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in files)
        facts, runs = old | new, [one.get("dataset1", {}).get("runs", {}) for one in (old, new)]
        if any(runs):
            facts["dataset1"]["runs"] = runs[0] | runs[1]
        write_file(files[0], json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    size = sum(path.stat().st_size for path in (project / RUNS).rglob("*") if path.is_file())
    if size > LIMIT:
        raise FaceExprError(
            f"the reference runs in {project / RUNS} have {size:,} bytes; expected at most {LIMIT:,}: remove some"
        )
    return copied


def _kept(folder: Path, experiment: Experiment) -> Iterator[Path]:
    """Yield the files of a run folder that are kept."""
    for path in sorted(folder.rglob("*")):
        trained = path.parent.parent if path.parent.name == TEST else path.parent
        if path.name == file_name("test"):
            if is_compared(experiment, trained):
                yield path
        elif path.match(PATTERN):
            # That of a test has nothing that its metrics.json has not, and that of predictions nothing at all.
            if path.parent.name not in TESTS and (path.parent / "metrics.json").is_file():
                yield path
        elif path.name in KEPT and (path.parent.name, path.name) not in UNNEEDED:
            yield path


def _copy(source: Path, target: Path) -> None:
    if source.match(PATTERN):
        copy_small(source, target)
    else:
        write_file(target, source.read_bytes())
