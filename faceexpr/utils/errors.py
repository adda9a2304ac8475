"""What the user gets to read when an input or an option is wrong."""

import os

BAD_INPUT = 2
"""Exit code for bad input and bad options."""

SOME_FAILED = 3
"""Exit code when some of several inputs or jobs failed; all others have their results."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""

PREEMPTED = 75
"""Exit code after SIGTERM: what was done is kept, and the same command goes on."""

PIPE_CLOSED = 141
"""Exit code when nobody reads the output any more, as of a shell."""


class FaceExprError(Exception):
    """Bad input or a bad option, explained in one sentence.

    The message names the file or the option, says what was wrong and what was expected. The command line prints it
    without a traceback and exits with code 2; in Python it is an ordinary exception.
    """


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Refuse the value of an option, with a `FaceExprError` that has its name, unless it ``holds``."""
    if not holds:
        raise FaceExprError(f"{name} is {value}; expected {expected}")


def of_file(error: OSError) -> FaceExprError:
    """Return what to tell of a file that cannot be read or written; one without a name is standard output."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return FaceExprError(f"{name or 'the output'} cannot be read or written: {error.strerror}")
