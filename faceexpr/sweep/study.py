"""Run the trials of a sweep, each in its process and folder, agreed on through Optuna's storage, and report them."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shlex
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from faceexpr.cli import train as training_cli
from faceexpr.sweep.options import Point, SweepOptions, as_text, flags, grid, probes, read_space, shown, suggest
from faceexpr.sweep.trial import LOG, Report, failure, run_trial
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, SOME_FAILED, FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import counted, csv_text

POINT, SECONDS, MEASURED, REASON = "point", "seconds", "metrics", "reason"
"""Attributes of a trial: the number of its point, how long it ran, its metrics at the best epoch, and why it failed or
was pruned. A failed trial without a reason was interrupted."""

STATUS = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""Of trials that are over, from the best to the worst."""

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")
"""What the table has of each trial beside the metric that decides."""

ENQUEUED = "enqueued"
"""Attribute of a study all of whose points have a trial."""

POLL_SECONDS = 2.0
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
"""How long a trial's process may give no sign of life before another process runs the trial."""

Launch = Callable[[Sequence[str], str, Path, Report], int]


class _FailedError(Exception):
    """A trial that failed, or that is not one of the sweep: Optuna records it as failed and goes on."""


class _PreemptedError(Exception):
    """A trial that has been asked to end, as schedulers do, and is run again later."""


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

    def __init__(self, options: SweepOptions, fit: list[str], launch: Launch = run_trial) -> None:
        self.options = options
        self.fit = fit
        self.launch = launch
        self.space = read_space(options.parameters, options.method)
        # What a search draws is left open.
        self.points: list[Point] = grid(self.space) if options.method == "grid" else [{}] * options.trials
        self.folder = options.out / str(options.name)

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
        resolved = [resolve(self.arguments(point)) for point in probes(self.space)]
        logger = (yaml.safe_load(resolved[-1]) or {"trainer": {}})["trainer"].get("logger")
        usual = isinstance(logger, dict) and logger["class_path"].endswith(".TensorBoardLogger")
        if logger is not None and not usual:
            say("note: each trial has a TensorBoard logger of its own in the place of trainer.logger")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message="Attempting to set identical")  # limits of an axis, of one trial
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            study = self.open_study()
            say(f"{self.options.method} of {len(self.points)} trials of {', '.join(self.space)} in {self.folder}")
            try:
                self._work(study)
            except (KeyboardInterrupt, _PreemptedError) as ending:
                self._finish(study)
                say("interrupted; the same command goes on")
                raise SystemExit(INTERRUPTED if isinstance(ending, KeyboardInterrupt) else PREEMPTED) from None
            if any(trial.state is TrialState.FAIL for trial in self._finish(study)):
                raise SystemExit(SOME_FAILED)

    def open_study(self, tries: int = 5) -> Study:
        """Open the study of the sweep, and enqueue the points that have no trial.

        Args:
            tries: how often to try while other processes open it for the first time.
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
            if tries > 1 and (isinstance(error, IntegrityError) or "already exists" in str(error)):
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
        # Who has made the study may be enqueueing still; one that was killed meanwhile leaves the rest to the next.
        end = time.monotonic() + GRACE_SECONDS
        while known and ENQUEUED not in study.user_attrs and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        taken = {trial.user_attrs.get(POINT) for trial in study.get_trials(deepcopy=False)}
        for number, point in enumerate(self.points):
            if number not in taken:
                study.enqueue_trial(point, user_attrs={POINT: number})
        study.set_user_attr(ENQUEUED, True)
        if options.retry_failed:
            for trial in finished(study):
                if trial.state is TrialState.FAIL:
                    study.enqueue_trial(trial.params, user_attrs={POINT: trial.user_attrs[POINT]})
        return study

    def _work(self, study: Study) -> None:
        done, waited = 0, False
        while self.options.limit is None or done < self.options.limit:
            optuna.storages.fail_stale_trials(study)
            trials = study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))
            if any(trial.state is TrialState.WAITING for trial in trials):
                study.optimize(lambda trial: self._trial(study, trial), n_trials=1, catch=(_FailedError,))
                self._write_table(finished(study))
                done, waited = done + 1, False
                continue
            if not trials:
                return
            if not waited:
                names = ", ".join(folder_name(trial) for trial in trials if POINT in trial.user_attrs)
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
        folder = self.folder / folder_name(trial)
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
        best = self._best(values)
        reason = failure(code, folder / LOG) if code else ""
        if not reason and best is None:
            reason = f"{monitor} was never a finite number: it was not measured, or the training diverged"
        if reason or best is None:
            trial.set_user_attr(REASON, reason)
            say(f"{folder.name}  failed after {seconds:.0f} s: {reason}; see {folder / LOG}")
            raise _FailedError
        if pruned_after:
            trial.set_user_attr(REASON, f"worse than the median after {counted(pruned_after, 'epoch')}")
            say(f"{folder.name}  pruned after {seconds:.0f} s, {monitor} {best:.4f}")
            raise optuna.TrialPruned
        say(f"{folder.name}  done in {seconds:.0f} s, {monitor} {best:.4f}")
        return best

    def _finish(self, study: Study) -> list[FrozenTrial]:
        """Write the table, the figure and the best configuration, and print the trials from the best to the worst."""
        monitor, trials = self.options.monitor, finished(study)
        self._write_table(trials)
        ranked = sorted(trials, key=self._rank)
        say(self._lines(ranked))
        if len(trials) < len(self.points):
            say(f"{len(trials)} of {len(self.points)} trials are over")
        best = next((trial for trial in ranked if trial.state is TrialState.COMPLETE), None)
        if best is None:
            say(f"written: {self.folder / 'table.csv'}")
            say("no trial is done, so none is the best")
            return trials
        write_file(self.folder / "sweep.png", self._figure(study))
        say(f"written: {self.folder / 'table.csv'}, {self.folder / 'sweep.png'}")
        name = folder_name(best)
        again = shlex.join(["faceexpr", "fit", "--config", str(self.folder / "best.yaml")])
        say(f"best: {self.folder / name}, {monitor} {best.value:.4f}")
        say(f"again: {again}")
        say(f"measure it with: {shlex.join(['faceexpr', 'test', '--ckpt_path', str(self.folder / name)])}")
        title = f"The best of {len(trials)} trials by {monitor} ({best.value:.4f}), {name}: {described(best.params)}"
        content = resolve(self.arguments(best.params))
        write_file(self.folder / "best.yaml", f"# {title}\n#   {again}\n{content}")
        return trials

    def _write_table(self, trials: Sequence[FrozenTrial]) -> None:
        others = [name for name in METRICS if f"val/{name}" != self.options.monitor]
        header = ["trial", "status", "seconds", *self.space, self.options.monitor, *(f"val/{name}" for name in others)]
        rows = []
        for trial in trials:
            attributes = trial.user_attrs
            values = [self._best(trial.intermediate_values.values()), *map(attributes[MEASURED].get, others)]
            rows.append(
                [
                    folder_name(trial),
                    STATUS[trial.state],
                    f"{attributes[SECONDS]:.1f}",
                    *(as_text(trial.params[name]) for name in self.space),
                    # What has been through float32 has seven digits; the others are noise.
                    *("" if value is None else f"{value:.7g}" for value in values),
                    attributes.get(REASON, ""),
                ]
            )
        write_file(self.folder / "table.csv", csv_text([*header, "reason"], rows))

    def _lines(self, trials: Sequence[FrozenTrial]) -> str:
        """Return the table for the console."""
        cells = [["trial", "status", *self.space, self.options.monitor, "seconds", ""]]
        for trial in trials:
            value, attributes = self._best(trial.intermediate_values.values()), trial.user_attrs
            numbers = ["-" if value is None else f"{value:.4f}", f"{attributes[SECONDS]:.0f}"]
            parameters = [shown(trial.params[name]) for name in self.space]
            cells.append([folder_name(trial), STATUS[trial.state], *parameters, *numbers, attributes.get(REASON, "")])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        )

    def _rank(self, trial: FrozenTrial) -> tuple[int, float, int]:
        """Return the sort key of a trial, which is smaller for a better one."""
        value = self._best(trial.intermediate_values.values())
        sign = -1 if self.options.mode == "max" else 1
        return [*STATUS].index(trial.state), math.inf if value is None else sign * value, trial.user_attrs[POINT]

    def _best(self, values: Iterable[float]) -> float | None:
        """Return the best of the values that a trial has reported; those that are not finite do not count."""
        best = max if self.options.mode == "max" else min
        return best((value for value in values if math.isfinite(value)), default=None)

    def _figure(self, study: Study) -> bytes:
        """Draw the metric at the best epoch against each parameter, by Optuna."""
        from matplotlib import pyplot

        axes: Any = optuna.visualization.matplotlib.plot_slice(study, target_name=f"{self.options.monitor}, best epoch")
        figure = np.ravel(axes)[0].figure
        figure.suptitle(f"Sweep {self.folder.name}")
        content = io.BytesIO()
        figure.savefig(content, format="png", bbox_inches="tight")
        pyplot.close(figure)
        return content.getvalue()


def finished(study: Study) -> list[FrozenTrial]:
    """Return the newest trial that is over of each point; where one has not failed, those that have do not count."""
    found: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=tuple(STATUS)):
        attributes, failed = trial.user_attrs, trial.state is TrialState.FAIL
        if POINT not in attributes or (failed and REASON not in attributes):
            continue
        point = attributes[POINT]
        if not failed or point not in found or found[point].state is TrialState.FAIL:
            found[point] = trial
    return [found[point] for point in sorted(found)]


def folder_name(trial: FrozenTrial | Trial) -> str:
    """Return the name of a trial's run folder, which has the number of its point."""
    return f"trial_{trial.user_attrs[POINT]:03d}"


def described(point: Point) -> str:
    """Return a point for people."""
    return "  ".join(f"{name} {shown(value)}" for name, value in point.items())


def measured(folder: Path) -> dict[str, float]:
    """Return the metrics of the best epoch from ``metrics.json``; none where the run has measured none."""
    try:
        entry: Any = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["val"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: entry[name] for name in METRICS if isinstance(entry.get(name), int | float)}
