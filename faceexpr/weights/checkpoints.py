"""Find checkpoint files by the records of their runs, and read what they remember, without trusting them."""

from __future__ import annotations

import json
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from faceexpr.utils.crop import FACE_SIZE, Crop
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import write_file
from faceexpr.utils.redirects import redirect
from faceexpr.utils.text import kind_of, nearest, some
from faceexpr.weights.model_file import DETECTOR, is_model_file, read_model_file, shipped_models
from faceexpr.weights.pretrained import load_tensors

NAMING = ("class_path", "_class_path", "net", "optimizer", "scheduler")
"""Keys of hyper-parameters under which a text names what is called to build a part of a model."""

OWN_CLASS = re.compile(r"faceexpr(\.[a-z]\w*)+\.[A-Z]\w*")
"""Names of this package's classes: it has no function whose name begins with a capital letter."""

WRITTEN = "a file that faceexpr fit has written"

RECORD = "run.json"
"""The record of a run, in its folder."""

CALIBRATED = "calibrated.ckpt"
"""Beside the checkpoint of the best epoch; of checkpoints of other names, theirs come first."""


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
    if OWN_CLASS.fullmatch(name):  # to import the modules of tasks takes seconds, and who uses a model needs few
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


def net_weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of the network of a task's checkpoint, by their names in the network."""
    state = checkpoint["state_dict"]
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}


def crop_of(checkpoint: Mapping[str, Any]) -> Crop:
    """Return how the faces were made that the model of a checkpoint was trained on.

    Those of 0.1 do not say; their data do: FER-2013 is grey, and `FaceFolder` changed the proportions of its images. A
    model of theirs that makes faces grey itself is left to do so, as its probabilities have been so far. What is no
    crop is a `FaceExprError`.
    """
    stored = checkpoint.get("crop")
    if stored is not None:
        try:
            return Crop(**stored)
        except TypeError as error:
            raise FaceExprError(f"the checkpoint has {stored!r} for its crop; expected {WRITTEN}") from error
    data = checkpoint.get("datamodule_hyper_parameters") or {}
    name = str(data.get("_class_path")).rpartition(".")[2]
    if name in ("FER2013", "FERPlus"):
        data = {"channels": 1, "image_size": FACE_SIZE}
    taken = [value.shape[1] for key, value in checkpoint["state_dict"].items() if key.endswith("preprocess.mean")]
    compared = (checkpoint.get("hyper_parameters", {}).get("representation") or {}).get("init_args") or {}
    channels = data.get("channels") if 3 in (*taken, compared.get("channels"), data.get("channels")) else None
    return Crop(shape="stretched" if name == "FaceFolder" else "square", channels=channels, size=data.get("image_size"))


