"""What a command line says, for what has to be known before it is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceexpr.options import read_config


def written_path(args: Sequence[str]) -> str | None:
    """Return the ``ckpt_path`` of a command line: its flag, or else that of the last configuration file that has one.

    What the checkpoint remembers are the defaults of the other options.

    Raises:
        FaceExprError: a configuration file does not hold options.
    """
    written = [config["ckpt_path"] for config in _configs(args) if "ckpt_path" in config]
    written += _values(args, "--ckpt_path")
    return str(written[-1]) if written and written[-1] not in (None, "", "null") else None


def first_class(args: Sequence[str], option: str) -> str | None:
    """Return the class that a command line names first for ``model`` or ``data``; None where it names none.

    It has to be the default from the start: options that it shares with another default class would be taken over with
    that one's values, as if somebody had written them.

    Args:
        args: the arguments.
        option: ``model`` or ``data``.
    """
    named = [config[option] for config in _configs(args) if option in config]
    named = [value.get("class_path") if isinstance(value, dict) else value for value in named]
    named += _values(args, f"--{option}") + _values(args, f"--{option}.class_path")
    return next((name for name in named if isinstance(name, str) and name), None)


def _configs(args: Sequence[str]) -> list[dict[str, Any]]:
    return [read_config(Path(name)) for name in (*_values(args, "--config"), *_values(args, "-c"))]


def _values(args: Sequence[str], flag: str) -> list[str]:
    found = []
    for position, argument in enumerate(args):
        if argument == flag and position + 1 < len(args):
            found.append(args[position + 1])
        elif argument.startswith(f"{flag}="):
            found.append(argument.partition("=")[2])
    return found
