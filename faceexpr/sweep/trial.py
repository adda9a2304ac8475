"""A trial in a process of its own: ``python -m faceexpr.sweep.trial fit ...`` is ``faceexpr fit ...`` that reports.

Not in the process of the sweep, so that a trial is exactly the run that ``fit`` makes of the same options: nothing that
an earlier trial has set or left in memory reaches it, a crash ends one trial and not the sweep, and the strategies of
Lightning that start their processes from the command line find the right one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass

from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import Trial

from faceexpr.cli.train import run
from faceexpr.sweep.storage import open_study
from faceexpr.utils.errors import FaceExprError

VARIABLE = "FACEEXPR_SWEEP_TRIAL"
"""Environment variable that says which trial it is; processes that Lightning starts inherit it."""

PRUNED_AFTER = "pruned_after"
"""Attribute of a trial that was stopped early: the epochs that it ran."""


@dataclass(frozen=True)
class Assignment:
    """What a trial's process has to know.

    Args:
        storage: of the study.
        study: its name.
        trial: id of the trial in the storage.
        monitor: the metric that is reported.
        mode: whether ``max`` or ``min`` is better.
        prune: whether the trial may be stopped early.
        prune_startup: trials that have to be complete before any is stopped early.
        prune_warmup: validations of a trial before which it is not stopped.
    """

    storage: str
    study: str
    trial: int
    monitor: str
    mode: str
    prune: bool
    prune_startup: int
    prune_warmup: int

    def environment(self) -> dict[str, str]:
        """Return the environment of the trial's process."""
        return {**os.environ, VARIABLE: json.dumps(asdict(self))}

    def open(self) -> Trial:
        """Open the trial in its storage."""
        from optuna.pruners import MedianPruner

        pruner = MedianPruner(self.prune_startup, self.prune_warmup)
        return Trial(open_study(self.storage, self.study, self.mode, pruner=pruner), self.trial)


class TrialReport(Callback):
    """Report the metric after each validation, and end a training early that is worse than the others were by then.

    It ends as a training does whose time is up, at the end of the epoch and with all that a run leaves.

    Args:
        assignment: which trial, and when it may be ended.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._trial: Trial | None = None
        self._validations = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._trial = self.assignment.open()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.assignment.monitor)
        if trainer.sanity_checking or value is None:
            return
        stop = self._trial is not None and self._stop(self._trial, trainer, float(value))
        # One process decides for all; a process that went on alone would wait for the others for ever.
        if trainer.strategy.broadcast(stop):
            trainer.should_stop = True

    def _stop(self, trial: Trial, trainer: Trainer, value: float) -> bool:
        # Validations are counted, not epochs: there may be several in one.
        trial.report(value, self._validations)
        self._validations += 1
        epochs = trainer.current_epoch + 1
        last = trainer.max_epochs is not None and 0 < trainer.max_epochs <= epochs
        if not self.assignment.prune or last or not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED_AFTER, epochs)
        return True


def _end_with_parent() -> None:
    """End when standard input does: the sweep holds its other end, and closes it when it ends, however it ends."""
    # Not sys.stdin, whose lock a reading thread would hold when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Run the trial that the environment names with the options of the command line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run(sys.argv[1:], callbacks=[TrialReport(Assignment(**json.loads(os.environ[VARIABLE])))])
    except FaceExprError as error:
        print(f"faceexpr fit: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
