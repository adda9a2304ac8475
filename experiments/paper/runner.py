"""Run what is missing of the experiments, one after the other."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from experiments.paper.experiments import (
    DATASET_1,
    DATASET_1_IMAGES,
    EXAMPLES,
    RUNS,
    TEST,
    WIDER_MORE,
    WIDER_TRAIN,
    WIDER_VAL,
    Experiment,
    Step,
    logged_to,
    measuring,
    measuring_more,
    run_folder,
    steps_of_system,
    training,
)
from experiments.paper.figures import write_examples
from experiments.paper.runs import RECORD, Record, digest, gpu_name, hardware, minutes, read_record
from faceexpr.sweep.trial import failure
from faceexpr.utils.errors import INTERRUPTED, FaceExprError
from faceexpr.utils.files import say

LOG = "log.txt"
LOCK = ".paper.lock"
REPLACED = "replaced"
"""Folder beside those of an experiment's runs: what was made with another configuration."""


def lock(file: IO[Any]) -> bool:
    """Keep an open file for this process until it is closed; nothing is done where the system has no such locks.

    Returns:
        False where another process keeps it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some file systems of a network
        return True
    return True


def launch(args: Sequence[str], folder: Path, log: Path, kept_open: IO[Any]) -> int:
    """Run a command line of ``faceexpr`` in a process of its own, and return its exit code.

    Args:
        args: the arguments, verb included.
        folder: where it runs.
        log: file to which its output is added.
        kept_open: the locked file; the process inherits it, so that the folder stays locked while it runs.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.run(
            [sys.executable, "-m", "faceexpr", *args], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            cwd=folder, pass_fds=(kept_open.fileno(),), check=False,
        ).returncode  # fmt: skip


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
        return next((step for step in steps_of_system(experiment, seed) if step.name not in record.done), None)
    if experiment.kind == "sweep":
        if not record.trained:
            return Step("sweep", (*first.args, "--out", str(folder.parent), "--name", folder.name))
        trials = sorted(path.relative_to(out) for path in (out / folder).glob("trial_*"))
        untested = (trial for trial in trials if not has_metrics(out / trial / TEST, "test"))
        return next((measuring(experiment, trial) for trial in untested), None)
    if not record.trained:
        if experiment.kind == "detectron2":
            where = ("--save_dir", str(folder.parent), "--name", folder.name, "--version", "0")
            resumed = ("--resume", str(folder / "version_0")) if (out / folder / "version_0").is_dir() else ()
            return Step("fit", (*first.args, *where, *resumed))
        return Step("fit", (*first.args, *logged_to(folder.parent, folder.name), "--ckpt_path", "last"))
    # Detectron2's verb measures into a further version of the run.
    tested = (out / folder).glob("version_*") if experiment.kind == "detectron2" else [out / folder / TEST]
    if not any(has_metrics(one, "test") for one in tested):
        return measuring(experiment, folder)
    more = measuring_more(experiment, seed, folder, out)
    return next((step for step in more if not has_metrics(out / folder / step.name, "test")), None)


def has_metrics(folder: Path, stage: str) -> bool:
    """Tell whether a folder holds the measurements of a split."""
    try:
        return stage in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def obstacle(experiment: Experiment, out: Path, asked_for: bool) -> str | None:
    """Return in one sentence why an experiment cannot run; None where it can.

    Args:
        experiment: any.
        out: folder of the runs, with the link ``data``.
        asked_for: it was named, and is run without a GPU too, however long that takes.
    """
    missing = missing_data(experiment, out)
    if missing is not None:
        return missing
    if experiment.gpu and not asked_for and gpu_name() is None:
        return f"it takes days without a GPU, and there is none; --only {experiment.name} runs it all the same"
    if experiment.kind == "detectron2":
        from faceexpr.detectron2.detectron2_options import require_detectron2

        try:
            require_detectron2()
        except FaceExprError as error:
            return str(error)
    parts = [RUNS / part / "seed_0" for part in (experiment.detector, experiment.classifier) if part]
    parts += [Path(experiment.start)] if RUNS in Path(experiment.start).parents else []
    for folder in parts:
        if not any((out / folder).rglob("best*.ckpt")):
            return f"it needs the checkpoint of {folder.parent.name}, which is not trained yet"
    return None


def missing_data(experiment: Experiment, out: Path) -> str | None:
    """Return in one sentence which data of an experiment are not there; None where they are.

    Args:
        experiment: any.
        out: folder of the runs, with the link ``data``.
    """
    data = out / "data"
    needed = {"wider": (WIDER_TRAIN, WIDER_VAL), "dataset1": (DATASET_1, DATASET_1_IMAGES)}.get(experiment.data, ())
    for name in (*needed, *((WIDER_MORE,) if experiment.more else ())):
        if not (out / name).exists():
            what = "WIDER FACE" if experiment.data == "wider" else "Dataset 1"
            return f"{(data.resolve() / name.removeprefix('data/'))} does not exist; expected {what} there"
    if needed:
        return None
    from faceexpr.data.fer2013 import find_file

    try:
        find_file(str(data / "fer2013"), "train")
    except FaceExprError as error:
        return str(error)
    if experiment.data == "ferplus":
        votes = ("ferplus/fer2013new.csv", "fer2013/fer2013new.csv")
        if not any((data / name).is_file() for name in votes):
            return (
                f"{data.resolve() / votes[1]} does not exist; expected FER+'s votes there, or in ferplus/ with images"
            )
        from experiments.paper.runs import both_labels

        try:
            both_labels(out)
        except FaceExprError as error:
            return str(error)
    return None


