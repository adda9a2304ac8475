"""What the user is told about options: which were wrong, and which a change of class has dropped."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import sys
from importlib import import_module
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from faceexpr.errors import FaceExprError

KEY = re.compile(r'Parser key "(.+?)":\s*')
WRAPPING = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |Given value: |"
    r"Expected a <class 'NoneType'>|Expected a path but .* not accessible or invalid|Problem with given class_path )"
)
NO_CLASS = re.compile(r"Expected a dot import path string: (.*)")
TYPE = re.compile(r"<class '(?:\w+\.)*(\w+)'>")
NOISE = re.compile(
    r"Type \S*Callable\[.*?\] expects a function or a callable class:\s*|\. Got value: Namespace\(.*\)$|typing\."
)


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line that names the option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser, whose message becomes part of a longer one
            super().error(message, ex)
        # argparse would print the usage, hundreds of lines for a verb, and then the message.
        raise FaceExprError(condensed(message)) from ex


def condensed(message: str) -> str:
    """Return jsonargparse's nested account of what it tried as one line: the option's path and the reasons."""
    path: list[str] = []
    reasons: list[str] = []
    for line in message.splitlines():
        path += KEY.findall(line)
        rest = NOISE.sub("", KEY.sub("", line)).strip()
        if rest and not WRAPPING.match(rest):
            reasons.append(TYPE.sub(r"\1", rest.removeprefix("- ")))
    # A string could always have been the name of a class; that it is none matters where nothing else was expected.
    reasons = [text for text in reasons if not NO_CLASS.match(text)] or [
        NO_CLASS.sub(r"\1 is neither the name of a class known here nor an import path", text) for text in reasons
    ]
    reason = "; ".join(dict.fromkeys(reasons)) or "not accepted"
    return f"{'.'.join(dict.fromkeys(path))}: {reason}" if path else reason


CLASS_CHANGE = re.compile(r"Due to class_path change from '(.+?)' to '(.+?)', discarding init_args: \{(.*)\}\.", re.S)


class _ClassChanges(logging.Handler):
    """Turn jsonargparse's debug message about dropped options into a note for the user."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: set[str] = set()
        self.silent: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        match = CLASS_CHANGE.search(record.getMessage())
        if match is None or match.group(1) == self.silent:
            return
        old, new, dropped = match.groups()
        options = _changed(old, dropped)
        if not options:
            return
        note = (
            f"note: {new.rpartition('.')[2]} replaces {old.rpartition('.')[2]}, and these options, which it does not "
            f"have, are dropped: {options}"
        )
        # Parsing goes over the arguments more than once.
        if note not in self.said:
            self.said.add(note)
            print(note, file=sys.stderr)


def _changed(class_path: str, dropped: str) -> str:
    """Return the dropped options but for those that had their class's default, which nobody has written."""
    try:
        values = ast.literal_eval(f"{{{dropped}}}")
        module, _, name = class_path.rpartition(".")
        parameters = inspect.signature(getattr(import_module(module), name)).parameters
    except (ValueError, SyntaxError, ImportError, AttributeError):
        return dropped  # a value that is not plain: better said too often than not at all
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    return ", ".join(f"{key} {value!r}" for key, value in values.items() if defaults.get(key, ...) != value)


def class_change_logger(silent: str | None = None) -> logging.Logger:
    """Return the logger that a parser is given for these notes.

    Args:
        silent: path of a class whose options nobody has written, because a checkpoint remembered them.
    """
    logger = logging.getLogger("faceexpr.options")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handler = _ClassChanges()
    handler.silent = silent
    # One handler for each command line; `main` may be called more than once in a process.
    logger.handlers = [handler]
    return logger
