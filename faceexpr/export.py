"""Write a trained classifier as one file that runs with torch alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from faceexpr import __version__
from faceexpr.checkpoints import find_checkpoint, read_checkpoint
from faceexpr.errors import FaceExprError
from faceexpr.tasks.classify import ExpressionClassifier

METADATA = "faceexpr.json"
"""Name of the entry that holds the class names and the pre-processing in the exported file."""

TOLERANCE = 1e-4
"""Largest difference in a probability between the exported file and the model."""


class Exported(nn.Module):
    """uint8 images (N, C, H, W) of any size to probabilities (N, K), pre-processing included.

    Args:
        model: the classifier whose network this is.
    """

    def __init__(self, model: ExpressionClassifier) -> None:
        super().__init__()
        self.net = model.net

    def forward(self, image: Tensor) -> Tensor:
        probabilities: Tensor = self.net(image).softmax(dim=1)
        return probabilities


def export(ckpt_path: str, out: Path, channels: int = 1) -> None:
    """Write a checkpoint as one file that runs without this package.

    The file is a ``torch.export`` program. It takes uint8 images of any number and size and gives probabilities;
    class names and pre-processing are in its entry ``faceexpr.json``. It is compared with the model before it gets its
    name.

    Args:
        ckpt_path: a checkpoint file or a run folder.
        out: the file to write, by custom ``*.pt2``.
        channels: channels of the images that it will be given: 1 (grey) or 3 (RGB).
    """
    if channels not in (1, 3):
        raise FaceExprError(f"--channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if out.is_dir():
        raise FaceExprError(f"--out: {out} is a folder; expected a file name")
    temporary = out.with_name(f".{out.name}.part.pt2")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise FaceExprError(f"--out: {out} cannot be written ({error.strerror}); expected a file name") from error
    try:
        _export(ckpt_path, out, temporary, channels)
    finally:
        temporary.unlink(missing_ok=True)


def _export(ckpt_path: str, out: Path, temporary: Path, channels: int) -> None:
    model = load_classifier(find_checkpoint(ckpt_path, Path("lightning_logs"))).eval()
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
        "faceexpr": __version__,
    }
    torch.export.save(program, temporary, extra_files={METADATA: json.dumps(metadata)})
    difference = _difference(load_exported(temporary)[0], exported, channels, size)
    if difference > TOLERANCE:
        raise FaceExprError(
            f"the exported program differs from {ckpt_path} by {difference:.2g} in a probability, more than "
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
    name = str(read_checkpoint(path).get("hyper_parameters", {}).get("_class_path", "an unnamed model"))
    try:
        return ExpressionClassifier.load_from_checkpoint(path, map_location="cpu")
    except (ValueError, TypeError) as error:
        raise FaceExprError(
            f"{path} holds {name.rpartition('.')[2]}, which cannot be exported; expected an ExpressionClassifier"
        ) from error


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
