"""Find checkpoint files and read what they remember, without trusting them."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_warn

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.redirects import redirect
from faceexpr.weights.model_file import is_model_file, read_model_file, shipped_models
from faceexpr.weights.pretrained import load_tensors

NAMING = ("class_path", "_class_path", "net", "optimizer", "scheduler")
"""Keys of hyper-parameters under which a text names what is called to build a part of a model."""

WRITTEN = "a file that faceexpr fit has written"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU with ``weights_only=True``, or a model file, which looks like one.

    Raises:
        FaceExprError: the file is not a checkpoint, holds objects that only a full unpickle would load, names
            functions, which would be called with arguments of its choice, or classes that have no names.
    """
    if is_model_file(path):
        checkpoint = read_model_file(path)
    else:
        checkpoint = load_tensors(path, f"{path} cannot be loaded as a checkpoint", WRITTEN)
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise FaceExprError(f"{path} is not a training checkpoint; expected {WRITTEN}")
    for stored in ("hyper_parameters", "datamodule_hyper_parameters"):
        if stored in checkpoint:
            checkpoint[stored] = redirect(checkpoint[stored])
        _check_described(path, stored, checkpoint.get(stored))
    return checkpoint


def _check_described(path: Path, stored: str, values: Any) -> None:
    for name in _named(values):
        if not _may_be_class(name):
            raise FaceExprError(
                f"{path} names {name} among its {stored}, which is no class but would be run: it is damaged or made "
                f"by hand; expected {WRITTEN}"
            )
    # Those of data may be null: folders tell them.
    if stored == "hyper_parameters" and isinstance(values, Mapping) and "class_names" in values:
        names = values["class_names"]
        if not (isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names)):
            raise FaceExprError(f"{path} has {names!r} for class_names, which are no names; expected {WRITTEN}")


def _named(value: Any, key: str = "") -> Iterator[str]:
    """Yield all names of what is called when a model is built from hyper-parameters."""
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _named(item, str(inner))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _named(item, key)
    elif isinstance(value, str):
        # What builds a model reads texts as YAML, and a key may be a whole path, such as "net.class_path".
        inner = _as_yaml(value)
        if inner != value and isinstance(inner, str | Mapping | list):
            yield from _named(inner, key)
        elif key.rpartition(".")[2] in NAMING:
            yield value


def _as_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _may_be_class(name: str) -> bool:
    """Tell whether a name is of a class, or of nothing that could be called."""
    if name.isidentifier():  # which is looked up among the classes that are known
        return True
    try:
        return isinstance(pkgutil.resolve_name(name), type)
    except ValueError:  # no name of a module, but for a class in a function, which nobody finds
        return "<locals>" in name
    except Exception:  # a module may raise any type; whoever builds the model says that it cannot be imported
        return True


def class_of(checkpoint: Mapping[str, Any], path: Path) -> str:
    """Return the import path of the class whose weights a checkpoint holds.

    Args:
        checkpoint: as `read_checkpoint` returns it.
        path: its file, for the message.

    Raises:
        FaceExprError: it does not say.
    """
    hyper_parameters = checkpoint.get("hyper_parameters")
    name = hyper_parameters.get("_class_path") if isinstance(hyper_parameters, dict) else None
    if name is None or "pytorch-lightning_version" not in checkpoint:
        raise FaceExprError(f"{path} does not say what model it holds; expected {WRITTEN}")
    return str(name)


def remembered(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its model, its data and its classes, as defaults for the command line.

    Raises:
        FaceExprError: it is no checkpoint, or does not say what model it holds.
    """
    checkpoint = read_checkpoint(path)
    class_of(checkpoint, path)
    found: dict[str, Any] = {}
    model = checkpoint["hyper_parameters"]
    if "class_names" in model:
        found["class_names"] = model.pop("class_names")
    for key, values in (("model", model), ("data", checkpoint.get("datamodule_hyper_parameters", {}))):
        options = {name: value for name, value in values.items() if name not in ("_instantiator", "_class_path")}
        if class_path := values.get("_class_path"):
            found[key] = {"class_path": class_path, "init_args": options}
    return found


def find_checkpoint(written: str | Path, runs: Path, parameter: str = "ckpt_path", resumes: bool = False) -> Path:
    """Return the checkpoint or model file that somebody names.

    Args:
        written: a file, a run folder (its best checkpoint, calibrated where that was done since), ``last`` (the newest
            last.ckpt below ``runs`` that can be loaded), or the name of a model that comes with the package, which goes
            before a file of that name.
        runs: folder of the runs, such as ``lightning_logs``.
        parameter: the name of the parameter that names the file, for messages.
        resumes: a training shall go on from it, which takes more than the weights.

    Raises:
        FaceExprError: there is no such checkpoint.
    """
    shipped = shipped_models()
    # A `Path` is the file, as is ``./NAME``.
    path = shipped.get(written, Path(written)) if isinstance(written, str) else written
    if resumes and is_model_file(path):
        raise FaceExprError(
            f"{parameter} is {written}, a model, which does not say how far its training has come; expected a "
            f"checkpoint to go on from, or a new training whose model begins with these weights (weights: {written})"
        )
    if written == "last":
        found = newest_loadable(runs)
        if found is None:
            raise FaceExprError(f"{parameter} is last, but there is no last.ckpt below {runs}; expected a file")
        return found
    if written == "best":
        raise FaceExprError(
            f"{parameter} is best, but a new process knows of no run that it could be the best of; expected a "
            f"file or a run folder, such as {newest(runs, 'best*.ckpt') or 'lightning_logs/version_0'}"
        )
    if path.is_dir():
        found = newest(path, "best*.ckpt", "calibrated*.ckpt")
        if found is None:
            raise FaceExprError(f"{parameter}: there is no best.ckpt in the run folder {path}; expected a file")
        return found
    if not path.is_file():
        raise FaceExprError(
            f"{parameter}: {written} does not exist; expected a checkpoint, a model file, a run folder or one of the "
            f"models that come with faceexpr: {', '.join(shipped) or 'none in this installation'}"
        )
    return path


def newest_loadable(runs: Path) -> Path | None:
    """Return the newest last.ckpt below ``runs``; those that cannot be loaded are named and passed over."""
    for path in reversed(_by_age(runs, "last*.ckpt")):
        try:
            read_checkpoint(path)
        except FaceExprError as error:
            rank_zero_warn(f"{error}; it is passed over")
        else:
            return path
    return None


def newest(folder: Path, *patterns: str) -> Path | None:
    """Return the file below ``folder`` that was written last among those whose name matches one of ``patterns``."""
    return next(reversed(_by_age(folder, *patterns)), None)


def _by_age(folder: Path, *patterns: str) -> list[Path]:
    return sorted((path for each in patterns for path in folder.rglob(each)), key=lambda path: path.stat().st_mtime)