def remembered(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its model, its data, its classes and its faces, for the command line.

    Raises:
        FaceExprError: it is no checkpoint, or does not say what model it holds.
    """
    checkpoint = read_checkpoint(path)
    class_of(checkpoint, path)
    found: dict[str, Any] = {"crop": crop_of(checkpoint)}
    model = checkpoint["hyper_parameters"]
    if "class_names" in model:
        found["class_names"] = model.pop("class_names")
    for key, values in (("model", model), ("data", checkpoint.get("datamodule_hyper_parameters", {}))):
        options = {name: value for name, value in values.items() if name not in ("_instantiator", "_class_path")}
        if class_path := values.get("_class_path"):
            found[key] = {"class_path": class_path, "init_args": options}
    return found


def find_checkpoint(written: str | Path, runs: str | Path, parameter: str = "ckpt_path", resumes: bool = False) -> Path:
    """Return the checkpoint or model file that somebody names.

    Args:
        written: a file, a run folder (its best checkpoint, calibrated where that was done since), ``last`` (the newest
            state of the training below ``runs`` that was started last), or the name of a model that comes with the
            package, which takes precedence over a file of that name.
        runs: folder of the runs, such as ``lightning_logs``.
        parameter: the name of the parameter that names the file, for messages.
        resumes: a training shall go on from it, which takes more than the weights.

    Raises:
        FaceExprError: there is no such checkpoint, or nothing says which one it is.
    """
    require(isinstance(written, str | os.PathLike), parameter, kind_of(written), "a file or a name")
    shipped, runs = shipped_models(), Path(runs)
    # A `Path` is the file, as is ``./NAME``.
    path = shipped.get(written, Path(written)) if isinstance(written, str) else written
    if resumes and is_model_file(path):
        raise FaceExprError(
            f"{parameter} is {written}, a model, which does not say how far its training has come; expected a "
            f"checkpoint to go on from, or a new training whose model begins with these weights (weights: {written})"
        )
    if written == "last":
        found = find_last(list_runs(runs), parameter)
        if found is None:
            raise FaceExprError(f"{parameter} is last, but no run below {runs} has a last.ckpt; expected a file")
        return found
    if written == "best":
        raise FaceExprError(
            f"{parameter} is best, but a new process knows of no run that it could be the best of; expected a "
            f"file or a run folder{example(runs)}"
        )
    if path.is_dir():
        return best_checkpoint(path, parameter)
    if not path.is_file():
        named = [name for name in shipped if parameter != ("classifier" if name == DETECTOR else "detector")]
        raise FaceExprError(
            f"{parameter}: {written} does not exist; expected a checkpoint, a model file, a run folder or one of the "
            f"models that come with faceexpr: {', '.join(named) or 'none in this installation'}"
            f"{nearest(str(written), named)}"
        )
    return path


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of the run in a folder; None where it has none, as the runs of version 0.1."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "verb" in record and "faceexpr" in record else None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run, whole or not at all."""
    write_file(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n")


def as_stored(path: str | Path, folder: Path) -> str:
    """Return the path of a file as a record has it: from the run's folder, so that a copied folder still works."""
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()


def run_of(path: Path) -> Path:
    """Return the run folder that a checkpoint is usually in."""
    return path.parents[path.parent.name == "checkpoints"]


def calibrated_copy(path: Path) -> Path:
    """Return where the calibrated copy of a checkpoint lies: beside it; that of a calibrated one is the file itself."""
    if f".{path.name}".endswith(f".{CALIBRATED}"):
        return path
    return path.with_name(CALIBRATED if path.stem == "best" else f"{path.stem}.{CALIBRATED}")


def best_checkpoint(folder: str | Path, parameter: str = "ckpt_path") -> Path:
    """Return the best checkpoint of a run, or its calibrated copy, as its record says.

    Without a record, as in runs of version 0.1, the checkpoints themselves say it: each holds its own score.

    Args:
        folder: of the run, or one with a single run below it.
        parameter: for messages.

    Raises:
        FaceExprError: there is none, or nothing says which one is the best.
    """
    folder = Path(folder)
    record = read_record(folder) or {}
    best = _file_in(record, "best", folder)
    if best is not None:
        return _or_calibrated(best)
    files = sorted(folder.rglob("*.ckpt"))
    runs = sorted({run_of(path) for path in files})
    if not files:
        measured = f", a run of faceexpr {record['verb']}" if record else ""
        raise FaceExprError(f"{parameter}: there is no checkpoint in {folder}{measured}; expected a run of fit")
    if len(runs) > 1:
        raise FaceExprError(f"{parameter}: {folder} holds several runs; expected one of {some([*map(str, runs)])}")
    if runs != [folder] and read_record(runs[0]) is not None:
        return best_checkpoint(runs[0], parameter)
    found = _best_by_state(files)
    if found is None:
        raise FaceExprError(
            f"{parameter}: nothing says which checkpoint in {folder} is the best; expected a file, one of "
            f"{some([*map(str, files)])}"
        )
    return found


def _file_in(record: Mapping[str, Any], which: str, folder: Path) -> Path | None:
    """Return the file that a record names, where it is there."""
    entry = record.get(which)
    path = entry.get("path") if isinstance(entry, dict) else None
    found = Path(os.path.normpath(folder / path)) if isinstance(path, str) else folder
    return found if found.is_file() else None


def _best_by_state(files: Sequence[Path]) -> Path | None:
    """Return the best checkpoint of a run, or its calibrated copy, by what its files hold; None where they do not say.

    Each holds what was the best when it was written, so that the one of most steps says it.
    """
    states: dict[Path, tuple[int, str, set[str]]] = {}
    for path in files:
        checkpoint = read_checkpoint(path)
        for key, state in checkpoint.get("callbacks", {}).items():
            if key.startswith("BestCheckpoint"):
                # By name: all files may have been moved together.
                best, *others = [Path(name).name for name in (state["best_model_path"], *state["best_k_models"])]
                states[path] = checkpoint["global_step"], best, {best, *others}
    if not states:
        return files[0] if len(files) == 1 else None
    _, best, kept = max(states.values(), key=lambda state: (state[0], state[1]))
    found = [path for path in files if path.name == best]
    # What another training has left in the same folder, it cannot judge.
    if len(found) != 1 or any(path.name in own - kept for path, (_, _, own) in states.items()):
        return None
    return _or_calibrated(found[0])


def _or_calibrated(path: Path) -> Path:
    """Return the calibrated copy of a checkpoint, where there is one and it has the same weights."""
    copy = calibrated_copy(path)
    steps = [read_checkpoint(one).get("global_step") for one in (path, copy) if copy.is_file()]
    return copy if steps and steps[0] == steps[1] else path


class Run(NamedTuple):
    """A training with a state to go on from; the record of one of version 0.1 is empty."""

    folder: Path
    last: Path
    record: dict[str, Any]


def list_runs(folder: Path, below: str = "**/") -> list[Run]:
    """Return the trainings in a folder that have a state to go on from, that which was started last at the end.

    Args:
        folder: of the runs.
        below: pattern of the folders in it: all of them, those right in it (``*/``), or itself (empty).
    """
    records = {path.parent: read_record(path.parent) for path in folder.glob(below + RECORD)}
    runs = [
        Run(holder, last, record)
        for holder, record in records.items()
        if record is not None and (last := _file_in(record, "last", holder)) is not None
    ]
    found = {*folder.glob(f"{below}checkpoints/last*.ckpt"), *folder.glob(f"{below}last*.ckpt")}
    old = [path for path in sorted(found) if records.get(run_of(path)) is None and calibrated_copy(path) != path]
    holders = [*map(run_of, old)]
    # Two states in one folder are of two trainings.
    runs += [Run(run_of(path) if holders.count(run_of(path)) == 1 else path, path, {}) for path in old]
    return sorted(runs, key=lambda run: str(run.record.get("started", "")))


def find_last(runs: list[Run], parameter: str = "ckpt_path", options: Mapping[str, str] | None = None) -> Path | None:
    """Return the newest state of a training; one that cannot be loaded is named and passed over.

    Args:
        runs: among which it is, as `list_runs` returns them.
        parameter: for messages.
        options: what a command line that shall go on says of its model, data and seed: it goes on with the run that has
            been started with the same, and where it says nothing of them, with the only training that there is. None
            takes the training that was started last.

    Raises:
        FaceExprError: nothing says which training is meant.
    """
    while runs:
        run = _choose(runs, parameter, options)
        try:
            read_checkpoint(run.last)
        except FaceExprError as error:
            from lightning.pytorch.utilities import rank_zero_warn  # which takes seconds, for files that nobody trains

            rank_zero_warn(f"{error}; it is passed over")
            runs = [other for other in runs if other is not run]
        else:
            return run.last
    return None


def _choose(runs: Sequence[Run], parameter: str, options: Mapping[str, str] | None) -> Run:
    # Runs that have gone on from one another are one training.
    trainings = [*{run.record.get("training", run.folder.resolve().as_posix()): run for run in runs}.values()]
    same = [run for run in trainings if run.record and run.record.get("options") == options]
    if same or (len(trainings) == 1 and not (options and trainings[0].record)):
        return (same or trainings)[-1]
    if options is None and all(run.record for run in runs):
        return runs[-1]
    raise FaceExprError(
        f"{parameter} is last, and no record says which of these is meant: {some([str(run.folder) for run in runs])}; "
        f"expected the command that has started it, the file to go on from, such as {runs[-1].last}, or another folder "
        "or no ckpt_path for a new training"
    )


def example(runs: Path) -> str:
    """Return the end of a message that expects a run: the newest one, where there is any."""
    found = [run for run in list_runs(runs) if run.record]
    return f", such as {found[-1].folder}" if found else ""
