"""Read what runs have left, so that nobody types a number into a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cards.benchmark import read_benchmark
from cards.command import commands, without_folder
from experiments.paper.runs import minutes, processor, unleaked_accuracy
from faceexpr.metrics.predictions import file_name
from faceexpr.pipeline.programs import load_exportable
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import counted
from faceexpr.weights.checkpoints import find_checkpoint, read_checkpoint
from faceexpr.weights.model_file import shipped_models

FIGURES = ("confusion_matrix", "reliability", "prediction_sets", "robustness", "precision_recall", "slices")
"""Figures of a test that a card shows; those with faces of a data set are not among them."""


def collect(
    name: str,
    configs: Path,
    train: Sequence[Path],
    test: Path,
    validation: Path | None,
    robustness: Path | None,
    ferplus: Path | None,
    benchmark: Path | None,
    config_name: str | None,
) -> dict[str, Any]:
    """Return all that is measured of a model, as plain values.

    Args:
        name: of the model.
        configs: folder of the configurations.
        train: folders of its training, several where that was interrupted, or went on with other options from the
            weights of the folder before; the last has the result.
        test: folder of its test.
        validation: folder of a validation of the model as it ships; that of its training without one.
        robustness: folder of a test under corruptions; that of the test where it has one.
        ferplus: folder of a test of the network that has learned from FER+.
        benchmark: what ``benchmarks/detection.py`` has printed.
        config_name: name of the configuration that the training was given, where its runs are not called so.

    Raises:
        FaceExprError: a file is missing, or the runs are not of one model.
    """
    kept = [_config(folder) for folder in train]
    config = kept[-1]
    tested = find_checkpoint(_config(test)["ckpt_path"], test)
    if tested.suffix == ".ckpt" and train[-1].resolve() not in tested.resolve().parents:
        raise FaceExprError(f"{test} has measured {tested}; expected a checkpoint below {train[-1]}")
    shipped = shipped_models().get(name)
    fitted = _told(tested).get("calibration")
    if shipped is not None and _told(shipped).get("calibration") != fitted:
        raise FaceExprError(f"{test} has measured {tested}, which is calibrated otherwise than {shipped}; test {name}")
    model = load_exportable(shipped or tested)
    measured = str(train[-1]) if validation is None else _config(validation)["ckpt_path"]
    chosen = read_checkpoint(find_checkpoint(measured, validation or train[-1]))
    corrupted, grouped = (robustness or test) / "robustness.json", test / "slices_test.json"
    data = config["data"]["init_args"]
    return {
        "name": name,
        "network": type(model.net).__name__,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "bytes": None if shipped is None else shipped.stat().st_size,
        "training": {
            "commands": commands(kept, configs, config_name),
            "seed": config["seed_everything"],
            "epochs": config["trainer"]["max_epochs"],
            "best_epoch": chosen["epoch"] + 1,
            "minutes": round(sum(minutes(folder) for folder in train)),
            "hardware": f"{processor()}, {counted(os.cpu_count() or 1, 'core')}",
        },
        "test_options": {
            f"data.{option}": without_folder(value)
            for option, value in _config(test)["data"]["init_args"].items()
            if option in ("path", "votes", "test") and value is not None
        },
        "held_out": data.get("val_fraction") if data.get("val") is None else None,
        "calibration": fitted,
        "mirror": bool(_told(tested).get("mirror")),
        "validation": _metrics(validation or train[-1])["val"],
        "test": _metrics(test)["test"],
        "leaks": leaks(test),
        "robustness": json.loads(corrupted.read_text(encoding="utf-8")) if corrupted.exists() else None,
        "slices": json.loads(grouped.read_text(encoding="utf-8")) if grouped.exists() else None,
        "ferplus": None if ferplus is None else _metrics(ferplus)["test"],
        "benchmark": None if benchmark is None else read_benchmark(benchmark),
    }


def figures(test: Path, robustness: Path | None) -> dict[str, bytes]:
    """Return the content of the figures that a card shows, by name."""
    found = {}
    for name in FIGURES:
        for folder in filter(None, (robustness, test)):
            path = folder / "figures" / f"test_{name}.png"
            if path.exists():
                found[name] = path.read_bytes()
    return found


def leaks(test: Path) -> dict[str, Any] | None:
    """Return the accuracy without the images that are pixel-equal to one for training; None where none are known."""
    found = unleaked_accuracy(test / file_name("test"))
    return None if found is None else {"n": found[1], "accuracy_without": found[0]}


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(_text(folder / "config.yaml"))
    return config


def _metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, dict[str, Any]] = json.loads(_text(folder / "metrics.json"))
    return {
        split: {name: without_folder(value) if isinstance(value, str) else value for name, value in found.items()}
        for split, found in metrics.items()
    }


def _told(path: Path) -> dict[str, Any]:
    hyper_parameters: dict[str, Any] = read_checkpoint(path)["hyper_parameters"]
    return hyper_parameters


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FaceExprError(
            f"{path} cannot be read ({error.strerror}); expected the folder of a run that ended"
        ) from error
