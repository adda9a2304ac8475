"""The classes that a command line may name alone, and those that it stands for without naming any."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lightning.pytorch import LightningModule

import faceexpr.data
import faceexpr.models
import faceexpr.tasks
from faceexpr.cli.written import first_class
from faceexpr.data.base import FaceDataModule
from faceexpr.utils.specs import class_path

MODEL_CLASS = "faceexpr.tasks.classify.ExpressionClassifier"
DETECTOR_CLASS = "faceexpr.tasks.detect.FaceDetector"
DATA_CLASS = "faceexpr.data.synthetic.SyntheticFaces"
# The defaults of these classes, written out: a flag such as --model.optimizer.lr needs a class to be an option of.
WRITTEN_OUT: dict[str, dict[str, Any]] = {
    MODEL_CLASS: {
        "net": {"class_path": "faceexpr.models.simple_cnn.SimpleCNN"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
    },
    DETECTOR_CLASS: {
        "net": {"class_path": "faceexpr.models.light_detector.LightDetector"},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
    },
}


def import_short_names() -> None:
    """Import every module of data, models and tasks, so that the names of their classes are understood alone."""
    for package in (faceexpr.data, faceexpr.models, faceexpr.tasks):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)


def default_classes(args: Sequence[str]) -> dict[str, Any]:
    """Return the defaults of ``model`` and ``data``: the class that the arguments name first, or else the program's."""
    defaults = {}
    for option, base, default in (("model", LightningModule, MODEL_CLASS), ("data", FaceDataModule, DATA_CLASS)):
        # What is no class is refused with its option's name where it is parsed.
        path = known_classes(base).get(first_class(args, option) or default, default)
        defaults[option] = {"class_path": path, "init_args": WRITTEN_OUT.get(path, {})}
    return defaults


def known_classes(base: type) -> dict[str, str]:
    """Return the import paths of the known classes derived from ``base``, by their names and by the paths."""
    found: dict[str, str] = {}
    derived: type
    for derived in base.__subclasses__():
        path = class_path(derived)
        found |= {derived.__name__: path, path: path, **known_classes(derived)}
    return found
