"""What runs leave: their records and results, facts about the data, and the small copies kept in the project."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from experiments.paper.dataset1 import BOXES, FOLDS, measure
from experiments.paper.experiments import (
    DATASET_1,
    DATASET_1_IMAGES,
    EXPERIMENTS,
    RUNS,
    START,
    SYSTEM,
    TEST,
    WIDER_TRAIN,
    WIDER_VAL,
    Experiment,
    run_folder,
)
from faceexpr import __version__
from faceexpr.boxes.matching import Truth
from faceexpr.cli.parser import read_config
from faceexpr.data.annotations.reading import ReadOptions, read_annotations, read_document
from faceexpr.data.base import Stage
from faceexpr.data.fer2013 import FER2013
from faceexpr.data.ferplus import USUAL_AGREEMENT, FERPlus
from faceexpr.data.loading import FaceSplit
from faceexpr.metrics.predictions import read_samples
from faceexpr.pipeline.records import RECORDS, read_records
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.labels import FER_NAMES
from faceexpr.utils.text import some

RECORD = "experiment.json"


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
        """Write ``experiment.json``."""
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
            f"{path} is not the record of a run ({type(error).__name__}); expected one that an experiment has "
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


PATTERN = "events.out.tfevents.*"

Curve = list[tuple[int, float]]
"""Steps and values, in order."""


def curves(folder: Path, tags: Sequence[str]) -> dict[str, Curve]:
    """Return scalars of a run folder by tag; a training that was resumed has several event files.

    Args:
        folder: of the run.
        tags: their names; one that the run has not is left out.
    """
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob(PATTERN)):
        for event in events(path):
            for value in event.summary.value:
                if value.tag in tags and value.WhichOneof("value") == "simple_value":
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return {tag: sorted(found[tag].items()) for tag in tags if tag in found}


def minutes(folder: Path) -> float:
    """Return for how long a training wrote to TensorBoard, all attempts together, in minutes.

    Args:
        folder: of the run.
    """
    seconds = 0.0
    for path in folder.glob(PATTERN):
        times = [event.wall_time for event in events(path)]
        seconds += max(times, default=0.0) - min(times, default=0.0)
    return seconds / 60


def copy_small(source: Path, target: Path) -> None:
    """Copy an event file but for its images, and the number of the epoch that Lightning writes beside every value.

    All other scalars, texts and hyper-parameters stay as they are.

    Args:
        source: the event file.
        target: the copy; it is replaced.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events(source):
        values = [
            value for value in event.summary.value if value.WhichOneof("value") != "image" and value.tag != "epoch"
        ]  # fmt: skip
        if event.WhichOneof("what") == "summary" and len(values) < len(event.summary.value):
            if not values:
                continue
            del event.summary.value[:]
            event.summary.value.extend(values)
        writer.write(event.SerializeToString())
    write_file(target, content.getvalue())


def events(path: Path) -> Iterator[Any]:
    """Yield the events of a file, plain values as they were written."""
    # The newer loader would turn plain values into tensors.
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    yield from LegacyEventFileLoader(str(path)).Load()


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
        facts: about the data, see `experiments.paper.runs`.
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
    # Detectron2's verb measures into a further version.
    files = [folder / TEST / "metrics.json", own / "metrics.json", *sorted(folder.glob("version_*/metrics.json"))]
    file = next((file for file in files if "test" in _json(file)), files[0])
    val, test = measured.get("val", {}), _json(file).get("test", {})
    if test:
        detects = experiment.data in ("wider", "dataset1")
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


FACTS = "facts.json"
SPLITS: tuple[Stage, ...] = ("train", "val", "test")


