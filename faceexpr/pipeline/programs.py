"""Write a trained model as a program, torch's or ONNX's, which is compared with the model on images first."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from faceexpr import __version__
from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.models.detector import DetectionNet
from faceexpr.models.preprocess import as_grey, as_sized
from faceexpr.models.trained import TrainedClassifier
from faceexpr.pipeline.records import MIN_SCORE
from faceexpr.tasks.base import load_task
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import digest, say, write_file
from faceexpr.utils.images import find_images, read_image
from faceexpr.utils.specs import describe
from faceexpr.weights.checkpoints import read_checkpoint
from faceexpr.weights.onnx_file import EVERYTHING, ONNX, open_onnx, quantise, require_package, write_onnx

Exportable: TypeAlias = "ExpressionClassifier | FaceDetector"
Program: TypeAlias = Callable[..., Sequence[Tensor]]
"""From images, and a detector's `LIMITS` in ONNX, to probabilities; or to boxes, scores and the image of each."""

METADATA = "faceexpr.json"
"""Name of the entry that holds the class names and the pre-processing in a program of torch's."""

LEAST = 0.05
"""Candidates of a detector that are less sure are not compared."""

PROBABILITY, BOX, SCORE = "in a probability", "pixels in a box", "in a score"
ROUNDED_PROBABILITY = "in a probability of faces of another size"
TOLERANCES = {PROBABILITY: 1e-4, ROUNDED_PROBABILITY: 5e-3, BOX: 0.5, SCORE: 0.01}
"""Largest differences of a program from its model. Resized faces are rounded to bytes: which of two grey levels a value
halfway between them becomes depends on the order of additions, in each library and on each machine."""

SUREST = 20
"""Boxes of an image that are compared."""

CHECKED = 24
"""Images that a program is compared on."""

CALIBRATED, MEASURED = 64, 400
"""Images that the ranges of int8 are taken from, and others on which its loss is measured, at most."""


class DetectorProgram(nn.Module):
    """uint8 images (N, 3, H, W) to boxes (F, 4), scores (F,), and the image of each (F,): of each the surest first.

    Args:
        model: the detector; its suppression is ``nms`` or ``none``.
        suppressed: False gives candidates: boxes (N, K, 4) and scores (N, K), -1 where there is no box.
    """

    def __init__(self, model: FaceDetector, suppressed: bool) -> None:
        super().__init__()
        self.net = model.net
        self.suppressed = suppressed

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = self.net.dense_candidates(images)
        if not self.suppressed:
            return boxes, scores
        limits = self.net.suppression
        image, place = (scores >= limits.min_score).nonzero(as_tuple=True)
        boxes, scores = boxes[image, place], scores[image, place]
        # Far apart, so that no box suppresses one of another image.
        shifts = (images.shape[-1] + 1) * image[:, None].double()
        kept = nms(boxes.double() + shifts, scores.double(), iou_of(limits))
        kept = kept[image[kept].argsort(stable=True)]
        image = image[kept]
        rank = torch.arange(image.shape[0], device=image.device) - torch.searchsorted(image, image)
        kept, image = kept[rank < limits.max_faces], image[rank < limits.max_faces]
        return boxes[kept], scores[kept], image


def iou_of(suppression: Suppression) -> float:
    """Return the overlap above which a program leaves out a box; 1 leaves out none."""
    if suppression.method not in ("nms", "none") or suppression.inside is not None:
        inside = f" with inside {suppression.inside:g}" if suppression.inside is not None else ""
        raise FaceExprError(f"a program cannot hold the suppression {suppression.method}{inside}; expected nms or none")
    return suppression.iou if suppression.method == "nms" else 1.0


def load_exportable(path: Path) -> Exportable:
    """Return the model of a checkpoint, set to evaluation.

    Raises:
        FaceExprError: it is of another kind.
    """
    kinds: list[type[Any]] = [ExpressionClassifier, FaceDetector]
    model: Exportable = load_task(path, kinds, "a model to export", "an ExpressionClassifier or a FaceDetector")
    return model.eval()


