"""Run what is missing of the experiments, one after the other."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from experiments.paper.able import missing_data, obstacle
from experiments.paper.commands import EXAMPLES, Step, has_metrics, next_step, run_folder, training
from experiments.paper.events import minutes
from experiments.paper.examples import write_examples
from experiments.paper.experiments import Experiment
from experiments.paper.process import launch
from experiments.paper.record import RECORD, Record, digest, hardware, read_record
from faceexpr.sweep.ended import failure
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, FaceExprError
from faceexpr.utils.files import lock, say
from faceexpr.utils.termination import Terminated, Termination

LOG = "log.txt"
LOCK = ".paper.lock"
REPLACED = "replaced"
"""Folder beside those of an experiment's runs: what was made with another configuration."""


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
            SystemExit: Ctrl-C or SIGTERM.
        """
        write_examples(self.out / EXAMPLES)
        with self._alone(), Termination():
            try:
                self._all([(one, seed) for one in experiments for seed in self.seeds or one.seeds])
            except (KeyboardInterrupt, Terminated) as stop:
                say("interrupted; the same command goes on")
                raise SystemExit(PREEMPTED if isinstance(stop, Terminated) else INTERRUPTED) from None
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
        if code == PREEMPTED:  # the other process got SIGTERM as well
            raise Terminated
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
