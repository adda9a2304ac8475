"""Find checkpoint files and read what they remember, without trusting them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from faceexpr.errors import FaceExprError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU with ``weights_only=True``.

    Raises:
        FaceExprError: the file is not a checkpoint, or holds objects that only a full unpickle would load.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not its own
        raise FaceExprError(
            f"{path} cannot be loaded as a checkpoint ({type(error).__name__}): it is damaged, not a checkpoint, or "
            "holds objects other than tensors and plain values, which are not loaded because unpickling them could "
            "run any code; expected a file that faceexpr fit has written"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise FaceExprError(f"{path} is not a training checkpoint; expected a file that faceexpr fit has written")
    return checkpoint


def find_checkpoint(written: str, runs: Path, option: str = "--ckpt_path") -> Path:
    """Return the file that an option means.

    Args:
        written: a file, a run folder (its best checkpoint), or ``last`` (the newest last.ckpt below ``runs``).
        runs: folder of the runs, such as ``lightning_logs``.
        option: its name, for messages.

    Raises:
        FaceExprError: there is no such checkpoint.
    """
    if written == "last":
        found = newest(runs, "last*.ckpt")
        if found is None:
            raise FaceExprError(f"{option} is last, but there is no last.ckpt below {runs}; expected a file")
        return found
    if written == "best":
        raise FaceExprError(
            f"{option} is best, but a new process knows of no run that it could be the best of; name the file or "
            f"the run folder{_example(runs, option)}"
        )
    path = Path(written)
    if path.is_dir():
        found = newest(path, "best*.ckpt")
        if found is None:
            raise FaceExprError(f"{option}: there is no best.ckpt in the run folder {path}; expected a file")
        return found
    if not path.is_file():
        raise FaceExprError(f"{option}: {path} does not exist; expected a checkpoint file or a run folder")
    return path


def require_checkpoint(verb: str, runs: Path) -> FaceExprError:
    """Return the error for a verb that was given no checkpoint."""
    return FaceExprError(
        f"no weights to {verb}: name a checkpoint file or a run folder with --ckpt_path{_example(runs)}"
    )


def newest(folder: Path, pattern: str) -> Path | None:
    """Return the file below ``folder`` that was written last among those whose name matches ``pattern``."""
    found = sorted(folder.rglob(pattern), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    return found[-1] if found else None


def _example(runs: Path, option: str = "--ckpt_path") -> str:
    found = newest(runs, "best*.ckpt")
    return f", such as {option} {found or 'lightning_logs/version_0'}"


def written_path(args: Sequence[str]) -> str | None:
    """Return the ``ckpt_path`` of a command line: its flag, or else that of the last configuration file that has one.

    It must be known before the arguments are parsed, because what the checkpoint remembers are their defaults.

    Raises:
        FaceExprError: a configuration file does not hold options.
    """
    configs = [_read_config(Path(name)) for name in (*_values(args, "--config"), *_values(args, "-c"))]
    written = [config["ckpt_path"] for config in configs if "ckpt_path" in config] + _values(args, "--ckpt_path")
    return str(written[-1]) if written and written[-1] not in (None, "", "null") else None


def _read_config(path: Path) -> dict[str, Any]:
    """Return what a configuration file holds; nothing where the parser will say what is wrong with it."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        raise FaceExprError(
            f"--config: {where}: {getattr(error, 'problem', None) or 'not a text file'}; expected YAML"
        ) from error
    if not isinstance(config, dict):
        what = "is empty" if config is None else f"holds {type(config).__name__} values"
        raise FaceExprError(f"--config: {path} {what}; expected options, such as `trainer: {{max_epochs: 3}}`")
    return config


def _values(args: Sequence[str], flag: str) -> list[str]:
    found = []
    for position, argument in enumerate(args):
        if argument == flag and position + 1 < len(args):
            found.append(args[position + 1])
        elif argument.startswith(f"{flag}="):
            found.append(argument.partition("=")[2])
    return found
