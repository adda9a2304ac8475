"""Trained models from their checkpoints."""

from __future__ import annotations

import io
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from faceexpr.tasks.base import Task
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import class_path
from faceexpr.weights.checkpoints import class_of, read_checkpoint
from faceexpr.weights.model_file import is_model_file

AnyTask = TypeVar("AnyTask", bound=Task)


def load_task(path: Path, kinds: Sequence[type[AnyTask]], role: str, wanted: str) -> AnyTask:
    """Return the model of a checkpoint or a model file, on the CPU.

    Args:
        path: the checkpoint file.
        kinds: the classes that it may hold.
        role: what it is loaded as, for the message.
        wanted: what it may hold, for the message.

    Raises:
        FaceExprError: the file is no checkpoint, it holds another model, or its weights do not fit its network.
    """
    checkpoint = read_checkpoint(path)
    name = class_of(checkpoint, path)
    kind = next((kind for kind in kinds if class_path(kind) == name), None)
    if kind is None:
        raise FaceExprError(
            f"{path} cannot be loaded as {role}: it holds {name.rpartition('.')[2]}; expected the checkpoint of "
            f"{wanted}"
        )
    try:
        return kind.load_from_checkpoint(_as_lightning_reads(path, checkpoint), map_location="cpu")
    except (FaceExprError, ArgumentError, ValueError, TypeError, RuntimeError) as error:
        raise FaceExprError(
            f"{path} cannot be loaded as {role}: its weights do not fit what it says of its network and its classes; "
            "expected a file as faceexpr fit has written it"
        ) from error


def _as_lightning_reads(path: Path, checkpoint: Mapping[str, Any]) -> Path | io.BytesIO:
    """Return a checkpoint's file, or what a model file holds as such a file in memory."""
    if not is_model_file(path):
        return path
    content = io.BytesIO()
    torch.save(checkpoint, content)
    content.seek(0)
    return content
