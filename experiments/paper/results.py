"""The stored results of the experiments: what was measured, by which settings, in how long."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.paper.commands import TEST
from experiments.paper.experiments import EXPERIMENTS, Experiment
from experiments.paper.facts import FACTS
from experiments.paper.record import RECORD, Record, read_record
from faceexpr.cli.parser import read_config
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import some

Settings = dict[str, Any]

CHOSEN: dict[str, Settings] = {
    "knn": {"representation": "RawPixels", "p": 1, "k": 3},
    "mlp": {"net.activation": "relu"},
}
"""Of the grids, the settings that the paper chooses for its Table 5."""


CLASSIFIERS = {
    "n", "accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "class_names", "per_class",
    "confusion_matrix",
}  # fmt: skip
"""Measurements of a classifier that the page needs."""

DETECTORS = {"ap50", "ap", "recall"}
"""Likewise of a detector."""


@dataclass(frozen=True)
class Run:
    """One training with its test, or one trial of a grid.

    Attributes:
        folder: of the run.
        experiment: its name.
        seed: of the training.
        record: how it was made; of a trial, how the grid was.
        minutes: of training and test; of a trial, of its training.
        config: what ran.
        val: measurements on the validation split, of the best epoch; empty where there are none.
        test: measurements on the test split; empty where there are none.
    """

    folder: Path
    experiment: str
    seed: int
    record: Record
    minutes: float
    config: dict[str, Any]
    val: dict[str, Any]
    test: dict[str, Any]

    def setting(self, name: str) -> Any:
        """Return an option of the model by its dotted name; of a class its name, and None where it is the default."""
        value: Any = self.config.get("model")
        for key in name.split("."):
            inner = value.get("init_args", {}) if isinstance(value, dict) and "class_path" in value else value
            value = inner.get(key) if isinstance(inner, dict) else None
        return value["class_path"].rpartition(".")[2] if isinstance(value, dict) and "class_path" in value else value

    def fits(self, settings: Settings) -> bool:
        """Tell whether the run has these settings."""
        return all(self.setting(name) == value for name, value in settings.items())


@dataclass(frozen=True)
class Results:
    """All stored runs.

    Attributes:
        folder: that they are in.
        runs: in the order of the experiments, and of seeds and trials.
        facts: about the data, see `experiments.paper.facts`.
    """

    folder: Path
    runs: tuple[Run, ...]
    facts: dict[str, Any]

    def of(self, experiment: str, settings: Settings | None = None) -> list[Run]:
        """Return the tested runs of an experiment, one for each seed, or those of a grid with some settings."""
        return [
            run for run in self.runs if run.experiment == experiment and run.test and run.fits(settings or {})
        ]  # fmt: skip

    def first(self, experiment: str, settings: Settings | None = None) -> Run | None:
        """Return the run with the first seed."""
        return next(iter(self.of(experiment, settings)), None)


def read_results(folder: Path) -> Results:
    """Read every stored run.

    Args:
        folder: of the runs, such as ``lightning_logs/paper``.

    Raises:
        FaceExprError: a file of a run is damaged.
    """
    runs = [run for one in EXPERIMENTS for run in _of_experiment(folder, one)]
    return Results(folder, tuple(runs), _json(folder / FACTS))


def is_compared(experiment: Experiment, folder: Path) -> bool:
    """Tell whether the predictions of a run folder are kept: those of Table 5 and their relatives, first seed."""
    if not experiment.compared or "seed_0" not in folder.parts:
        return False
    return _run(folder, experiment, _NOBODY, 0.0).fits(CHOSEN.get(experiment.name, {}))


_NOBODY = Record("", 0, "", "", "")


def _of_experiment(folder: Path, experiment: Experiment) -> list[Run]:
    found = []
    for path in sorted((folder / experiment.name).glob(f"seed_*/{RECORD}")):
        record = read_record(path.parent)
        assert record is not None
        if experiment.kind == "sweep":
            for name, minutes in _trial_minutes(path.parent).items():
                found.append(_run(path.parent / name, experiment, record, minutes))
        else:
            found.append(_run(path.parent, experiment, record, sum(record.minutes.values())))
    return found


def _run(folder: Path, experiment: Experiment, record: Record, minutes: float) -> Run:
    own = folder / "version_0" if (folder / "version_0").is_dir() else folder  # as Detectron2's verb makes it
    config = read_config(own / "config.yaml")
    measured = _json(own / "metrics.json")
    file = folder / TEST / "metrics.json"
    file = file if file.is_file() else own / "metrics.json"
    val, test = measured.get("val", {}), _json(file).get("test", {})
    if test:
        detects = experiment.data == "wider"
        _has(file, "test", test, DETECTORS if detects else CLASSIFIERS)
        _has(own / "metrics.json", "val", val, DETECTORS if detects else {"accuracy"})
    return Run(folder, experiment.name, record.seed, record, minutes, config, val, test)


def _has(file: Path, stage: str, values: dict[str, Any], needed: set[str]) -> None:
    if missing := sorted(needed - values.keys()):
        raise FaceExprError(
            f"{file} is damaged: {stage} has no {some(missing)}; expected the measurements that faceexpr writes"
        )


def _trial_minutes(folder: Path) -> dict[str, float]:
    table = folder / "table.csv"
    if not table.is_file():
        return {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return {row["trial"]: float(row["seconds"] or 0) / 60 for row in csv.DictReader(file)}
    except (KeyError, ValueError, csv.Error) as error:
        raise FaceExprError(
            f"{table} is damaged ({error}); expected a table as faceexpr sweep has written it"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FaceExprError(f"{path} is damaged ({error}); expected JSON as faceexpr has written it") from error
    if not (isinstance(content, dict) and all(isinstance(value, dict) for value in content.values())):
        raise FaceExprError(f"{path} is damaged (it has no table of values); expected JSON as faceexpr has written it")
    return content
