"""Which trial is next, agreed on through the storage by every process that runs the same sweep."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from faceexpr.sweep.sampling import POINT, suggest
from faceexpr.sweep.space import Point, Space

REASON = "reason"
"""Attribute of a trial: why it failed or was pruned. A failed trial without one was interrupted."""

BEAT = "beat"
"""Attribute of a running trial, which its process changes again and again."""

BEAT_SECONDS = 10.0
GRACE_SECONDS = 60.0
"""How long a beat may stay the same before its process counts as dead."""

OVER = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Queue:
    """The points of a sweep, each run once.

    Every trial in the storage carries the number of its point. A point without a trial is enqueued and taken; where two
    processes do both at the same time, the trial with the lower number stands. Nobody needs a clock that agrees with
    another's: a process is dead when its beat has not changed for a while as seen from here.

    Attributes:
        study: shared by the processes.
        space: the parameters.
        points: those of a grid, or None for each that a search has to draw.
        retry_failed: whether points that had failed before this process started are run again.
    """

    study: Study
    space: Space
    points: Sequence[Point | None]
    retry_failed: bool = False
    _beats: dict[int, tuple[Any, float]] = field(default_factory=dict)
    _first: int | None = None

    def claim(self) -> tuple[Trial, Point] | None:
        """Take the next point; None where all are done or other processes run the rest."""
        while True:
            self._release_dead()
            trials = self.study.get_trials(deepcopy=False)
            if self._first is None:
                self._first = len(trials)
            if not any(trial.state is TrialState.WAITING for trial in trials):
                missing = self._missing(trials)
                if missing is None:
                    return None
                self.study.enqueue_trial(self._known(missing, trials), user_attrs={POINT: missing})
            trial = self.study.ask()
            if POINT in trial.user_attrs and not self._duplicate(trial):
                trial.set_user_attr(BEAT, time.time())
                return trial, suggest(trial, self.space)
            # Another process was faster.
            self.study.tell(trial, state=TrialState.FAIL)

    def running(self) -> list[int]:
        """Return the points that are being run: by other processes, where this one runs none."""
        trials = self.study.get_trials(deepcopy=False)
        return sorted({int(trial.user_attrs[POINT]) for trial in trials if _running(trial)})

    def _missing(self, trials: Sequence[FrozenTrial]) -> int | None:
        taken = {
            trial.user_attrs[POINT]
            for trial in trials
            if POINT in trial.user_attrs and (trial.state is not TrialState.FAIL or self._final(trial))
        }
        return next((point for point in range(len(self.points)) if point not in taken), None)

    def _final(self, failed: FrozenTrial) -> bool:
        return REASON in failed.user_attrs and not (self.retry_failed and failed.number < (self._first or 0))

    def _known(self, point: int, trials: Sequence[FrozenTrial]) -> Point:
        """Return the parameters of a point: a grid's, or those that an interrupted trial had drawn."""
        known = self.points[point]
        if known is not None:
            return known
        earlier = [trial.params for trial in trials if trial.user_attrs.get(POINT) == point]
        return next((params for params in earlier if set(params) == set(self.space)), {})

    def _duplicate(self, mine: Trial) -> bool:
        return any(
            trial.state in OVER or (_running(trial) and trial.number < mine.number)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.user_attrs.get(POINT) == mine.user_attrs[POINT] and trial.number != mine.number
        )

    def _release_dead(self) -> None:
        for trial in filter(_running, self.study.get_trials(deepcopy=False)):
            beat = trial.user_attrs.get(BEAT)
            known, since = self._beats.get(trial.number, (None, 0.0))
            if trial.number not in self._beats or beat != known:
                self._beats[trial.number] = beat, time.monotonic()
            elif time.monotonic() - since > GRACE_SECONDS:
                release(self.study, trial.number)


def _running(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.RUNNING and POINT in trial.user_attrs


def release(study: Study, number: int) -> None:
    """Give a trial that was not finished back: its point will be run again."""
    with contextlib.suppress(ValueError, RuntimeError):  # another process has done so
        study.tell(number, state=TrialState.FAIL)


@contextlib.contextmanager
def beating(trial: Trial) -> Iterator[None]:
    """Show the other processes that the trial's process lives."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            # A storage that cannot be reached for a moment is no reason to end: the next beat may arrive.
            with contextlib.suppress(Exception):
                trial.set_user_attr(BEAT, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
