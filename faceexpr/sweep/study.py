"""Run the trials of a sweep: checked first, agreed on through Optuna's storage, each in its own process and folder."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shlex
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import Trial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from faceexpr.cli import train as training_cli
from faceexpr.metrics.classification import HIGHER_IS_BETTER
from faceexpr.sweep.report import MEASURED, METRICS, POINT, REASON, SECONDS, Reporter, described, folder_name, read_rows
from faceexpr.sweep.space import Point, Space, flags, grid, probes, read_space, suggest
from faceexpr.sweep.trial import LOG, Report, failure, run_trial
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, SOME_FAILED, FaceExprError
from faceexpr.utils.files import say

POLL_SECONDS = 2.0
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
"""How long a trial's process may give no sign of life before another process runs the trial."""

Launch = Callable[[Sequence[str], str, Path, Report], int]


class _FailedError(Exception):
    """A trial that failed, or that is not one of the sweep: Optuna records it as failed and goes on."""


class _PreemptedError(Exception):
    """A trial that has been asked to end, as schedulers do, and is run again later."""


@dataclass(frozen=True)
class SweepOptions:
    """What is varied, how, and where to.

    Args:
        parameters: options of fit by their dotted names, each with a list of values, or with a range such as
            ``{low: 1e-4, high: 1e-1, log: true}`` or ``{low: 1, high: 9, step: 2}``.
        method: all combinations of the values (``grid``), or ``trials`` of them that Optuna chooses (``search``).
        trials: number of trials of a search.
        monitor: the metric that decides, one of the validation split (PublicTest of FER-2013).
        mode: whether the highest (``max``) or the lowest (``min``) value is the best.
        name: name of the sweep and of its folder; that of the --sweep file by default.
        out: folder in which the sweep's folder is made.
        seed: seed of a search; the seed of the trainings is that of fit, seed_everything.
        prune: stop a trial that is worse than the median of the others was after as many validations.
        prune_startup: trials that have to be complete before any is stopped.
        prune_warmup: validations of each trial before which it is not stopped.
        storage: where the trials are agreed on: a URL of a database, by which machines without a common folder share
            a sweep; a file of SQLite in the sweep's folder by default.
        retry_failed: run trials again that had failed before.
        limit: end after so many trials of this command; none runs all.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    method: Literal["grid", "search"] = "grid"
    trials: int = 20
    monitor: str = "val/accuracy"
    mode: Literal["max", "min"] = "max"
    name: str | None = None
    out: Path = Path("lightning_logs")
    seed: int = 0
    prune: bool = False
    prune_startup: int = 5
    prune_warmup: int = 0
    storage: str | None = None
    retry_failed: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("seed", 0), ("prune_startup", 0), ("prune_warmup", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise FaceExprError(f"{name} is {value}; expected {least} or more")
        if self.monitor.startswith("test/"):
            raise FaceExprError(
                f"monitor is {self.monitor}; a sweep chooses on the validation split and never sees the test split: "
                "expected a metric such as val/accuracy"
            )
        higher = HIGHER_IS_BETTER.get(self.monitor.removeprefix("val/").partition("/")[0])
        if higher is not None and higher != (self.mode == "max"):
            raise FaceExprError(
                f"monitor is {self.monitor} and mode is {self.mode}, which would choose the worst trial; expected mode "
                f"{'min' if self.mode == 'max' else 'max'}"
            )
        if self.name is not None and (not self.name or Path(self.name).name != self.name):
            raise FaceExprError(f"name is {self.name!r}; expected the name of a folder, without others around it")


def resolve(args: list[str]) -> str:
    """Return the whole configuration of a command line as YAML, without running it.

    Args:
        args: the arguments, verb included.

    Raises:
        FaceExprError: an unknown option, or a value that its option does not take.
    """
    printed = io.StringIO()
    try:
        # Notes about options that a change of class drops are in the log of each trial.
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            training_cli.run([*args, "--print_config"])
    except SystemExit as error:
        if error.code:
            raise
    return printed.getvalue()


@dataclass
class Sweep:
    """One sweep as one process sees it.

    Every trial in the storage carries the number of its point, and all of them are enqueued when the sweep starts, by
    whichever process makes the study. Optuna hands each to one process, notices by a heartbeat that a process was
    killed, and enqueues its trial again.

    Args:
        options: of the sweep; they have a name.
        fit: the arguments that every trial has.
        launch: runs one trial and returns its exit code.
    """

    options: SweepOptions
    fit: list[str]
    launch: Launch = run_trial
    space: Space = field(init=False)
    points: Sequence[Point] = field(init=False)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        self.space = read_space(options.parameters, options.method)
        # What a search draws is left open.
        self.points = grid(self.space) if options.method == "grid" else [{}] * options.trials
        self.folder = options.out / str(options.name)
        self.reporter = Reporter(self.folder, list(self.space), options.monitor, options.mode)

    def arguments(self, point: Point) -> list[str]:
        """Return the arguments of ``fit`` for a point, without those that say where the run goes."""
        monitor: Point = {"checkpoint.monitor": self.options.monitor, "checkpoint.mode": self.options.mode}
        return ["fit", *self.fit, *flags(point), *flags(monitor)]

    def run(self) -> None:
        """Run what is missing, and report.

        Raises:
            FaceExprError: options that ``fit`` does not take, or a folder that holds another sweep.
            SystemExit: some trials failed, Ctrl-C, or SIGTERM to a trial.
        """
        for point in probes(self.space):
            resolve(self.arguments(point))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            study = self.open_study()
            say(f"{self.options.method} of {len(self.points)} trials of {', '.join(self.space)} in {self.folder}")
            try:
                self._work(study)
            except (KeyboardInterrupt, _PreemptedError) as ending:
                self._finish(study)
                say("interrupted; the same command goes on")
                raise SystemExit(INTERRUPTED if isinstance(ending, KeyboardInterrupt) else PREEMPTED) from None
            if any(row.status == "failed" for row in self._finish(study)):
                raise SystemExit(SOME_FAILED)

    def open_study(self, tries: int = 5) -> Study:
        """Open the study of the sweep and enqueue the points that have no trial.

        Args:
            tries: how often to try while other processes open it for the first time.

        Raises:
            FaceExprError: there is no such storage, or it, or the folder, holds another sweep.
        """
        options, name = self.options, str(self.options.name)
        remains = sorted(self.folder.glob("trial_*"))
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"method": options.method, "monitor": options.monitor, "mode": options.mode, "seed": options.seed}
        # In order, because the order of the parameters numbers the points of a grid.
        record["parameters"] = json.dumps([[name, str(parameter)] for name, parameter in self.space.items()])
        pruner = optuna.pruners.MedianPruner(options.prune_startup, options.prune_warmup)
        try:
            storage = RDBStorage(
                options.storage or f"sqlite:///{self.folder.absolute() / 'study.db'}",
                heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )  # fmt: skip
            if storage.engine.dialect.name == "sqlite":
                # Two processes that read before either writes would take the same trial.
                event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
            known = name in optuna.get_all_study_names(storage)
            study = optuna.create_study(
                storage=storage, study_name=name, load_if_exists=known, pruner=pruner,
                direction="maximize" if options.mode == "max" else "minimize",
            )  # fmt: skip
        except Exception as error:  # each database driver raises its own; the URL may hold a password
            # Another process was faster: with the study, or with the tables of a new database.
            if tries > 1 and isinstance(error, optuna.exceptions.DuplicatedStudyError | IntegrityError):
                time.sleep(POLL_SECONDS)
                return self.open_study(tries - 1)
            raise FaceExprError(
                f"storage: the study cannot be opened ({type(error).__name__}: {' '.join(str(error).split())}); "
                "expected a URL of a database, such as sqlite:///sweep.db"
            ) from error
        if not known:
            if remains:
                optuna.delete_study(study_name=name, storage=storage)
                raise FaceExprError(
                    f"{self.folder} holds {remains[0].name} but no record of its sweep; give another name, or move "
                    "the folder away"
                )
            study.set_user_attr("sweep", record)
            study.set_user_attr("fit", self.fit)
        elif (before := study.user_attrs.get("sweep", record)) != record:
            changed = ", ".join(key for key in record if before.get(key) != record[key])
            raise FaceExprError(
                f"{self.folder} holds another sweep, which differs in {changed}; expected the same sweep, to go on "
                "with it, or another name"
            )
        elif (fit := study.user_attrs.get("fit", self.fit)) != self.fit:
            say(f"warning: the trials of this sweep began with other options of fit: {shlex.join(fit)}")
        trials = study.get_trials(deepcopy=False)
        taken = {trial.user_attrs.get(POINT) for trial in trials}
        for number, point in enumerate(self.points):
            if number not in taken:
                study.enqueue_trial(point, user_attrs={POINT: number})
        if options.retry_failed:
            for row in read_rows(trials, options.mode):
                if row.status == "failed":
                    study.enqueue_trial(row.parameters, user_attrs={POINT: row.trial})
        return study

    def _work(self, study: Study) -> None:
        done, waited = 0, False
        while self.options.limit is None or done < self.options.limit:
            optuna.storages.fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))
            if any(trial.state is TrialState.WAITING for trial in trials):
                study.optimize(lambda trial: self._trial(study, trial), n_trials=1, catch=(_FailedError,))
                self.reporter.table(read_rows(study.get_trials(deepcopy=False), self.options.mode))
                done, waited = done + 1, False
                continue
            if not trials:
                return
            if not waited:
                names = ", ".join(folder_name(trial.user_attrs[POINT]) for trial in trials if POINT in trial.user_attrs)
                say(f"waiting for {names}: another process runs it, or was killed")
            waited = True
            time.sleep(POLL_SECONDS)

    def _trial(self, study: Study, trial: Trial) -> float:
        number = trial.user_attrs.get(POINT)
        if number is None:
            raise _FailedError  # another process took the last one that was waiting
        # A sampler of its own, because one that is seeded once draws the same again when the sweep goes on.
        study.sampler = optuna.samplers.TPESampler(seed=self.options.seed * 100_003 + number)
        point = suggest(trial, self.space)
        folder = self.folder / folder_name(number)
        say(f"{folder.name}  {described(point)}")
        where: Point = {
            "trainer.logger": "TensorBoardLogger", "trainer.logger.save_dir": str(self.folder),
            "trainer.logger.name": "", "trainer.logger.version": folder.name,
        }  # fmt: skip
        values: list[float] = []
        pruned_after = 0

        def report(value: float, epochs: int, more: bool) -> bool:
            nonlocal pruned_after
            trial.report(value, len(values))  # validations are counted, not epochs: there may be several in one
            values.append(value)
            if self.options.prune and more and trial.should_prune():
                pruned_after = epochs
            return pruned_after > 0

        start = time.monotonic()
        try:
            code = self.launch([*self.arguments(point), *flags(where)], self.options.monitor, folder, report)
            if code == PREEMPTED:  # the trial's process has received SIGTERM
                raise _PreemptedError
        except (KeyboardInterrupt, _PreemptedError):
            study.enqueue_trial(point, user_attrs={POINT: number})
            raise
        seconds, monitor = time.monotonic() - start, self.options.monitor
        trial.set_user_attr(SECONDS, seconds)
        trial.set_user_attr(MEASURED, measured(folder))
        finite = [value for value in values if math.isfinite(value)]
        reason = failure(code, folder / LOG) if code else ""
        if not reason and not finite:
            reason = f"{monitor} was never a finite number: it was not measured, or the training diverged"
        if reason:
            trial.set_user_attr(REASON, reason)
            say(f"{folder.name}  failed after {seconds:.0f} s: {reason}; see {folder / LOG}")
            raise _FailedError
        best = max(finite) if self.options.mode == "max" else min(finite)
        if pruned_after:
            reason = f"worse than the median after {pruned_after} epoch{'s' if pruned_after > 1 else ''}"
            trial.set_user_attr(REASON, reason)
            say(f"{folder.name}  pruned after {seconds:.0f} s, {monitor} {best:.4f}")
            raise optuna.TrialPruned
        say(f"{folder.name}  done in {seconds:.0f} s, {monitor} {best:.4f}")
        return best

    def _finish(self, study: Study) -> list[Any]:
        rows = read_rows(study.get_trials(deepcopy=False), self.options.mode)
        self.reporter.results(study, rows, len(self.points))
        best = self.reporter.best(rows)
        if best is not None:
            self.reporter.configuration(best, rows, resolve(self.arguments(best.parameters)))
        return rows


def measured(folder: Path) -> dict[str, float]:
    """Return the metrics of the best epoch from ``metrics.json``; none where the run has measured none."""
    try:
        entry: Any = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["val"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: entry[name] for name in METRICS if isinstance(entry.get(name), int | float)}
