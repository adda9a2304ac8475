"""Parse options with jsonargparse, and say what is wrong with one in a single line that names it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader, set_loader

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.redirects import REMOVED, redirect, without_removed

MODE = "faceexpr"
"""jsonargparse's name for how our parsers read values: as YAML, with the class paths of earlier versions redirected."""

set_loader(MODE, lambda text: redirect(get_loader("yaml")(text)), (yaml.YAMLError,))


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors are one line that names the option, and the configuration file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("parser_mode", MODE)
        super().__init__(*args, **kwargs)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        config = read_config(Path(path))
        try:
            parsed: Namespace
            if REMOVED and (kept := without_removed(config)) != config:
                parsed = self.parse_string(yaml.safe_dump(kept), path, *args, **kwargs)
            else:
                parsed = super().parse_path(path, *args, **kwargs)
        except (FaceExprError, ArgumentError, TypeError, KeyError) as error:
            reason = str(error) if isinstance(error, FaceExprError) else one_line(str(error), error)
            raise FaceExprError(f"{os.fspath(path)}: {reason}") from error
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser, whose message becomes part of a longer one
            super().error(message, ex)
        # argparse would print the usage, hundreds of lines for a verb, and then the message.
        raise FaceExprError(one_line(message, ex)) from ex


def one_line(message: str, error: BaseException | None) -> str:
    """Return where jsonargparse has found an error, and the last of its reasons.

    The errors in the chain of causes go from the outermost option to the innermost one, each with a first line that
    names it and ends with a colon; the last one says what is wrong.
    """
    chain = [message]
    while error is not None:
        chain.append(str(error))
        error = error.__cause__
    *outer, reason = chain
    places = [line for line in (text.strip().partition("\n")[0] for text in outer) if line.endswith(":")]
    return " ".join([*dict.fromkeys(places), *reason.split()])


def read_config(path: Path) -> dict[str, Any]:
    """Return what a configuration file holds; nothing where there is no such file, which the parser will say.

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


def flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield options by their dotted names as one writes them on a command line, such as ``model.net.dropout``.

    A class is the value of the option that it is chosen by: ``class_path`` and ``init_args`` are in no name.
    """
    for key, value in options.items():
        parts = [part for part in f"{prefix}{key}".rstrip("+").split(".") if part not in ("class_path", "init_args")]
        name = ".".join(parts)
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        elif name:
            yield name, value


def name_option(error: FaceExprError, config: Namespace) -> FaceExprError:
    """Return an error whose first word is a parameter's name with the name of the option in its place.

    Below the command line nobody knows options, only parameters: "batch_size is 0" becomes "--data.batch_size is 0".

    Args:
        error: from anywhere.
        config: the options of the command line.
    """
    message = str(error)
    word = message.partition(" ")[0].rstrip(":")
    rest = message[len(word) :]
    found = [
        (name, value)
        for name, value in flat(config.as_dict())
        if rest.startswith((": ", " is ", " has ")) and f".{name}".endswith(f".{word}")
    ]
    if len(found) > 1:  # the option that has the value which the message tells
        found = [(name, value) for name, value in found if str(value) in rest]
    return FaceExprError(f"--{found[0][0]}{rest}") if len(found) == 1 else error


@contextmanager
def naming_options(config: Namespace) -> Iterator[None]:
    """Name options in the errors that are raised within, as `name_option` does."""
    try:
        yield
    except FaceExprError as error:
        raise name_option(error, config) from error.__cause__