def describe_input(model: ExpressionClassifier) -> dict[str, Any]:
    """Return the classifier's pre-processing in plain values."""
    preprocess = model.net.preprocess
    return {
        "channels": preprocess.channels,
        "size": preprocess.size,
        "mean": preprocess.mean.flatten().tolist(),
        "std": preprocess.std.flatten().tolist(),
        **({"standardise": True} if preprocess.standardise else {}),
    }


def write_program(
    source: Path, out: Path, channels: int | None = None, images: Path | None = None, **told: str | int | None
) -> str:
    """Write the model of a checkpoint as a program, ``.pt2`` or ``.onnx``, and return what it is.

    Args:
        source: the checkpoint or model file.
        out: the file to write; what it holds is undefined where an error is raised.
        channels: of a classifier's images; None means those that it was trained on, or 1 where nobody knows.
        images: folder of images that the program is compared on; None draws some.
        told: what the file says of its origin, by the names of `model_file.TOLD`.

    Raises:
        FaceExprError: the model cannot be a program, or the program gives something else than the model.
    """
    model = load_exportable(source)
    metadata: dict[str, Any] = {"faceexpr": __version__, "precision": "float32"}
    metadata |= read_checkpoint(source).get("told", {}) | {k: v for k, v in told.items() if v is not None}
    program: TrainedClassifier | DetectorProgram
    limits = None
    if isinstance(model, ExpressionClassifier):
        crop = model.crop or Crop()
        channels = channels or crop.channels or 1
        program = TrainedClassifier(model.net, model.class_names, model.crop, model.mirror, model.calibration)
        metadata |= {
            "class_names": list(model.class_names),
            "channels": channels,
            "crop": asdict(crop),
            "preprocess": describe_input(model),
            "mirror": model.mirror,
            "calibration": describe(model.calibration, "calibration"),
        }
    else:
        require(channels in (None, 3), "channels", channels, "3: detectors take RGB images")
        channels = 3
        model.net.set_suppression(min_score=MIN_SCORE)
        suppression = model.net.suppression
        limits = {"min_score": MIN_SCORE, "iou": iou_of(suppression), "max_faces": suppression.max_faces}
        program = DetectorProgram(model, suppressed=out.suffix != ONNX)
        metadata |= {"channels": 3, "suppression": asdict(suppression)}
    program.eval()
    example = torch.randint(0, 256, (2, channels, 200, 300), dtype=torch.uint8)
    with torch.inference_mode():
        program(example)  # what the model itself refuses, it says better than the exporters
    sides = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    sizes: dict[int, Any] = {0: torch.export.Dim("count", min=1), **sides}
    if out.suffix == ONNX:
        write_onnx(program, example, sizes, out, metadata, limits)
    else:
        exported = torch.export.export(program, (example,), dynamic_shapes=(sizes,), strict=False)
        with warnings.catch_warnings():
            # Said of each weight in channels_last; what was written is compared with the model below.
            warnings.filterwarnings("ignore", message="No complete tensor found in the group")
            torch.export.save(exported, out, extra_files={METADATA: json.dumps(metadata)})
    named = ", ".join(model.class_names) if isinstance(model, ExpressionClassifier) else type(model.net).__name__
    return f"{named}; {check_program(model, out, images, channels)}"


