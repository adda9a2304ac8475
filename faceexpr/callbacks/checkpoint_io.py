"""Checkpoints that are whole or not there, and model files in their place.

A kill or a full disk in the middle of writing a checkpoint leaves the one before.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.checkpoints import read_checkpoint
from faceexpr.weights.model_file import is_model_file

PART = ".part"
"""End of the name of a checkpoint that is being written; it begins with a dot."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under another name in its own folder, and rename it once it has reached the disk.

    Lightning's own writer puts the temporary file into the folder for temporary files. Where that is another file
    system, the last step is a copy, which a kill or a full disk cuts short.
    """

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, place: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if is_model_file(path):
            return read_checkpoint(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        if "://" in str(path):  # storage of a network, which Lightning knows how to write to
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # At once, since torch reports what goes wrong in a file in many ways, and Python in one.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        part = target.with_name(f".{target.name}{PART}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            _settle(target.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            kept = ", and the one before it is kept" if target.exists() else ""
            raise FaceExprError(
                f"the checkpoint {target} cannot be written ({error.strerror or error}){kept}; expected "
                f"{math.ceil(len(content.getbuffer()) / 1e5) / 10:,} MB of room in a folder that may be written to"
            ) from error


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left of checkpoints that they were writing."""
    for part in sorted(folder.glob(f".*.ckpt{PART}")) if folder.is_dir() else []:
        part.unlink(missing_ok=True)
        rank_zero_info(f"{part} is the part of a checkpoint whose writing was cut short; it is removed")


def _settle(folder: Path) -> None:
    """Let a new name in a folder survive a power cut, where the system can do so."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems of a network settle names by themselves
    finally:
        os.close(handle)
