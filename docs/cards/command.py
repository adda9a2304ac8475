"""The command that trains with the configuration that a run has kept."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import yaml

from faceexpr.cli.main import main
from faceexpr.utils.errors import FaceExprError

ELSEWHERE = ("ckpt_path", "trainer.default_root_dir", "trainer.logger")
"""Beginnings of options that say where a run lies and what it went on from, and nothing of what it learned."""

START = " --model.weights BEFORE"
"""What begins a training with the weights of the run before."""


def commands(kept: Sequence[Mapping[str, Any]], configs: Path, file: str | None) -> list[str]:
    """Return the commands of a training in stages, each from the weights of the one before.

    Args:
        kept: the configurations of its runs; a run that goes on with an interrupted one has the same options.
        configs: folder of the configurations.
        file: name of the configuration of all; by default each run has the name of its own.
    """
    found: list[str] = []
    before = None
    for one in kept:
        stage = training_command(_without_weights(one), configs, file)
        if stage != before:
            found.append(training_command(one, configs, file) if before is None else stage + START)
        before = stage
    return found


def _without_weights(kept: Mapping[str, Any]) -> dict[str, Any]:
    model = kept["model"]
    return {**kept, "model": {**model, "init_args": {**model["init_args"], "weights": None}}}


def training_command(kept: Mapping[str, Any], configs: Path, file: str | None = None) -> str:
    """Return ``faceexpr fit`` with a file below ``configs`` and the flags in which the run differs from it.

    Options that the run does not know, being older, are left as they are today. Of a path only the last part is told.

    Args:
        kept: the configuration of the run.
        configs: folder of the configurations.
        file: name of the one that it was given, without its ending; the run's own by default.

    Raises:
        FaceExprError: there is no such file.
    """
    name = file or kept["trainer"]["logger"]["init_args"]["name"]
    files = sorted(configs.rglob(f"{name}.yaml"))
    if not files:
        raise FaceExprError(
            f"the run was called {name!r}, but {configs} has no {name}.yaml; expected its configuration"
        )
    shown = files[0].relative_to(configs.parent)
    flags = [flag for key, value in _differences(_resolved(files[0]), kept) for flag in (f"--{key}", _written(value))]
    return shlex.join(["faceexpr", "fit", "--config", str(shown), *flags])


def _resolved(file: Path) -> dict[str, Any]:
    """Return a configuration with every default, as ``--print_config`` has it."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        main(["fit", "--config", str(file), "--print_config"])
    resolved: dict[str, Any] = yaml.safe_load(text.getvalue())
    return resolved


def _differences(today: Mapping[str, Any], kept: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of a run that have another value today, by their names on the command line."""
    for key, value in kept.items():
        # `--model.net.depth` stands for model.init_args.net.init_args.depth, `--model.net` for its class.
        name = before if key in ("init_args", "class_path") else f"{before}.{key}".lstrip(".")
        if key not in today or today[key] == value or name.startswith(ELSEWHERE):
            continue
        ours = key == "class_path" and value.startswith("faceexpr.")
        if ours and value.rpartition(".")[2] == today[key].rpartition(".")[2]:
            continue  # the same class under another path, such as that of an earlier version
        if isinstance(value, Mapping) and isinstance(today[key], Mapping):
            yield from _differences(today[key], value, name)
        else:
            yield name, value


def _written(value: Any) -> str:
    if isinstance(value, str):
        return without_folder(value)
    if isinstance(value, list):
        value = [without_folder(one) if isinstance(one, str) else one for one in value]
    return json.dumps(value)


def without_folder(value: str) -> str:
    """Return the last part of an absolute path, and other text as it is."""
    return Path(value).name if Path(value).is_absolute() else value