@dataclass
class Runner:
    """Runs experiments in a folder.

    Args:
        out: the folder, an absolute path.
        seeds: of all experiments; None takes each one's own.
        asked_for: names of those that are run without a GPU too, and have failed where they cannot run.
    """

    out: Path
    seeds: Sequence[int] | None
    asked_for: Sequence[str]
    lock: IO[Any] = field(init=False)
    failed: list[str] = field(init=False, default_factory=list)

    def run(self, experiments: Sequence[Experiment]) -> list[str]:
        """Run what is missing, and return the runs that have failed, or were asked for and cannot run.

        Raises:
            FaceExprError: another process runs experiments in this folder, or a configuration is missing.
            SystemExit: Ctrl-C.
        """
        write_examples(self.out / EXAMPLES)
        with self._alone():
            try:
                self._all([(one, seed) for one in experiments for seed in self.seeds or one.seeds])
            except KeyboardInterrupt:
                say("interrupted; the same command goes on")
                raise SystemExit(INTERRUPTED) from None
        return self.failed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.out / LOCK).open("a") as self.lock:
            if not lock(self.lock):
                raise FaceExprError(
                    f"--out: another process runs experiments in {self.out}; expected it to have ended, or another "
                    "folder"
                )
            yield

    def _all(self, runs: Sequence[tuple[Experiment, int]]) -> None:
        missing, told = [], set()
        for experiment, seed in runs:
            record = self._begun(experiment, seed)
            if next_step(experiment, seed, self.out, record) is not None:
                missing.append((experiment, seed))
        say(f"{len(runs) - len(missing)} of {len(runs)} runs are done")
        named = {experiment.name: experiment for experiment, _ in missing}
        able = {name for name, one in named.items() if not one.gpu and missing_data(one, self.out) is None}
        for place, (experiment, seed) in enumerate(missing):
            # Only now: the two-step system needs what was trained a moment ago.
            reason = obstacle(experiment, self.out, experiment.name in self.asked_for)
            if reason is not None:
                if experiment.name not in told:
                    say(f"{experiment.name}: cannot run here: {reason}")
                told.add(experiment.name)
                if experiment.name in self.asked_for:
                    self.failed.append(f"{experiment.name}, seed {seed}")
                continue
            rest = sum(self._minutes(other) for other, _ in missing[place:] if other.name in able)
            say(
                f"[{place + 1}/{len(missing)}] {experiment.name}, seed {seed}: about {spelt(self._minutes(experiment))}"
                f" ({spelt(rest)} for all that is missing); {self.out / run_folder(experiment, seed) / LOG}"
            )
            self._one(experiment, seed)

    def _begun(self, experiment: Experiment, seed: int) -> Record:
        """Return the record of a run so far; a run with another configuration is put aside."""
        folder = self.out / run_folder(experiment, seed)
        files = [*experiment.configs, *filter(None, [experiment.sweep])]
        now = digest([self.out / name for name in files])
        record = read_record(folder)
        if record is not None and record.digest != now:
            aside = _free(folder.parent / REPLACED, folder.name)
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
            say(f"{folder} was made with another configuration; it is moved to {aside} and run again")
            record = None
        if record is None:
            command = shlex.join(["faceexpr", *training(experiment, seed, self.out).args])
            # A training that was put there by hand, from elsewhere, is taken as it is.
            placed = has_metrics(folder, "val") and any(folder.glob("checkpoints/best*.ckpt"))
            taken = {"fit": round(minutes(folder), 2)} if placed else {}
            record = Record(experiment.name, seed, command, now, hardware(), minutes=taken, done=list(taken))
        return record

    def _one(self, experiment: Experiment, seed: int) -> None:
        folder = run_folder(experiment, seed)
        record = self._begun(experiment, seed)
        while (step := next_step(experiment, seed, self.out, record)) is not None:
            record.write(self.out / folder)
            reason = self._step(step, folder, record)
            record.done += [step.name] if reason is None and step.name not in record.done else []
            if reason is None and next_step(experiment, seed, self.out, record) == step:
                reason = "it has ended well and left no result"
            record.failed = reason
            record.write(self.out / folder)
            if reason is not None:
                say(f"{experiment.name}, seed {seed}: {step.name} failed: {reason}")
                self.failed.append(f"{experiment.name}, seed {seed}")
                return
        if not experiment.checkpoints:
            for checkpoints in (self.out / folder).rglob("checkpoints"):
                shutil.rmtree(checkpoints)
        say(f"{experiment.name}, seed {seed}: done in {spelt(sum(record.minutes.values()))}")

    def _step(self, step: Step, folder: Path, record: Record) -> str | None:
        log, start = self.out / folder / LOG, time.monotonic()
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(['faceexpr', *step.args])}\n")
        try:
            code = launch(step.args, self.out, log, self.lock)
        finally:
            record.add(step.name, time.monotonic() - start)
            record.write(self.out / folder)
        return failure(code, log) if code else None

    def _minutes(self, experiment: Experiment) -> float:
        """Return how long a run takes: as long as those of other seeds have taken, or what the experiment says."""
        stored = [
            read_record(path.parent) for path in (self.out / run_folder(experiment, 0)).parent.glob(f"*/{RECORD}")
        ]
        taken = [sum(one.minutes.values()) for one in stored if one is not None and one.done and one.minutes]
        return max(taken, default=experiment.minutes)


def spelt(minutes: float) -> str:
    """Return a duration as people write it."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _free(folder: Path, name: str) -> Path:
    number = 1
    while (path := folder / f"{name}_{number}").exists():
        number += 1
    return path
