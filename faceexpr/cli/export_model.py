"""Write a trained model as a model file: half the size, readable by others, compared before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias

import lightning
import numpy as np
import torch
from torch import Tensor

from faceexpr import __version__
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.light_detector import MEAN, STD, STRIDES, LightDetector
from faceexpr.tasks.base import load_task
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say
from faceexpr.weights.checkpoints import read_checkpoint
from faceexpr.weights.model_file import packed

Exportable: TypeAlias = "ExpressionClassifier | FaceDetector"

TOLERANCE = 0.02
"""Largest difference from the model: in a probability, in a score, and in a box as a part of its longer side."""

SUREST = 20
"""Boxes of a picture that are compared."""


def write_model_file(source: Path, out: Path, temporary: Path, told: Mapping[str, str | int | None]) -> None:
    """Write a checkpoint as a model file.

    Args:
        source: the checkpoint, or another model file, whose origin is then told again.
        out: the file to write.
        temporary: its name until it was compared with the model.
        told: what the file says of its origin, by the names of `model_file.TOLD`; None says nothing.

    Raises:
        FaceExprError: the checkpoint holds no such model, or its weights lose too much in half precision.
    """
    model = load_exportable(source)
    checkpoint = read_checkpoint(source)
    header = _header(model, checkpoint)
    header |= checkpoint.get("told", {}) | {name: value for name, value in told.items() if value is not None}
    # Biases and the statistics of batch normalisation are few, and range widely: they keep their precision.
    halved = {name for name, value in model.named_parameters() if value.dim() > 1}
    temporary.write_bytes(packed(model.state_dict(), halved, header))
    difference, spoken = _difference(load_exportable(temporary), model)
    if not difference <= TOLERANCE:  # nor where it is no number
        raise FaceExprError(
            f"the model file would differ from {source} by {spoken}, more than {TOLERANCE:g}: its weights do not fit "
            "half precision; nothing was written"
        )
    temporary.replace(out)
    net = type(model.net).__name__
    say(f"{out}: {net}, {out.stat().st_size / 1e6:.2f} MB; largest difference from the model: {spoken}")


def load_exportable(path: Path) -> Exportable:
    """Return the model of a checkpoint, set to evaluation.

    Raises:
        FaceExprError: it is of another kind.
    """
    kinds: list[type[Any]] = [ExpressionClassifier, FaceDetector]
    model: Exportable = load_task(path, kinds, "a model to export", "an ExpressionClassifier or a FaceDetector")
    return model.eval()


def _header(model: Exportable, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    hyper_parameters = {**checkpoint["hyper_parameters"]}
    if "weights" in hyper_parameters:
        hyper_parameters["weights"] = None  # what its training began with is told in words, where it matters
    described: dict[str, Any] = {"faceexpr": __version__, "lightning": lightning.__version__}
    if isinstance(model, ExpressionClassifier):
        preprocess = model.net.preprocess
        described |= {
            "class_names": list(model.class_names),
            "preprocess": {
                "channels": preprocess.channels,
                "size": preprocess.size,
                "mean": preprocess.mean.flatten().tolist(),
                "std": preprocess.std.flatten().tolist(),
            },
        }
        temperature = (hyper_parameters.get("calibration") or {}).get("temperature")
        described |= {} if temperature is None else {"temperature": temperature}
    elif isinstance(model.net, LightDetector):
        scale = {"mean": [MEAN] * 3, "std": [STD] * 3}
        described["preprocess"] = {"channels": 3, "longer_side": model.net.test_side, "multiple": STRIDES[-1], **scale}
    return {
        **described,
        "hyper_parameters": without_folders(hyper_parameters),
        "data_hyper_parameters": without_folders(checkpoint.get("datamodule_hyper_parameters", {})),
    }


def without_folders(value: Any) -> Any:
    """Return plain values in which of an absolute path only the last part is left: folders are nobody else's affair."""
    if isinstance(value, Mapping):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if isinstance(value, str):
        for path in (PurePosixPath(value), PureWindowsPath(value)):
            if path.is_absolute() or value.startswith("~"):
                return path.name
    return value


@torch.inference_mode()
def _difference(one: Exportable, other: Exportable) -> tuple[float, str]:
    """Return the largest difference on drawn pictures, and in words."""
    rng = np.random.default_rng(0)
    faces, width, height = (1, 96, 96) if isinstance(one, ExpressionClassifier) else (5, 320, 256)
    pictures = [torch.tensor(draw_scene(rng, width, height, faces)[0]).permute(2, 0, 1) for _ in range(8)]
    if not isinstance(one, FaceDetector) or not isinstance(other, FaceDetector):
        batch = torch.stack(pictures)
        found = float((one(batch) - other(batch)).abs().max())
        return found, f"{found:.1g} in a probability"
    pairs = zip(one.net.candidates(pictures), other.net.candidates(pictures), strict=True)
    boxes, scores = (torch.cat(parts).max() for parts in zip(*(_apart(*a, *b) for a, b in pairs), strict=True))
    return float(max(boxes, scores)), f"{scores:.1g} in a score, {boxes:.1g} of a box's longer side"


def _apart(boxes: Tensor, scores: Tensor, other_boxes: Tensor, other_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return for the surest boxes how far the nearest of the other ones are, and how far their scores; 0 of none."""
    if not len(scores):
        return scores.new_zeros(1), scores.new_zeros(1)
    if not len(other_scores):
        return scores.new_ones(1), scores.new_ones(1)
    scores, order = scores.topk(min(SUREST, len(scores)))
    boxes = boxes[order]
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    distances = (boxes[:, None] - other_boxes[None]).abs().amax(2) / sides
    differences = (scores[:, None] - other_scores[None]).abs()
    nearest = (distances + differences).argmin(1, keepdim=True)
    return distances.gather(1, nearest).flatten(), differences.gather(1, nearest).flatten()
