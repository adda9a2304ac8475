"""What the user is told about options: which were wrong, and which a change of class has dropped."""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
import traceback
from argparse import HelpFormatter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from faceexpr.utils.errors import FaceExprError, of_file

KEY = re.compile(r'Parser key "(.+?)"(?: element \d+)?:\s*')
WRAPPING = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |Given value: |"
    r"Expected (a )?<class 'NoneType'>|Expected a path but .* not accessible or invalid|Problem with given class_path |"
    r"Not a valid subclass of |Subclass types expect one of:|a class path \(str\)|a dict with)"
)
GIVEN = re.compile(r"\s*Given value: (?!NestedArg|Namespace|\[Namespace)(.+)")
CLASS = re.compile(r"(?:Problem with given class_path |Got value: Namespace\(class_path=)'(?:\w+\.)*(\w+)'")
REFUSED = re.compile(r"(Option '.+?' is not accepted)")
LINK = re.compile(r"argument (\S+) --> (\S+): .*", re.S)
NO_CLASS = re.compile(r"Expected a dot import path string: (.*)")
OTHER_CLASS = re.compile(r"Import path \S+ does not correspond to a subclass of ")
TYPE = re.compile(r"<class\s+'(?:\w+\.)*(\w+)'>")
NOISE = re.compile(
    r"Type \S*Callable\[.*?\] expects a function or a callable class:\s*|\. Got value: Namespace\(.*\)$|typing\."
)


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line that names the option or the configuration file."""

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        read_config(Path(path))  # jsonargparse would not name the file in which something is wrong
        parsed: Namespace = super().parse_path(path, *args, **kwargs)
        return parsed

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        text: str = super().format_help(formatter)
        return TYPE.sub(r"\1", text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser, whose message becomes part of a longer one
            super().error(message, ex)
        # argparse would print the usage, hundreds of lines for a verb, and then the message.
        raise FaceExprError(condensed(message)) from ex


def read_config(path: Path) -> dict[str, Any]:
    """Return what a configuration file holds; nothing where the parser will say what is wrong with it.

    Raises:
        FaceExprError: it does not hold options.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        raise FaceExprError(
            f"{where}: {getattr(error, 'problem', None) or 'not a text file'}; expected YAML"
        ) from error
    if not isinstance(config, dict):
        what = "is empty" if config is None else f"holds {type(config).__name__} values"
        raise FaceExprError(f"{path} {what}; expected options, a line each, such as `name: value`")
    return config


def condensed(message: str) -> str:
    """Return jsonargparse's nested account of what it tried as one line: the option's path and the reasons."""
    link = LINK.fullmatch(message)
    if link:
        return f"{link.group(2)} is taken from {link.group(1)} and cannot be given itself"
    path: list[str] = []
    reasons: list[str] = []
    given: list[str] = []
    refuser = ""
    for line in message.splitlines():
        path += KEY.findall(line)
        given += GIVEN.findall(line)
        if found := CLASS.search(line):
            refuser = found.group(1)
        line = REFUSED.sub(rf"\1 by {refuser}", line) if refuser else line
        rest = NOISE.sub("", KEY.sub("", line)).strip()
        if rest and not WRAPPING.match(rest):
            reasons.append(TYPE.sub(r"\1", rest.removeprefix("- ")))
    # Where one of several classes is expected, the others have nothing to say of what was written for it.
    reasons = [text for text in reasons if not OTHER_CLASS.match(text)] or reasons
    # A string could always have been the name of a class; that it is none matters where nothing else was expected.
    reasons = [text for text in reasons if not NO_CLASS.match(text)] or [
        NO_CLASS.sub(r"\1 is neither the name of a class known here nor an import path", text) for text in reasons
    ]
    reason = "; ".join(dict.fromkeys(reasons)) or "not accepted"
    if given and given[0] not in reason:
        reason += f"; got {given[0]}"
    return f"{'.'.join(dict.fromkeys(path))}: {reason}" if path else reason


VALUE_CHECKERS = ("lightning.", "torch.optim.")
"""Modules that check values from the configuration by raising a ValueError, a RuntimeError or an ImportError."""

ONE_IN_A_STEP = "Expected more than 1 value per channel when training"
"""What torch's batch normalisation says of a batch of one."""


