"""Write a trained model as one file: a program that runs with torch alone, or a model file of half the size."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from faceexpr import __version__
from faceexpr.cli.export_model import write_model_file
from faceexpr.models.calibrator import class_probabilities
from faceexpr.tasks.base import load_task
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import describe
from faceexpr.weights.checkpoints import find_checkpoint
from faceexpr.weights.model_file import ENDING

PROGRAM = ".pt2"

METADATA = "faceexpr.json"
"""Name of the entry that holds the class names and the pre-processing in the exported file."""

TOLERANCE = 1e-4
"""Largest difference in a probability between the exported file and the model."""


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
        channels: of a program: channels of the images that it will be given, 1 (grey, the default) or 3 (RGB).
        data: of a model file: what it was trained on, in words.
        licence: of a model file: on what terms it may be used, in words.
        command: of a model file: how it was trained.
        seed: of a model file: the seed of its training.
    """
    told = {"data": data, "licence": licence, "command": command, "seed": seed}
    if channels not in (None, 1, 3):
        raise FaceExprError(f"--channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if out.is_dir():
        raise FaceExprError(f"--out: {out} is a folder; expected a file name")
    if out.suffix not in (PROGRAM, ENDING):
        raise FaceExprError(f"--out: {out} ends in neither {PROGRAM} nor {ENDING}; expected a program or a model file")
    options = {"channels": channels} if out.suffix == ENDING else told
    for name, value in options.items():
        if value is not None:
            other = PROGRAM if out.suffix == ENDING else ENDING
            raise FaceExprError(f"--{name} is for {other} files, and --out is {out}; expected no --{name}")
    source = find_checkpoint(ckpt_path, Path("lightning_logs"))
    temporary = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise FaceExprError(f"--out: {out} cannot be written ({error.strerror}); expected a file name") from error
    try:
        if out.suffix == ENDING:
            write_model_file(source, out, temporary, told)
        else:
            _export(source, out, temporary, channels or 1)
    finally:
        temporary.unlink(missing_ok=True)


def _export(source: Path, out: Path, temporary: Path, channels: int) -> None:
    model = load_classifier(source).eval()
    exported = Exported(model)
    size = model.net.preprocess.size
    example = torch.randint(0, 256, (2, channels, size + 32, size + 48), dtype=torch.uint8)
    dynamic = {
        0: torch.export.Dim("images", min=1),
        2: torch.export.Dim("height", min=2),
        3: torch.export.Dim("width", min=2),
    }
    program = torch.export.export(exported, (example,), dynamic_shapes=(dynamic,), strict=False)
    metadata = {
        "class_names": list(model.class_names),
        "channels": channels,
        "preprocess": {
            "channels": model.net.preprocess.channels,
            "size": size,
            "mean": model.net.preprocess.mean.flatten().tolist(),
            "std": model.net.preprocess.std.flatten().tolist(),
        },
        "mirror": model.mirror,
        "calibration": describe(model.calibration, "calibration"),
        "faceexpr": __version__,
    }
    with warnings.catch_warnings():
        # Said of each weight in channels_last; what was written is compared with the model below.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, temporary, extra_files={METADATA: json.dumps(metadata)})
    difference = _difference(load_exported(temporary)[0], exported, channels, size)
    if difference > TOLERANCE:
        raise FaceExprError(
            f"the exported program differs from {source} by {difference:.2g} in a probability, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    temporary.replace(out)
    print(f"{out}: {', '.join(model.class_names)}; largest difference from the model {difference:.1e}")


def load_exported(path: Path) -> tuple[nn.Module, dict[str, object]]:
    """Return an exported program and its metadata."""
    extra = {METADATA: ""}
    program = torch.export.load(path, extra_files=extra)
    metadata: dict[str, object] = json.loads(extra[METADATA])
    return program.module(), metadata


def load_classifier(path: Path) -> ExpressionClassifier:
    """Return the model of a checkpoint on the CPU.

    Raises:
        FaceExprError: the checkpoint is not one of an `ExpressionClassifier`.
    """
    return load_task(path, [ExpressionClassifier], "a classifier", "an ExpressionClassifier")


@torch.inference_mode()
def _difference(program: nn.Module, model: nn.Module, channels: int, size: int) -> float:
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for images, height, width in ((1, size, size), (3, 10 * size, 7 * size)):
        image = torch.randint(0, 256, (images, channels, height, width), dtype=torch.uint8, generator=generator)
        worst = max(worst, float((program(image) - model(image)).abs().max()))
    return worst


def run(args: list[str]) -> None:
    """Run ``faceexpr export``."""
    auto_cli(export, as_positional=False, args=args[1:], prog="faceexpr export")
