"""Write a trained model as one file: a program that runs with torch alone, or a model file of half the size."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from faceexpr import __version__
from faceexpr.cli.parser import Parser, naming_options
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.calibrator import class_probabilities
from faceexpr.models.light_detector import MEAN, STD, STRIDES, LightDetector
from faceexpr.tasks.base import load_task
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.specs import describe
from faceexpr.weights.checkpoints import find_checkpoint, read_checkpoint
from faceexpr.weights.model_file import ENDING, packed

Exportable: TypeAlias = "ExpressionClassifier | FaceDetector"

PROGRAM = ".pt2"

METADATA = "faceexpr.json"
"""Name of the entry that holds the class names and the pre-processing in the exported file."""

TOLERANCE = 1e-4
"""Largest difference of a program from the model, in a probability."""

MODEL_TOLERANCE = 0.02
"""Of a model file: in a probability, in a score, and in a box as a part of its longer side."""

SUREST = 20
"""Boxes of an image that are compared."""


class Exported(nn.Module):
    """uint8 images (N, C, H, W) of any size to probabilities (N, K), pre-processing and calibration included.

    Args:
        model: the classifier whose network this is.
    """

    def __init__(self, model: ExpressionClassifier) -> None:
        super().__init__()
        self.net = model.net
        self.mirror = model.mirror
        self.calibration = model.effective_calibration

    def forward(self, image: Tensor) -> Tensor:
        return class_probabilities(self.net, image, self.mirror, self.calibration)[1]


def export(
    ckpt_path: str,
    out: Path,
    channels: int | None = None,
    data: str | None = None,
    licence: str | None = None,
    command: str | None = None,
    seed: int | None = None,
) -> None:
    """Write a checkpoint as one file, which is compared with the model before it gets its name.

    The ending of its name says what is written. A ``.pt2`` file is a ``torch.export`` program of a classifier that runs
    without this package: it takes uint8 images of any number and size and gives probabilities; class names and
    pre-processing are in its entry ``faceexpr.json``. A ``.safetensors`` file is a model file of a classifier or a
    detector: weights in half precision, and a header that says what they are; this package takes it wherever it takes
    a checkpoint, except to go on with a training.

    Args:
        ckpt_path: a checkpoint file, a run folder, a model file, or the name of a model that comes with the package.
        out: the file to write, ``*.pt2`` or ``*.safetensors``.
        channels: of a program: channels of the images that it will be given, 1 (grey) or 3 (RGB); by default those of
            the images that the model was trained on.
        data: of a model file: what it was trained on, in words.
        licence: of a model file: on what terms it may be used, in words.
        command: of a model file: how it was trained.
        seed: of a model file: the seed of its training.
    """
    told = {"data": data, "licence": licence, "command": command, "seed": seed}
    if channels not in (None, 1, 3):
        raise FaceExprError(f"channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if out.is_dir():
        raise FaceExprError(f"out: {out} is a folder; expected a file name")
    if out.suffix not in (PROGRAM, ENDING):
        raise FaceExprError(f"out: {out} ends in neither {PROGRAM} nor {ENDING}; expected a program or a model file")
    foreign, other = ({"channels": channels}, PROGRAM) if out.suffix == ENDING else (told, ENDING)
    for name in (name for name, value in foreign.items() if value is not None):
        raise FaceExprError(f"{name} is for {other} files, and out is {out}; expected no {name}")
    source = find_checkpoint(ckpt_path, Path("lightning_logs"))
    with TemporaryDirectory() as folder:
        written = Path(folder) / out.name
        if out.suffix == ENDING:
            summary = write_model_file(source, written, told)
        else:
            summary = write_program(source, written, channels)
        write_file(out, written.read_bytes())
    say(f"{out}: {summary}")


def write_program(source: Path, out: Path, channels: int | None) -> str:
    """Write the classifier of a checkpoint as a program for images of ``channels`` channels, and return what it is.

    None means those that it was trained on, or 1 where nobody knows.

    Raises:
        FaceExprError: the checkpoint holds no classifier, or the program gives other probabilities.
    """
    model = load_task(source, [ExpressionClassifier], "a classifier", "an ExpressionClassifier").eval()
    crop = model.crop or Crop()
    channels = channels or crop.channels or 1
    exported = Exported(model)
    size = model.net.preprocess.size
    example = torch.randint(0, 256, (2, channels, size + 32, size + 48), dtype=torch.uint8)
    sides = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    dynamic = {0: torch.export.Dim("images", min=1), **sides}
    program = torch.export.export(exported, (example,), dynamic_shapes=(dynamic,), strict=False)
    metadata = {
        "class_names": list(model.class_names),
        "channels": channels,
        "crop": asdict(crop),
        "preprocess": _preprocess(model),
        "mirror": model.mirror,
        "calibration": describe(model.calibration, "calibration"),
        "faceexpr": __version__,
    }
    with warnings.catch_warnings():
        # Said of each weight in channels_last; what was written is compared with the model below.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, out, extra_files={METADATA: json.dumps(metadata)})
    found = load_exported(out)[0]
    generator = torch.Generator().manual_seed(0)
    difference = 0.0
    for shape in ((1, channels, size, size), (3, channels, 10 * size, 7 * size)):
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            difference = max(difference, float((found(image) - exported(image)).abs().max()))
    if difference > TOLERANCE:
        raise FaceExprError(
            f"the exported program differs from {source} by {difference:.2g} in a probability, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    return f"{', '.join(model.class_names)}; largest difference from the model {difference:.1e}"


def _preprocess(model: ExpressionClassifier) -> dict[str, Any]:
    preprocess = model.net.preprocess
    return {
        "channels": preprocess.channels,
        "size": preprocess.size,
        "mean": preprocess.mean.flatten().tolist(),
        "std": preprocess.std.flatten().tolist(),
        **({"standardise": True} if preprocess.standardise else {}),
    }


def load_exported(path: Path) -> tuple[nn.Module, dict[str, object]]:
    """Return an exported program and its metadata."""
    extra = {METADATA: ""}
    program = torch.export.load(path, extra_files=extra)
    metadata: dict[str, object] = json.loads(extra[METADATA])
    return program.module(), metadata


def write_model_file(source: Path, out: Path, told: Mapping[str, str | int | None]) -> str:
    """Write the model of a checkpoint as a model file, and return what it is.

    Args:
        source: the checkpoint, or another model file, whose origin is then told again.
        out: the file to write.
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
    out.write_bytes(packed(model.state_dict(), halved, header))
    difference, spoken = _model_difference(load_exportable(out), model)
    if not difference <= MODEL_TOLERANCE:  # nor where it is no number
        raise FaceExprError(
            f"the model file would differ from {source} by {spoken}, more than {MODEL_TOLERANCE:g}: its weights do "
            "not fit half precision; nothing was written"
        )
    size = out.stat().st_size / 1e6
    return f"{type(model.net).__name__}, {size:.2f} MB; largest difference from the model: {spoken}"


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
    header = {
        "faceexpr": __version__,
        "lightning": lightning.__version__,
        "hyper_parameters": without_folders(hyper_parameters),
        "data_hyper_parameters": without_folders(checkpoint.get("datamodule_hyper_parameters", {})),
    }
    if isinstance(model, ExpressionClassifier):
        header |= {"class_names": list(model.class_names), "preprocess": _preprocess(model)}
        header["crop"] = asdict(model.crop or Crop())
        temperature = (hyper_parameters.get("calibration") or {}).get("temperature")
        header |= {} if temperature is None else {"temperature": temperature}
    elif isinstance(model.net, LightDetector):
        scale = {"mean": [MEAN] * 3, "std": [STD] * 3}
        header["preprocess"] = {"channels": 3, "longer_side": model.net.test_side, "multiple": STRIDES[-1], **scale}
    return header


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
def _model_difference(one: Exportable, other: Exportable) -> tuple[float, str]:
    """Return the largest difference on drawn images, and in words."""
    rng = np.random.default_rng(0)
    faces, width, height = (1, 96, 96) if isinstance(one, ExpressionClassifier) else (5, 320, 256)
    images = [torch.tensor(draw_scene(rng, width, height, faces)[0]).permute(2, 0, 1) for _ in range(8)]
    if not isinstance(one, FaceDetector) or not isinstance(other, FaceDetector):
        batch = torch.stack(images)
        found = float((one(batch) - other(batch)).abs().max())
        return found, f"{found:.1g} in a probability"
    pairs = zip(one.net.candidates(images), other.net.candidates(images), strict=True)
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


def run(args: list[str]) -> None:
    """Run ``faceexpr export``."""
    parser = Parser(prog="faceexpr export")
    parser.add_function_arguments(export)
    config = parser.parse_args(args[1:])
    with naming_options(config):
        export(**config.as_dict())