def write_facts(out: Path) -> None:
    """Count what can be counted and put it into ``facts.json``; what cannot stays as it was.

    Args:
        out: folder of the runs, with the link ``data``.
    """
    path = out / RUNS / FACTS
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    counts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "fer2013": _fer2013, "ferplus": _ferplus, "wider": _wider, "dataturks": _dataturks, "dataset1": _dataset1,
        "two_step": _two_step,
    }  # fmt: skip
    for name, count in counts.items():
        try:
            facts[name] = count(out)
        except (FaceExprError, FileNotFoundError) as error:
            say(f"nothing is counted of {name}: {error}")
    write_file(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def expression_data(out: Path) -> FER2013:
    """Return FER-2013 from the data of the runs."""
    return FER2013(str(out / "data/fer2013"))


def ferplus_data(out: Path) -> FERPlus:
    """Return FER+ from the data of the runs; see `experiments.paper.experiments`."""
    folder = out / "data/ferplus"
    folder = folder if folder.is_dir() else out / "data/fer2013"
    return FERPlus(str(folder), str(folder))


def labels(split: FaceSplit) -> list[int]:
    """Return the class of each face: of a distribution, its most probable one."""
    assert split.targets is not None
    found: list[int] = (split.targets.argmax(dim=1) if split.targets.ndim == 2 else split.targets).tolist()
    return found


def _fer2013(out: Path) -> dict[str, Any]:
    data = expression_data(out)
    counts = {stage: Counter(labels(data.split(stage))) for stage in SPLITS}
    leaked = {stage: data.leaked(stage) for stage in ("val", "test")}
    return {
        "classes": {stage: [counts[stage][index] for index in range(len(FER_NAMES))] for stage in SPLITS},
        "leaked": {stage: 0 if rows is None else int(rows.sum()) for stage, rows in leaked.items()},
    }


def _ferplus(out: Path) -> dict[str, Any]:
    before, now = both_labels(out)
    moved = np.zeros((len(FER_NAMES), len(FER_NAMES)), dtype=np.int64)
    np.add.at(moved, (before, now), 1)
    return {"labels": moved.tolist(), "without": len(FER2013(ferplus_data(out).path).split("test")) - len(now)}


def both_labels(out: Path) -> tuple[list[int], list[int]]:
    """Return the labels of FER-2013 and of FER+ of the test images that have both, in the order of FER+'s split.

    Raises:
        FaceExprError: they agree so seldom that the votes must be about other images.
    """
    both = ferplus_data(out)
    before, now = FER2013(both.path).split("test"), both.split("test")
    known = dict(zip(before.sources, labels(before), strict=True))
    old, new = [known[source] for source in now.sources], labels(now)
    share = float(np.mean(np.equal(old, new)))
    if share < USUAL_AGREEMENT * 3 / 4:
        raise FaceExprError(
            f"the labels and the votes in {both.path} agree on {share:.0%} of the images, where {USUAL_AGREEMENT:.0%} "
            "is usual; expected the images in their original order, in ferplus/ with the votes where fer2013/ has "
            "another"
        )
    return old, new


def _wider(out: Path) -> dict[str, Any]:
    found = {stage: read_annotations(out / name).images for stage, name in (("train", WIDER_TRAIN), ("val", WIDER_VAL))}
    return {
        stage: {"images": len(images), "faces": sum(len(image.boxes) for image in images)}
        for stage, images in found.items()
    }


def _dataturks(out: Path) -> dict[str, Any]:
    entries = read_document(out / DATASET_1).entries
    return {"images": len(entries), "faces": sum(len(entry.faces) for entry in entries)}


def _dataset1(out: Path) -> dict[str, Any]:
    """Count Dataset 1's images that are there, and measure what was found in them with intervals."""
    read = read_annotations(out / DATASET_1, out / DATASET_1_IMAGES, options=ReadOptions(missing="leave_out")).images
    truths = {image.path.name: Truth(image.boxes, image.ignored) for image in read}
    runs: dict[str, Any] = {}
    for one in (one for one in EXPERIMENTS if one.data == "dataset1"):
        for part in (TEST, START) if one.start else (TEST,):
            folder = "version_[1-9]*" if one.kind == "detectron2" else part
            found = [sorted((out / run_folder(one, seed)).glob(f"{folder}/{BOXES}"))[:1] for seed in range(FOLDS)]
            if found[0]:
                runs.setdefault(one.name, {})[part] = measure(found[0], truths)
                folds = [file for files in found for file in files]
                if len(folds) > 1:
                    runs[one.name][f"{part}_folds"] = measure(folds, truths)
    return {"images": len(read), "faces": sum(len(image.boxes) for image in read), "runs": runs}


def _two_step(out: Path) -> dict[str, Any]:
    records = list(read_records(out / RUNS / SYSTEM / "photographs" / RECORDS))
    if not records:
        raise FaceExprError("the two-step system has not run yet")
    faces = [face for record in records for face in record["faces"]]
    expressions = Counter(face["expression"] for face in faces)
    return {
        "images": len(records),
        "failed": sum(record["status"] != "ok" for record in records),
        "faces": len(faces),
        "expressions": dict(sorted(expressions.items())),
    }


def unleaked_accuracy(path: Path) -> tuple[float, int] | None:
    """Return the accuracy of stored predictions without the leaked images, and how many these are.

    None where there is no such file, nobody has looked for leaked images, or there are none.

    Raises:
        FaceExprError: the file is another one or damaged.
    """
    samples = read_samples(path) if path.is_file() else None
    if samples is None or samples.leaked is None or not samples.leaked.any():
        return None
    return float(np.mean((samples.predicted == samples.labels)[~samples.leaked])), int(samples.leaked.sum())
