"""``faceexpr sweep``: check every value, run the trials that are missing, and report."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.study import Study
from optuna.trial import Trial, TrialState

from faceexpr.sweep.ended import failure
from faceexpr.sweep.launch import LOG, launch, val_metrics
from faceexpr.sweep.options import SweepOptions, read_options
from faceexpr.sweep.queue import REASON, Queue, beating, release
from faceexpr.sweep.report import Report
from faceexpr.sweep.resolve import resolved
from faceexpr.sweep.sampling import POINT, PointSampler
from faceexpr.sweep.space import Choices, Point, Space, flags, grid, probes, read_space
from faceexpr.sweep.storage import open_study
from faceexpr.sweep.table import MEASURED, SECONDS, Row, best_value, described, folder_name, read_rows, shown
from faceexpr.sweep.trial import PRUNED_AFTER, Assignment
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, SOME_FAILED, FaceExprError
from faceexpr.utils.files import say
from faceexpr.utils.termination import Terminated, Termination

POLL_SECONDS = 2.0

Launch = Callable[[Sequence[str], Assignment, Path], int]


@dataclass
class Sweep:
    """One sweep as one process sees it.

    Args:
        options: of the sweep; they have a name.
        fit: the arguments that every trial has.
        launch: runs one trial and returns its exit code.
    """

    options: SweepOptions
    fit: list[str]
    launch: Launch = launch
    space: Space = field(init=False)
    points: Sequence[Point | None] = field(init=False)
    folder: Path = field(init=False)
    storage: str = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        self.space = read_space(options.parameters, options.method)
        self.points = grid(self.space) if options.method == "grid" else [None] * options.trials
        self.folder = options.out / str(options.name)
        self.storage = options.storage or str(self.folder / "study.journal")
        self.report = Report(self.folder, list(self.space), options.monitor, options.mode)

    def arguments(self, point: Point) -> list[str]:
        """Return the arguments of ``fit`` for a point, without those that say where the run goes."""
        monitor: Point = {"checkpoint.monitor": self.options.monitor, "checkpoint.mode": self.options.mode}
        return ["fit", *self.fit, *flags(point), *flags(monitor)]

    def run(self) -> None:
        """Run what is missing, and report.

        Raises:
            FaceExprError: options that ``fit`` does not take, or a folder that holds another sweep.
            SystemExit: some trials failed, Ctrl-C, or SIGTERM.
        """
        for point in probes(self.space):
            resolved(self.arguments(point))
        study = self._study()
        say(f"{self.options.method} of {len(self.points)} trials in {self.folder}: {_spelt(self.space)}")
        try:
            with Termination():
                self._work(study)
        except (KeyboardInterrupt, Terminated) as stop:
            self._finish(study)
            say("interrupted; the same command goes on")
            raise SystemExit(PREEMPTED if isinstance(stop, Terminated) else INTERRUPTED) from None
        if any(row.status == "failed" for row in self._finish(study)):
            raise SystemExit(SOME_FAILED)

    def _study(self) -> Study:
        options = self.options
        sampler = PointSampler(options.seed)
        remains = sorted(self.folder.glob("trial_*"))
        study = open_study(self.storage, str(options.name), options.mode, sampler)
        record = {"method": options.method, "monitor": options.monitor, "mode": options.mode, "seed": options.seed}
        # In order, because the order of the parameters numbers the points of a grid.
        record["parameters"] = [f"{name}: {parameter}" for name, parameter in self.space.items()]
        known = study.user_attrs.get("sweep")
        if known is None:
            if remains and not study.get_trials(deepcopy=False):
                raise FaceExprError(
                    f"{self.folder} holds {remains[0].name} but no record of its sweep; give another --name, or move "
                    "the folder away"
                )
            study.set_user_attr("sweep", record)
            study.set_user_attr("fit", self.fit)
        elif known != record:
            changed = ", ".join(name for name in record if known.get(name) != record[name])
            raise FaceExprError(
                f"{self.folder} holds another sweep, which differs in {changed}; expected the same sweep, to go on "
                "with it, or another --name"
            )
        elif (before := study.user_attrs.get("fit", self.fit)) != self.fit:
            say(f"warning: the trials of this sweep began with other options of fit: {shlex.join(before)}")
        return study

    def _work(self, study: Study) -> None:
        queue = Queue(study, self.space, self.points, self.options.retry_failed)
        done, waited = 0, False
        while self.options.limit is None or done < self.options.limit:
            claimed = queue.claim()
            if claimed is not None:
                self._trial(study, *claimed)
                done, waited = done + 1, False
                continue
            elsewhere = queue.running()
            if not elsewhere:
                return
            if not waited:
                say(f"waiting for {', '.join(map(folder_name, elsewhere))}: another process runs it, or was killed")
            waited = True
            time.sleep(POLL_SECONDS)

    def _trial(self, study: Study, trial: Trial, point: Point) -> None:
        folder = self.folder / folder_name(trial.user_attrs[POINT])
        say(f"{folder.name}  {described(point)}")
        where: Point = {
            "trainer.logger": "TensorBoardLogger", "trainer.logger.save_dir": str(self.folder),
            "trainer.logger.name": "", "trainer.logger.version": folder.name,
        }  # fmt: skip
        options = self.options
        assignment = Assignment(
            self.storage, study.study_name, trial._trial_id, options.monitor, options.mode, options.prune,
            options.prune_startup, options.prune_warmup,
        )  # fmt: skip
        start = time.monotonic()
        try:
            with beating(trial):
                code = self.launch([*self.arguments(point), *flags(where)], assignment, folder)
            if code == PREEMPTED:
                raise Terminated
        except BaseException:
            release(study, trial.number)
            raise
        try:
            self._tell(study, trial, folder, code, time.monotonic() - start)
        except (ValueError, RuntimeError):
            if not study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                raise
            say(f"{folder.name}  was taken over by another process, to which this one had seemed dead")
        self.report.table(self._rows(study))

    def _tell(self, study: Study, trial: Trial, folder: Path, code: int, seconds: float) -> None:
        monitor = self.options.monitor
        reported = study.get_trials()[trial.number]
        value = best_value(reported, self.options.mode)
        trial.set_user_attr(SECONDS, seconds)
        trial.set_user_attr(MEASURED, val_metrics(folder))
        reason = failure(code, folder / LOG) if code else ""
        if not reason and value is None:
            reason = f"{monitor} was never a finite number: it was not measured, or the training diverged"
        epochs = reported.user_attrs.get(PRUNED_AFTER)
        if reason:
            trial.set_user_attr(REASON, reason)
            study.tell(trial, state=TrialState.FAIL)
            say(f"{folder.name}  failed after {seconds:.0f} s: {reason}; see {folder / LOG}")
        elif epochs is not None:
            trial.set_user_attr(REASON, f"worse than the median after {epochs} epoch{'s' if epochs > 1 else ''}")
            study.tell(trial, state=TrialState.PRUNED)
            say(f"{folder.name}  pruned after {seconds:.0f} s, {monitor} {value:.4f}")
        else:
            study.tell(trial, value)
            say(f"{folder.name}  done in {seconds:.0f} s, {monitor} {value:.4f}")

    def _rows(self, study: Study) -> list[Row]:
        return read_rows(study.get_trials(deepcopy=False), self.options.mode)

    def _finish(self, study: Study) -> list[Row]:
        rows = self._rows(study)
        self.report.results(rows, len(self.points))
        best = self.report.best(rows)
        if best is not None:
            self.report.configuration(best, rows, resolved(self.arguments(best.parameters)))
        return rows


def _spelt(space: Space) -> str:
    """Return the parameters with what they take, for people."""
    return "; ".join(
        f"{name} ({', '.join(map(shown, parameter.values))})"
        if isinstance(parameter, Choices)
        else f"{name} ({shown(parameter.low)} to {shown(parameter.high)})"
        for name, parameter in space.items()
    )


def run(args: list[str]) -> None:
    """Run ``faceexpr sweep``.

    Args:
        args: the arguments, verb included.

    Raises:
        FaceExprError: bad input.
        SystemExit: some trials failed, Ctrl-C, or SIGTERM.
    """
    _work_alone()  # sweeps share trials through the study, whatever has started them
    Sweep(*read_options(args[1:])).run()


def _work_alone() -> None:
    """Forget what started this process, which does not share its work with the others that were started with it."""
    for name in (
        "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID",
        "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID",
    ):  # fmt: skip
        os.environ.pop(name, None)
