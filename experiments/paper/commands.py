"""The next command line of an experiment, told from what its run folder holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.paper.experiments import Experiment
from experiments.paper.record import Record

RUNS = Path("lightning_logs/paper")
"""Folder of the runs in --out, and of the reference runs in the project."""

TEST = "test"
"""Folder in that of a run: the measurement of its best checkpoint on the test split."""

SYSTEM = Path("two_step/seed_0")
"""Folder of the two-step system in that of the runs."""

BEFORE = "_before"
"""Ending of the folder of an analysis that keeps all boxes of a face."""

EXAMPLES = Path("examples")
"""Folder in --out with pictures that may be shown to everybody."""

WIDER_TRAIN = "data/wider/wider_face_split/wider_face_train_bbx_gt.txt"
WIDER_VAL = "data/wider/wider_face_split/wider_face_val_bbx_gt.txt"


@dataclass(frozen=True)
class Step:
    """A command line, given in the folder --out, where ``data`` and ``configs`` lead to the data and the project's.

    Attributes:
        name: ``fit``, ``sweep`` or ``test``, or one of its own; the record has the minutes of each.
        args: the arguments, verb included.
    """

    name: str
    args: tuple[str, ...]


def run_folder(experiment: Experiment, seed: int) -> Path:
    """Return the folder of a run, seen from --out."""
    return RUNS / experiment.name / f"seed_{seed}"


def training(experiment: Experiment, seed: int, out: Path) -> Step:
    """Return the step that trains, without what says where the run goes: the command for people."""
    configs = tuple(part for name in experiment.configs for part in ("--config", name))
    if experiment.kind == "sweep":
        grid = ("--sweep", str(experiment.sweep))
        return Step("sweep", ("sweep", *configs, *grid, *_data(experiment, out), "--seed_everything", str(seed)))
    if experiment.kind == "detectron2":
        return Step("fit", ("detectron2", "fit", *configs, *_data(experiment, out), "--seed", str(seed)))
    if experiment.kind == "two_step":
        return _steps_of_system(experiment, seed)[0]
    return Step("fit", ("fit", *configs, *_data(experiment, out), "--seed_everything", str(seed)))


def next_step(experiment: Experiment, seed: int, out: Path, record: Record) -> Step | None:
    """Return what is to be run next; None where nothing is missing.

    Args:
        experiment: one that can run.
        seed: of the run.
        out: folder of the runs.
        record: of the run so far.
    """
    folder = run_folder(experiment, seed)
    first = training(experiment, seed, out)
    if experiment.kind == "two_step":
        return next((step for step in _steps_of_system(experiment, seed) if step.name not in record.done), None)
    if experiment.kind == "sweep":
        if not record.trained:
            return Step("sweep", (*first.args, "--out", str(folder.parent), "--name", folder.name))
        trials = sorted(path.relative_to(out) for path in (out / folder).glob("trial_*"))
        untested = (trial for trial in trials if not has_metrics(out / trial / TEST, "test"))
        return next((_test(experiment, trial) for trial in untested), None)
    if not record.trained:
        if experiment.kind == "detectron2":
            where = ("--save_dir", str(folder.parent), "--name", folder.name, "--version", "0")
            resumed = ("--resume", str(folder / "version_0")) if (out / folder / "version_0").is_dir() else ()
            return Step("fit", (*first.args, *where, *resumed))
        return Step("fit", (*first.args, *_logged(folder.parent, folder.name), "--ckpt_path", "last"))
    # Detectron2's verb measures into the folder of the run.
    tested = folder / ("version_0" if experiment.kind == "detectron2" else TEST)
    return None if has_metrics(out / tested, "test") else _test(experiment, folder)


def has_metrics(folder: Path, stage: str) -> bool:
    """Tell whether a folder holds the measurements of a split."""
    try:
        return stage in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def analysis(experiment: Experiment, seed: int, pictures: str, name: str) -> Step:
    """Return the two-step system over pictures."""
    models = (
        "--detector", str(RUNS / experiment.detector / "seed_0"),
        "--classifier", str(RUNS / experiment.classifier / "seed_0"),
    )  # fmt: skip
    return Step(name, ("analyze", pictures, *models, "--out", str(run_folder(experiment, seed) / name)))


def _steps_of_system(experiment: Experiment, seed: int) -> list[Step]:
    photographs = analysis(experiment, seed, "data/wider/WIDER_val/images", "photographs")
    shown = analysis(experiment, seed, str(EXAMPLES / "pictures"), "examples")
    model = ("--ckpt_path", str(RUNS / experiment.classifier / "seed_0"))
    data = ("--data", "FaceImages", "--data.paths", f"[{EXAMPLES / 'faces'}]")
    return [
        Step(photographs.name, (*photographs.args, "--pictures", "true")),
        _before(photographs),
        shown,
        _before(shown),
        Step("drawn", ("predict", *model, *data, *_logged(run_folder(experiment, seed), "drawn"))),
    ]


def _before(step: Step) -> Step:
    """Return an analysis that keeps all boxes of a face, as they are before suppression."""
    *args, out = step.args
    return Step(step.name + BEFORE, (*args, out + BEFORE, "--suppression", "none"))


def _test(experiment: Experiment, trained: Path) -> Step:
    if experiment.kind == "detectron2":
        run = str(trained / "version_0")
        return Step("test", ("detectron2", "test", "--ckpt_path", run, "--data.test", WIDER_VAL))
    data = ("--data.test", WIDER_VAL) if experiment.data == "wider" else ()
    return Step("test", ("test", "--ckpt_path", str(trained), *data, *_logged(trained, TEST)))


def _logged(folder: Path, name: str) -> tuple[str, ...]:
    logger = "--trainer.logger"
    return (
        logger, "TensorBoardLogger", f"{logger}.save_dir", str(folder), f"{logger}.name", "", f"{logger}.version", name,
    )  # fmt: skip


def _data(experiment: Experiment, out: Path) -> tuple[str, ...]:
    if experiment.data == "wider":
        return ("--data.train", WIDER_TRAIN)
    if experiment.data == "ferplus":
        # The votes fit the file's original order of rows only; where --data has one in that order, it is in ferplus/.
        folder = "ferplus" if (out / "data/ferplus").is_dir() else "fer2013"
        return ("--data.path", f"data/{folder}", "--data.votes", f"data/{folder}")
    return ("--data.path", "data/fer2013")