def load_exported(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return a program of torch's and its metadata."""
    extra = {METADATA: ""}
    program = torch.export.load(path, extra_files=extra)
    metadata: dict[str, Any] = json.loads(extra[METADATA])
    return program.module(), metadata


def open_program(path: Path) -> Program:
    """Return what calls the program in a file."""
    if path.suffix == ONNX:
        run = open_onnx(path, torch.get_num_threads())[0]
        return lambda images, **limits: [torch.from_numpy(value) for value in run(images.numpy(), **limits)]
    program = load_exported(path)[0]

    def call(images: Tensor, **limits: float) -> Sequence[Tensor]:
        found = program(images)
        return [found] if isinstance(found, Tensor) else found

    return call


def split_images(found: Sequence[Tensor], count: int) -> list[Detections]:
    """Return what a detector's program has found in each of so many images."""
    boxes, scores, image = found
    return [Detections(boxes[image == place], scores[image == place]) for place in range(count)]


@torch.inference_mode()
def check_program(model: Exportable, path: Path, folder: Path | None, channels: int) -> str:
    """Return in words how far a program is from its model, on a folder's images or drawn ones; refuse too much.

    A detector has to have the suppression that was written.
    """
    program, onnx = open_program(path), path.suffix == ONNX
    found: dict[str, list[float]] = {kind: [] for kind in TOLERANCES}
    side = (model.crop or Crop()).size or model.net.preprocess.size if isinstance(model, ExpressionClassifier) else 64
    batches = _check_batches(model, folder, channels, side)
    for batch in batches:
        if isinstance(model, ExpressionClassifier):
            exact = not model.net.preprocess.crop or {*batch.shape[-2:]} == {side}
            kind = ROUNDED_PROBABILITY if onnx and not exact else PROBABILITY
            found[kind].append(float((program(batch)[0] - model(batch)).abs().max()))
        else:
            for one, other, least in _detector_pairs(model.net, program, onnx, batch):
                for pixels, _, score in (apart(one, other, least).tolist(), apart(other, one, least).tolist()):
                    found[BOX].append(pixels)
                    found[SCORE].append(score)
    worst = {kind: float(np.max(values)) for kind, values in found.items() if values}
    counted = f"on {sum(map(len, batches))} images"
    for kind, value in worst.items():
        if not value <= TOLERANCES[kind]:  # nor where it is no number
            raise FaceExprError(
                f"the program differs from the model {counted} by {value:.2g} {kind}, more than {TOLERANCES[kind]:g}; "
                "nothing was written"
            )
    return f"largest difference from the model {counted}: {', '.join(f'{v:.2g} {kind}' for kind, v in worst.items())}"


def _check_batches(model: Exportable, folder: Path | None, channels: int, side: int) -> list[Tensor]:
    """Return batches of several numbers and sizes, uint8 (N, C, H, W): of images of a folder, or drawn ones."""
    batches = [_pixels(path, channels) for path in _spread(folder, CHECKED)]
    if not batches:
        rng = np.random.default_rng(0)
        drawn = [draw_scene(rng, 320 + 80 * place, 256 + 50 * place, 3)[0] for place in range(6)]
        batches = [_as_batch(pixels, channels) for pixels in drawn]
    sizes = ((3, side), (2, 333), (1, 4 * side), (2, 2 * side))
    sized = [[as_sized(batches[place % len(batches)], size) for place in range(count)] for count, size in sizes]
    batches += map(torch.cat, sized)
    if isinstance(model, FaceDetector):
        for batch in batches:
            for left, top, right, bottom in model.net([*batch])[0].boxes[:1].round().int().tolist():
                close = batch[:1, :, top : bottom + 1, left : right + 1]
                return [*batches, as_sized(close, 900)]  # a face that fills the image
    return batches


def _spread(folder: Path | None, count: int, offset: int = 0) -> list[Path]:
    """Return so many files of a folder, from all over it; another ``offset`` gives others."""
    files = [] if folder is None else find_images(folder)
    return files[offset :: max(1, len(files) // count)][:count]


def _pixels(path: Path, channels: int) -> Tensor:
    return _as_batch(read_image(path, "RGB", reduce_to=1000).pixels.copy(), channels)


def _as_batch(pixels: NDArray[np.uint8], channels: int) -> Tensor:
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    return as_grey(images) if channels == 1 else images


def _detector_pairs(
    net: DetectionNet, program: Program, onnx: bool, images: Tensor
) -> Iterator[tuple[Detections, Detections, float]]:
    """Yield of each image what shall be equal, and the least score that is compared.

    A hair decides which of two boxes suppresses the other. So the candidates of an ONNX program are compared with the
    model's, and what it keeps with what is to be kept of its own candidates.
    """
    final, found = net.suppression, split_images(program(images), len(images))
    expected, least = net([*images]), MIN_SCORE + TOLERANCES[SCORE]
    if onnx:
        candidates = split_images(program(images, min_score=LEAST, **EVERYTHING), len(images))
        net.set_suppression(method="none", min_score=LEAST, **EVERYTHING)
        for pair in zip(net([*images]), candidates, strict=True):
            yield *pair, LEAST + TOLERANCES[SCORE]
        net.suppression = final
        expected, least = [suppress(own.boxes, own.scores, final) for own in candidates], 0
    for pair in zip(expected, found, strict=True):
        yield *pair, least


def apart(one: Detections, other: Detections, least: float = 0) -> Tensor:
    """Return how far the surest boxes of one are from the nearest of the other, at most.

    Returns:
        float32 (3,): in pixels, as a part of their longer side, and in the score. 0 where ``one`` has no box with at
        least this score, infinite where ``other`` has none.
    """
    scores, order = one.scores.topk(min(SUREST, int((one.scores >= least).sum())))
    if not len(scores) or not len(other):
        return torch.full((3,), torch.inf if len(scores) else 0.0)
    boxes = one.boxes[order]
    distances = (boxes[:, None] - other.boxes[None]).abs().amax(2)
    parts = distances / (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    differences = (scores[:, None] - other.scores[None]).abs()
    nearest = (parts + differences).argmin(1, keepdim=True)
    return torch.stack([kind.gather(1, nearest).max() for kind in (distances, parts, differences)])


def to_int8(path: Path, out: Path, images: Path, max_loss: float = 0.03) -> str:
    """Write a float32 ONNX file in int8, and return what that costs in words.

    Ranges are taken from some images of a folder, and it is measured on others on which part of the faces int8 decides
    otherwise than float32. More than ``max_loss``, from 0 to 1, is refused.
    """
    metadata = open_onnx(path)[1]
    fitted = _spread(images, CALIBRATED)
    measured = [path for path in _spread(images, MEASURED, offset=1) if path not in fitted]
    if not measured:
        raise FaceExprError(f"images: {images} holds too few images to fit int8 to some and measure it on others")
    pixels = (_pixels(file, metadata["channels"]).numpy() for file in fitted)
    quantise(path, out, pixels, {**metadata, "precision": "int8"})
    before, after = open_program(path), open_program(out)
    same: list[bool] = []
    for file in measured:
        batch = _pixels(file, metadata["channels"])
        one, other = before(batch)[0], after(batch)[0]
        if "class_names" in metadata:
            same.append(bool(one.argmax() == other.argmax()))
        else:
            near = box_iou(one, other) >= 0.5
            same += near.any(dim=0).tolist() + near.any(dim=1).tolist()
    loss = 1 - float(np.mean(same)) if same else 1
    what = "the expression" if "class_names" in metadata else "whether there is a face"
    said = f"int8 and float32 differ in {what} {loss:.2%} of the time, on {len(measured)} images"
    if loss > max_loss:
        raise FaceExprError(f"{said}; expected {max_loss:.2%} or less (max_loss); nothing was written")
    return said


def converted(source: Path) -> Path:
    """Return the ONNX file of a checkpoint or model file: itself, or one that is written once, to the user's cache."""
    if source.suffix == ONNX:
        return source
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = user / "faceexpr" / f"{source.stem}-{digest(source)[:16]}-{__version__}{ONNX}"
    if not path.is_file():
        require_package("onnx", "onnxscript", "onnxruntime")
        say(f"{source} is written as an ONNX file first, {path}")
        with TemporaryDirectory() as folder:
            out = Path(folder, path.name)
            write_program(source, out, 3)
            write_file(path, out.read_bytes())
    return path
