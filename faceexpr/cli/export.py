"""Write a trained model as a program that runs without this package, a model file of half the size, or a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np

import faceexpr.tasks
from faceexpr import __version__
from faceexpr.cli.parser import Parser, naming_options
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR, ENDING, packed
from faceexpr.weights.onnx_file import ONNX, open_onnx

Exportable: TypeAlias = "faceexpr.tasks.ExpressionClassifier | faceexpr.tasks.FaceDetector"

PROGRAM = ".pt2"

BUNDLE = ""  # a folder has no ending

UNDER_WAY = "{}: writing the program and comparing it with the model, which takes a minute"

MODEL_TOLERANCE = 0.02
"""Of a model file: in a probability, in a score, and in a box as a part of its longer side."""


def export(
    out: Path,
    ckpt_path: str | None = None,
    format: Literal["pt2", "onnx", "safetensors"] | None = None,  # the option's name
    channels: int | None = None,
    images: Path | None = None,
    precision: Literal["float32", "int8"] = "float32",
    max_loss: float = 0.03,
    detector: str | None = None,
    classifier: str | None = None,
    data: str | None = None,
    licence: str | None = None,
    command: str | None = None,
    seed: int | None = None,
) -> None:
    """Write a checkpoint as one file, which is compared with the model before it gets its name.

    The ending of its name says what is written. ``.pt2`` (a ``torch.export`` program) and ``.onnx`` (for ONNX Runtime)
    run without this package: they take uint8 images of any number and size, and give calibrated probabilities, or boxes
    with their scores. A ``.safetensors`` file is a model file: weights in half precision, and a header that says what
    they are; this package takes it wherever it takes a checkpoint, except to go on with a training. A folder is a
    bundle: a detector and a classifier in ONNX, with an example that needs numpy, Pillow and onnxruntime.

    Args:
        out: the file to write, ``*.pt2``, ``*.onnx`` or ``*.safetensors``; or the folder of a bundle.
        ckpt_path: a checkpoint file, a run folder, a model file, or the name of a model that comes with the package.
        format: what is written; by default told by the ending.
        channels: of a classifier's program: channels of the images that it will be given, 1 (grey) or 3 (RGB); by
            default those of the images that the model was trained on.
        images: of a program: folder of images like those that it will be given, faces for a classifier and photographs
            for a detector; it is compared with the model on some of them, and fitted to them for int8. By default
            drawn images.
        precision: of an ONNX file; int8 needs images.
        max_loss: part of the faces, from 0 to 1, on which int8 may decide otherwise than float32.
        detector: of a bundle: as ckpt_path; by default the one that comes with the package.
        classifier: of a bundle: as ckpt_path; by default the one that comes with the package.
        data: what the model was trained on, in words.
        licence: on what terms it may be used, in words.
        command: how it was trained.
        seed: the seed of its training.
    """
    out = Path(out)  # in Python a text will do
    origin = {"data": data, "licence": licence, "command": command, "seed": seed}
    files = [PROGRAM, ONNX, ENDING]
    kinds: dict[str, tuple[Any, list[str]]] = {
        "channels": (channels, [PROGRAM, ONNX]),
        "images": (images, [PROGRAM, ONNX, BUNDLE]),
        "precision": (None if precision == "float32" else precision, [ONNX]),
        "detector": (detector, [BUNDLE]),
        "classifier": (classifier, [BUNDLE]),
        **{name: (value, files) for name, value in origin.items()},
    }
    if channels not in (None, 1, 3):
        raise FaceExprError(f"channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if not 0 <= max_loss <= 1:
        raise FaceExprError(f"max_loss is {max_loss}; expected 0 to 1")
    if out.suffix not in files and (ckpt_path is not None or out.suffix != BUNDLE):
        raise FaceExprError(f"out: {out} ends in none of {', '.join(files)}; expected a program or a model file")
    for name, (value, endings) in kinds.items():
        if value is not None and out.suffix not in endings:
            named = " and ".join(f"{ending} files" if ending else "a bundle" for ending in endings)
            raise FaceExprError(f"{name} is for {named}, and out is {out}; expected no {name}")
    if format is not None and out.suffix not in (f".{format}", BUNDLE if format == "onnx" else None):
        raise FaceExprError(f"format is {format}, and out is {out}; expected a name that ends in .{format}")
    if out.suffix == BUNDLE:
        write_bundle(out, detector or DETECTOR, classifier or CLASSIFIER, images)
        return
    if ckpt_path is None:
        raise FaceExprError("ckpt_path is not given; expected the model to export")
    if out.is_dir():
        raise FaceExprError(f"out: {out} is a folder; expected a file name")
    if precision == "int8" and images is None:
        raise FaceExprError("precision is int8, and images is not given; expected a folder of images to fit it to")
    from faceexpr.pipeline.programs import to_int8, write_program
    from faceexpr.weights.checkpoints import find_checkpoint

    source = find_checkpoint(ckpt_path, Path("lightning_logs"))
    if out.suffix != ENDING:
        say(UNDER_WAY.format(ckpt_path))
    with TemporaryDirectory() as folder:
        written = Path(folder, out.name)
        if out.suffix == ENDING:
            summary = write_model_file(source, written, origin)
        else:
            summary = write_program(source, written, channels, images, **origin)
        if precision == "int8" and images is not None:
            written, exact = written.with_stem("int8"), written
            summary = to_int8(exact, written, images, max_loss)
        write_file(out, written.read_bytes())
    say(f"{out}: {summary}")


def write_bundle(out: Path, detector: str, classifier: str, images: Path | None) -> None:
    """Write a detector and a classifier of RGB images as ONNX files, what they are, and a program that uses them.

    The classifier is compared on drawn images: photographs, which the detector has, are no faces.
    """
    from faceexpr.pipeline.programs import write_program
    from faceexpr.weights.checkpoints import find_checkpoint

    models = {"detector": (detector, None, images), "classifier": (classifier, 3, None)}
    with TemporaryDirectory() as folder:
        described: dict[str, Any] = {"faceexpr": __version__}
        for name, (ckpt_path, channels, own_images) in models.items():
            written = Path(folder, f"{name}{ONNX}")
            source = find_checkpoint(ckpt_path, Path("lightning_logs"), name)
            say(UNDER_WAY.format(ckpt_path))
            say(f"{out / written.name}: {write_program(source, written, channels, own_images)}")
            described[name] = {"file": written.name, **open_onnx(written)[1]}
            if ("class_names" in described[name]) != (name == "classifier"):
                raise FaceExprError(f"{name}: {ckpt_path} is none; expected a {name}")
        Path(folder, "bundle.json").write_text(json.dumps(described, ensure_ascii=False, indent=2), encoding="utf-8")
        Path(folder, "example.py").write_bytes((resources.files("faceexpr.pipeline") / "onnx_example.py").read_bytes())
        for path in sorted(Path(folder).iterdir()):
            write_file(out / path.name, path.read_bytes())
    say(f"{out}: python {out / 'example.py'} IMAGE... needs numpy, Pillow and onnxruntime")


def write_model_file(source: Path, out: Path, told: Mapping[str, str | int | None]) -> str:
    """Write the model of a checkpoint as a model file, and return what it is.

    Args:
        source: the checkpoint, or another model file, whose origin is then told again.
        out: the file to write.
        told: what the file says of its origin, by the names of `model_file.TOLD`; None says nothing.

    Raises:
        FaceExprError: the checkpoint holds no such model, or its weights lose too much in half precision.
    """
    from faceexpr.pipeline.programs import load_exportable
    from faceexpr.weights.checkpoints import read_checkpoint

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


def _header(model: Exportable, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    import lightning

    from faceexpr.models.light_detector import MEAN, STD, STRIDES, LightDetector
    from faceexpr.pipeline.programs import describe_input

    # What its training began with and was taught by is told in words, where it matters.
    untold: dict[str, Any] = {"weights": None, "teachers": []}
    hyper_parameters = {name: untold.get(name, value) for name, value in checkpoint["hyper_parameters"].items()}
    header = {
        "faceexpr": __version__,
        "lightning": lightning.__version__,
        "hyper_parameters": without_folders(hyper_parameters),
        "data_hyper_parameters": without_folders(checkpoint.get("datamodule_hyper_parameters", {})),
    }
    if isinstance(model, faceexpr.tasks.ExpressionClassifier):
        header |= {"class_names": list(model.class_names), "preprocess": describe_input(model)}
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


def _model_difference(one: Exportable, other: Exportable) -> tuple[float, str]:
    """Return the largest difference on drawn images, and in words."""
    import torch

    from faceexpr.boxes.detections import Detections
    from faceexpr.data.synthetic.drawing import draw_scene
    from faceexpr.pipeline.programs import apart
    from faceexpr.tasks import ExpressionClassifier, FaceDetector

    rng = np.random.default_rng(0)
    faces, width, height = (1, 96, 96) if isinstance(one, ExpressionClassifier) else (5, 320, 256)
    images = [torch.tensor(draw_scene(rng, width, height, faces)[0]).permute(2, 0, 1) for _ in range(8)]
    with torch.inference_mode():
        if not isinstance(one, FaceDetector) or not isinstance(other, FaceDetector):
            batch = torch.stack(images)
            found = float((one(batch) - other(batch)).abs().max())
            return found, f"{found:.1g} in a probability"
        pairs = zip(one.net.candidates(images), other.net.candidates(images), strict=True)
        apart_by = torch.stack([apart(Detections(*mine), Detections(*theirs)) for mine, theirs in pairs])
    _, part, score = apart_by.amax(0).tolist()
    return max(part, score), f"{score:.1g} in a score, {part:.1g} of a box's longer side"


def run(args: list[str]) -> None:
    """Run ``faceexpr export``."""
    parser = Parser(prog="faceexpr export")
    parser.add_function_arguments(export)
    config = parser.parse_args(args[1:])
    with naming_options(config):
        export(**config.as_dict())
