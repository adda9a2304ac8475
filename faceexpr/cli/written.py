"""What a command line says, for what has to be known before it is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from faceexpr.cli.parser import read_config


def written_path(args: Sequence[str]) -> str | None:
    """Return the ``ckpt_path`` of a command line: its flag, or else that of the last configuration file that has one.

    What the checkpoint remembers are the defaults of the other options.

    Raises:
        FaceExprError: a configuration file does not hold options.
    """
    written = [config["ckpt_path"] for config in _configs(args) if "ckpt_path" in config]
    written += _values(args, "--ckpt_path")
    return str(written[-1]) if written and written[-1] not in (None, "", "null") else None


def last_folder(args: Sequence[str], default: Path) -> Path:
    """Return the folder that holds the last checkpoints of a command line's runs, as its options say.

    That is the folder of the checkpoints where it is given, the run's where its name (``version``) is given, or else
    the folder of all runs.

    Args:
        args: the arguments.
        default: of the runs, where no option says anything.
    """
    folder = _option(args, "last_checkpoint.dirpath")
    if folder:
        return Path(folder)
    root = _option(args, "trainer.default_root_dir")
    logger = _option(args, "trainer.logger")
    if logger is False:
        return Path(root or ".") / "checkpoints"
    where = {name: _option(args, "trainer.logger", name) for name in ("save_dir", "name", "version")}
    runs = Path(where["save_dir"] or (Path(root) / default if root else default)) / (where["name"] or "")
    version = where["version"]
    return runs if version is None else runs / (version if isinstance(version, str) else f"version_{version}")


def _option(args: Sequence[str], option: str, inner: str | None = None) -> Any:
    """Return the value of an option, or of one of its class's options: that of the last file or flag that has one."""
    found = None
    for config in [*_configs(args), *_flagged(args, option)]:
        value: Any = config
        for key in option.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if inner is not None:
            init_args = value.get("init_args") if isinstance(value, dict) else None
            value = init_args.get(inner) if isinstance(init_args, dict) else None
        found = found if value is None else value
    for flag in [f"{option}.{inner}", f"{option}.init_args.{inner}"] if inner is not None else []:
        found = next(reversed([yaml.safe_load(value) for value in _values(args, f"--{flag}")]), found)
    return found


def _flagged(args: Sequence[str], option: str) -> list[dict[str, Any]]:
    """Return the values of an option's flags, each as a configuration file would have it."""
    found = []
    for value in _values(args, f"--{option}"):
        nested: Any = yaml.safe_load(value)
        for key in reversed(option.split(".")):
            nested = {key: nested}
        found.append(nested)
    return found


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
