"""What a command line of ``fit`` means, without running it."""

from __future__ import annotations

import contextlib
import io

from faceexpr.cli import train as training_cli


def resolved(args: list[str]) -> str:
    """Return the whole configuration of a command line as YAML.

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