def bad_input(error: Exception) -> FaceExprError | None:
    """Return what a user can do something about in an error of a run; None where it is a defect."""
    causes: list[BaseException] = [error]
    # jsonargparse gathers what constructors raise and raises that it could build nothing.
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, FaceExprError):
            return cause
    origin = causes[-1]
    if isinstance(origin, OSError) and origin.filename is not None:
        return of_file(origin)
    if str(origin).startswith(ONE_IN_A_STEP):
        return FaceExprError(
            "batch normalisation has nothing to compare where a step has one image for a process; expected "
            "data.batch_size of at least 2, and data.global_batch_size of at least 2 for each process"
        )
    frames = [frame for frame, _ in traceback.walk_tb(origin.__traceback__)]
    raised_by = frames[-1].f_globals.get("__name__", "") if frames else ""
    if raised_by.startswith(("jsonargparse.", "yaml.")):
        return FaceExprError(condensed(str(error)))
    checked = isinstance(origin, ValueError | RuntimeError | ImportError) and raised_by.startswith(VALUE_CHECKERS)
    if checked or isinstance(origin, MisconfigurationException):
        return FaceExprError(" ".join(str(origin).split()))
    return None


CLASS_CHANGE = re.compile(r"Due to class_path change from '(.+?)' to '(.+?)', discarding init_args: \{(.*)\}\.", re.S)


class _ClassChanges(logging.Handler):
    """Turn jsonargparse's debug message about dropped options into a note for the user."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: set[str] = set()
        self.silent: str | None = None
        self.unwritten: Mapping[str, Mapping[str, Any]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        match = CLASS_CHANGE.search(record.getMessage())
        if match is None or match.group(1) == self.silent:
            return
        old, new, dropped = match.groups()
        options = _changed(old, dropped, self.unwritten.get(old, {}))
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


def _changed(class_path: str, dropped: str, unwritten: Mapping[str, Any]) -> str:
    """Return the dropped options but for those that nobody has written: defaults of their class, or of the program."""
    try:
        values = _plain(ast.parse(f"{{{dropped}}}", mode="eval").body)
        defaults = {**_defaults(class_path), **unwritten}
        written = {key: value for key, value in values.items() if _differs(value, defaults.get(key, ...))}
    except (ValueError, SyntaxError, ImportError, AttributeError):
        return dropped  # a value that is not plain: better said too often than not at all
    names = {key: _class_name(value) for key, value in written.items()}
    return ", ".join(f"{key} {names[key] or repr(value)}" for key, value in written.items())


def _plain(node: ast.AST) -> Any:
    """Return the value of an expression of plain values and namespaces, the latter as dictionaries."""
    if isinstance(node, ast.Call):
        return {keyword.arg: _plain(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_plain(key): _plain(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(item) for item in node.elts]
    return ast.literal_eval(node)


def _class_name(value: Any) -> str:
    """Return the name of the class that a value describes; empty where it describes none."""
    return str(value["class_path"]).rpartition(".")[2] if isinstance(value, Mapping) and "class_path" in value else ""


def _differs(value: Any, default: Any) -> bool:
    if not _class_name(value):
        return bool(value != (list(default) if isinstance(default, tuple) else default))
    if _class_name(value) != _class_name(default):
        return True
    defaults = {**_defaults(value["class_path"]), **default.get("init_args", {})}
    return any(_differs(item, defaults.get(key, ...)) for key, item in (value.get("init_args") or {}).items())


def _defaults(class_path: str) -> dict[str, Any]:
    """Return the defaults of a class's options, those that it hands on as ``**kwargs`` included."""
    module, _, name = class_path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(import_module(module), name), "of", fail_untyped=False)
    defaults: dict[str, Any] = vars(parser.get_defaults().of)
    return defaults


def is_written(config: Any, option: str, *unwritten: Sequence[str]) -> bool:
    """Tell whether a list among the options of a class, given by ``class_path`` and ``init_args``, was written.

    Args:
        config: of the class.
        option: its name.
        unwritten: values beside the default of the class that the program itself may have set.
    """
    value, default = config.init_args.get(option), _defaults(config.class_path).get(option)
    return value is not None and list(value) not in [list(default or ()), *map(list, unwritten)]


def class_change_logger(
    silent: str | None = None, unwritten: Mapping[str, Mapping[str, Any]] | None = None
) -> logging.Logger:
    """Return the logger that a parser is given for these notes.

    Args:
        silent: path of a class whose options nobody has written, because a checkpoint remembered them.
        unwritten: options that the program itself sets, by the path of their class.
    """
    logger = logging.getLogger("faceexpr.cli.parser")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handler = _ClassChanges()
    handler.silent = silent
    handler.unwritten = unwritten or {}
    # One handler for each command line; `main` may be called more than once in a process.
    logger.handlers = [handler]
    return logger
