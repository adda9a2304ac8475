"""Run folders of Detectron2 trainings: what is where in them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from faceexpr.boxes.suppression import Suppression
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.checkpoints import newest

OPTIONS = "config.yaml"
"""Our options, to be given to ``--config``."""

CONFIG = "detectron2.yaml"
"""The whole configuration of Detectron2 that they lead to."""

VERSION = re.compile(r"version_(\d+)")


def next_folder(save_dir: Path, name: str, version: int | None, fresh: bool = True) -> Path:
    """Return the folder of a new run, ``save_dir/name/version_N``.

    Args:
        save_dir: folder of the runs.
        name: of the experiment.
        version: N; by default the next that is free.
        fresh: the folder must not hold a run; on further machines the first one may have begun in it.

    Raises:
        FaceExprError: the version that was asked for is there already.
    """
    parent = save_dir / name
    if version is None:
        taken = [int(match[1]) for path in parent.glob("version_*") if (match := VERSION.fullmatch(path.name))]
        version = max(taken, default=-1) + 1
    folder = parent / f"version_{version}"
    if fresh and folder.exists() and any(folder.iterdir()):
        raise FaceExprError(
            f"version: {folder} holds a run already; expected another number, none, or --resume {folder}"
        )
    return folder


def checkpoint_file(source: Path) -> Path:
    """Return the checkpoint that a run folder or a file means.

    Raises:
        FaceExprError: there is none.
    """
    if source.is_dir():
        found = newest(source, "best.pth") or newest(source, "last.pth")
        if found is None:
            raise FaceExprError(f"{source} holds no checkpoints/best.pth; expected the folder of a Detectron2 run")
        return found
    if not source.is_file():
        raise FaceExprError(f"{source} does not exist; expected a .pth file of a Detectron2 run, or the run's folder")
    return source


def run_folder_of(checkpoint: Path) -> Path:
    """Return the run folder that a checkpoint lies in.

    Raises:
        FaceExprError: it lies in none.
    """
    for folder in checkpoint.resolve().parents[:2]:
        if (folder / CONFIG).is_file():
            return folder
    raise FaceExprError(
        f"{checkpoint}: there is no {CONFIG} beside it or above it, which says what network it belongs to; expected a "
        "checkpoint in its run folder"
    )


def read_suppression(folder: Path) -> Suppression:
    """Return the suppression that a run was measured with.

    Raises:
        FaceExprError: the run's options cannot be read.
    """
    path = folder / OPTIONS
    try:
        return Suppression(**yaml.safe_load(path.read_text(encoding="utf-8"))["suppression"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise FaceExprError(
            f"{path} does not say how candidates become detections ({error}); expected the options that faceexpr "
            "detectron2 fit has written"
        ) from error
