"""What the tests of sweeps share: sweeps of tiny trainings in this process, and of no training at all."""

import contextlib
from pathlib import Path

from conftest import TINY_DATA, TINY_NET, TINY_RUN, read_table

from faceexpr.cli import train as training_cli
from faceexpr.sweep.options import SweepOptions
from faceexpr.sweep.study import Sweep
from faceexpr.sweep.trial import LOG, TrialReport
from faceexpr.utils.errors import FaceExprError

FIT = ["--data", "SyntheticFaces", *TINY_DATA, *TINY_NET, *TINY_RUN]
FOLDER = Path("lightning_logs/s")


def here(args, monitor, folder, report):
    """Run a trial as `run_trial` does, but in this process, which has loaded everything."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            training_cli.run(list(args), callbacks=[TrialReport(monitor, report)])
        except FaceExprError as error:
            print(f"faceexpr fit: error: {error}")
            return 1
    return 0


def curve(values):
    """Return a launch that trains nothing: it reports the values that a function gives for the trial's options."""

    def launch(args, monitor, folder, report):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).touch()
        options = dict(argument.removeprefix("--").split("=", 1) for argument in args if "=" in argument)
        found = values(options)
        for epoch, value in enumerate(found, 1):
            if report(value, epoch, epoch < len(found)):
                break
        return 0

    return launch


def sweep(launch=here, fit=(), **options):
    """Return a sweep in ``lightning_logs/s``."""
    return Sweep(SweepOptions(**{"name": "s", **options}), [*FIT, *fit], launch)


def table(folder=FOLDER):
    return read_table(folder / "table.csv")
