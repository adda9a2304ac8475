"""`FacePipeline`, the two-step system: find the faces of an image, then tell the expression of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression
from faceexpr.data.image_reading import face_tensor
from faceexpr.models.calibrator import Calibration, check_coverage, prediction_sets
from faceexpr.models.detector import DetectionNet
from faceexpr.pipeline.classifiers import Classifier, TaskClassifier, load_classifier
from faceexpr.pipeline.detectors import Detector, GroundTruth, fast_detector, load_detector
from faceexpr.pipeline.records import MIN_SCORE, NOT_FINITE, FaceResult, ImageResult
from faceexpr.utils.crop import Crop, clip_box, cut_face
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.images import DEFAULT_MAX_PIXELS, DecodedImage, ImageError, Source, read_image, source_name
from faceexpr.utils.text import counted, kind_of
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR
from faceexpr.weights.onnx_file import Runtime

if TYPE_CHECKING:
    from faceexpr.tasks.base import ExpressionTask
    from faceexpr.tasks.detect import FaceDetector

READERS = min(4, os.cpu_count() or 1)

Input: TypeAlias = "str | Path | tuple[str, bytes | Callable[[], Source]]"
"""A file; or what an image is called, with the bytes of its file or what reads it when it is its turn."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """A result, and the pixels that it was made from.

    Attributes:
        result: what was found.
        pixels: RGB, uint8 (H, W, 3), as they were analysed; None where the image could not be read.
        reduction: how many pixels of the image, in each direction, one of ``pixels`` stands for.
        crops: the faces as they were cut out, each uint8 (h, w, 3).
    """

    result: ImageResult
    pixels: NDArray[np.uint8] | None = None
    reduction: int = 1
    crops: tuple[NDArray[np.uint8], ...] = ()


class FacePipeline:
    """Finds the faces in images and tells the expression of each.

    Args:
        detector: finds the faces: a name or a file (see `load_detector`), a trained `FaceDetector` or its network; or
            any `Detector`, or annotations, whose boxes are taken. By default the detector that comes with the package.
        classifier: tells the expressions: a name or a file (see `load_classifier`), a trained `ExpressionTask`, or any
            `Classifier`. Their number and their names are its own. By default the one that comes with the package.
        crop: how a face is cut out; by default as the classifier's training had it.
        batch_size: images that are read and searched together; their faces are classified together.
        face_batch: faces in a batch of the classifier.
        reduce_to: large images are shrunk by a whole factor while they are read, such that the shorter side still
            has this many pixels or more; boxes are given in pixels of the original. None keeps the size.
        max_pixels: images with more pixels are refused before anything is decoded.
        coverage: also give each face its prediction set, which holds the true expression this often, such as 0.9; for
            classifiers that were calibrated for it.
        min_probability: a face whose most probable expression has less than this is given none.
        device: where both shall run; ``auto`` takes the GPU where there is one. By default names and files run on the
            CPU, and what is trained already where it is.
        min_score: faces that a network is less sure of are left out; by default 0.5.
        max_faces: at most so many faces an image are returned, the surest; by default as many as in the detector's
            training.
        images: folder of the images that a file of annotations names.
        suppression: further options of `Suppression` that differ from those of the detector's training.
        runtime: ``onnx`` has ONNX Runtime run both, on the CPU; checkpoints are written as ONNX files first.
        test_side: side to which a light detector reduces larger images; by default as it was trained with.

    Raises:
        FaceExprError: an option is out of range, or one of both cannot be loaded.
    """

    def __init__(
        self,
        detector: str | Path | FaceDetector | DetectionNet | Detector | GroundTruth | None = None,
        classifier: str | Path | ExpressionTask | Classifier | None = None,
        crop: Crop | None = None, batch_size: int = 8, face_batch: int = 64, reduce_to: int | None = 1000,
        max_pixels: int = DEFAULT_MAX_PIXELS, coverage: float | None = None, min_probability: float | None = None, *,
        device: str | torch.device | None = None, min_score: float | None = None, max_faces: int | None = None,
        images: Path | None = None, suppression: Mapping[str, float | int | str] | None = None,
        runtime: Runtime = "torch", test_side: int | None = None,
    ) -> None:  # fmt: skip
        limits = {"batch_size": batch_size, "face_batch": face_batch, "max_pixels": max_pixels, "reduce_to": reduce_to}
        asked = {"min_score": min_score, "max_faces": max_faces}
        numbers: dict[str, Any] = {**limits, **asked, "coverage": coverage, "min_probability": min_probability}
        for name, value in numbers.items():
            require(value is None or isinstance(value, Real), name, repr(value), "a number")
            require(value is None or name not in limits or value >= 1, name, value, "1 or more")
        if min_probability is not None:
            require(0 < min_probability < 1, "min_probability", min_probability, "a number between 0 and 1")
        require(crop is None or isinstance(crop, Crop), "crop", crop, "a Crop, such as Crop(margin=0.3)")
        require(runtime in get_args(Runtime), "runtime", runtime, " or ".join(get_args(Runtime)))
        changes = {**(suppression or {}), **{name: value for name, value in asked.items() if value is not None}}
        Suppression(**changes)  # type: ignore[arg-type]
        models = [DETECTOR if detector is None else detector, CLASSIFIER if classifier is None else classifier]
        if runtime == "onnx":
            fits = device is None or str(device) in ("auto", "cpu")
            require(fits, "runtime", f"onnx, which runs on the CPU, and device is {device}", "cpu")
            named = all(isinstance(model, str | Path) for model in models)
            require(named, "runtime", "onnx, and a model is an object", "names or files of both")
            device = "cpu"
        place = None if device is None else find_device(device)
        self._names = [repr(str(each)) if isinstance(each, str | Path) else type(each).__name__ for each in models]
        self.detector = as_detector(models[0], place, changes, batch_size, images, runtime, test_side)
        self.classifier = as_classifier(models[1], place, runtime)
        own = getattr(self.classifier, "crop", Crop())
        self.crop = own if crop is None else replace(crop, channels=crop.channels or own.channels)
        self.batch_size = batch_size
        self.face_batch = face_batch
        self.reduce_to = reduce_to
        self.max_pixels = max_pixels
        self.min_probability = min_probability
        self.threshold: float | None = None
        if coverage is not None:
            check_coverage(coverage)
            calibration: Calibration | None = getattr(self.classifier, "calibration", None)
            self.threshold = (calibration or Calibration()).threshold(coverage)

    @classmethod
    def from_checkpoints(
        cls, detector: str | Path = DETECTOR, classifier: str | Path = CLASSIFIER, device: str | torch.device = "cpu",
        min_score: float = MIN_SCORE, **kwargs: Any,
    ) -> FacePipeline:  # fmt: skip
        """Build a pipeline from names or files, as version 0.2 did it; `FacePipeline` itself takes the same options."""
        return cls(detector, classifier, device=device, min_score=min_score, **kwargs)

    def __repr__(self) -> str:
        return f"FacePipeline(detector={self._names[0]}, classifier={self._names[1]})"

    def __call__(self, image: Source, bgr: bool = False) -> ImageResult:
        """Analyse one image.

        Args:
            image: a path, the bytes of a file, a PIL image, or an array (H, W, 3) of RGB or (H, W) of grey: uint8, or
                floating point from 0 to 1.
            bgr: the array's channels are blue, green, red, as OpenCV has them.

        Returns:
            What was found; it can draw itself, from the image that was given or the file.

        Raises:
            ImageError: the image cannot be read.
            FaceExprError: it is not one image.
        """
        require_one_image(image)
        if bgr:
            if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] not in (3, 4):
                raise FaceExprError("bgr is true, but the image is not an array (height, width, 3); expected one")
            image = image[:, :, [2, 1, 0, 3][: image.shape[2]]]
        decoded = self.read(image)
        if isinstance(decoded, ImageError):
            raise decoded
        result = self._analyze([(source_name(image), decoded)])[0].result
        return replace(result, image=None if isinstance(image, str | os.PathLike) else image)

    def run(self, paths: Iterable[Input]) -> Iterator[ImageResult]:
        """Analyse files one after the other, in constant memory; one that cannot be read has a result that says why.

        Args:
            paths: files, in the order of the results; or names with bytes, such as of members of a tar file.
        """
        for analysis in self.run_with_pixels(paths):
            yield analysis.result

    def run_with_pixels(self, paths: Iterable[Input]) -> Iterator[Analysis]:
        """Analyse files as `run` does, and give the pixels and the crops too."""
        one = not isinstance(paths, Iterable) or isinstance(paths, str | bytes | os.PathLike)
        if one or (isinstance(paths, np.ndarray | Tensor) and paths.ndim < 4):
            raise FaceExprError(f"paths is {kind_of(paths)}; expected a list, or a call of the pipeline with this one")
        named: Iterator[tuple[str, Source | Callable[[], Source]]] = (
            path if isinstance(path, tuple) else (source_name(path), path) for path in paths
        )
        with ThreadPoolExecutor(max_workers=READERS) as readers:
            reading = ((name, readers.submit(self.read, file)) for name, file in named)
            coming = [*islice(reading, self.batch_size)]
            while coming:
                batch = [(source, future.result()) for source, future in coming]
                # The next images are decoded while these are looked at.
                coming = [*islice(reading, self.batch_size)]
                yield from self._analyze(batch)

    def analyze_decoded(
        self, images: Sequence[tuple[str, DecodedImage]], min_scores: Sequence[float]
    ) -> list[Analysis]:
        """Analyse images together that were read already, each with a name and the least score of its faces."""
        if isinstance(self.detector, GroundTruth):
            raise FaceExprError("detector is a file of annotations, which knows files alone; expected a model")
        found = self.detector([image.pixels for _, image in images])
        sure = [each.above(score) for each, score in zip(found, min_scores, strict=True)]
        return self._classify([self._cut_faces(*given, each) for given, each in zip(images, sure, strict=True)])

    def read(self, source: Source | Callable[[], Source]) -> DecodedImage | ImageError:
        """Return an image as it is analysed, or why it cannot be read."""
        try:
            source = source() if callable(source) else source
            require_one_image(source)
            return read_image(source, "RGB", self.max_pixels, self.reduce_to)
        except ImageError as error:
            return error
        except FaceExprError as error:
            return ImageError("image", str(error))
        except OSError as error:  # of what reads the bytes; `read_image` raises none
            return ImageError("bytes", f"cannot be opened: {error.strerror}")

    def _analyze(self, images: Sequence[tuple[str, DecodedImage | ImageError]]) -> list[Analysis]:
        readable = [(source, image) for source, image in images if isinstance(image, DecodedImage)]
        found = iter(self._find_faces(readable))
        analyses = [
            _fail(source, image.reason) if isinstance(image, ImageError) else next(found) for source, image in images
        ]
        return self._classify(analyses)

    def _find_faces(self, images: Sequence[tuple[str, DecodedImage]]) -> list[Analysis]:
        if not isinstance(self.detector, GroundTruth):
            detections = self.detector([image.pixels for _, image in images]) if images else []
            return [self._cut_faces(*given, found) for given, found in zip(images, detections, strict=True)]
        analyses = []
        for source, image in images:
            try:
                analyses.append(self._cut_faces(source, image, self.detector.faces(source, image.reduction)))
            except FaceExprError as error:
                analyses.append(_fail(source, str(error)))
        return analyses

    def _cut_faces(self, source: str, image: DecodedImage, detections: Detections) -> Analysis:
        faces, crops = [], []
        left_out: Counter[str] = Counter()
        for corners, score in zip(detections.boxes.tolist(), detections.scores.tolist(), strict=True):
            box = clip_box([value * image.reduction for value in corners], image.size, self.crop.min_face)
            if isinstance(box, str) or not isfinite(score):
                left_out[box if isinstance(box, str) else "without a finite score"] += 1
                continue
            left, top, right, bottom = (round(value, 2) for value in box)
            faces.append(FaceResult((left, top, right, bottom), _round(score), None, None))
            crops.append(cut_face(image.pixels, [value / image.reduction for value in box], self.crop))
        notes = list(image.notes)
        if detections.limited:
            notes.append(f"more than {len(detections)} faces were found; the surest are given (max_faces)")
        if left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            notes.append(f"{counted(left_out.total(), 'box')} left out: {reasons}")
        result = ImageResult(source, "ok", None, image.size, tuple(faces), tuple(notes))
        return Analysis(result, image.pixels, image.reduction, tuple(crops))

    def _classify(self, analyses: Sequence[Analysis]) -> list[Analysis]:
        """Tell the expressions of all faces together; the classifier is not called where there is none."""
        crops = [crop for analysis in analyses for crop in analysis.crops]
        batches = (crops[start : start + self.face_batch] for start in range(0, len(crops), self.face_batch))
        rows = (row for batch in batches for row in self.classifier(self.face_tensors(batch)).tolist())
        done = []
        for analysis in analyses:
            result = analysis.result
            faces = tuple(self.add_expression(face, next(rows)) for face in result.faces)
            if broken := [str(number) for number, face in enumerate(faces, 1) if face.probabilities is None]:
                reason = f"{NOT_FINITE}: face {', '.join(broken)} of {len(faces)}"
                result = replace(result, status="error", reason=reason)
            done.append(replace(analysis, result=replace(result, faces=faces)))
        return done

    def face_tensors(self, crops: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return faces that were cut out, uint8 (h, w, 3), as the classifier takes them, uint8 (N, 1 or 3, s, s)."""
        size = self.crop.size or self.classifier.image_size
        return torch.stack([face_tensor(crop, size, self.crop.channels) for crop in crops])

    def add_expression(self, face: FaceResult, row: Sequence[float]) -> FaceResult:
        """Return a face with what a row of the classifier's probabilities says; as it is where they are not finite."""
        if not all(map(isfinite, row)):
            return face
        probabilities = {name: _round(value) for name, value in zip(self.classifier.class_names, row, strict=True)}
        ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
        expressions = None
        if self.threshold is not None:  # the prediction set, from the probabilities as they are given
            (held,) = prediction_sets([[*probabilities.values()]], self.threshold)
            possible = {name for name, is_held in zip(probabilities, held, strict=True) if is_held}
            expressions = tuple(name for name in ranked if name in possible)
        expression = ranked[0] if probabilities[ranked[0]] >= (self.min_probability or 0) else None
        return replace(face, expression=expression, probabilities=probabilities, expressions=expressions)


def _fail(source: str, reason: str) -> Analysis:
    return Analysis(ImageResult(source, "error", reason, None, ()))


def _round(value: float) -> float:
    """Return a number with six significant digits: beyond them two machines differ."""
    return float(f"{value:.6g}")


def as_detector(
    given: Any, device: torch.device | None = None, changes: Mapping[str, Any] | None = None, batch_size: int = 8,
    images: Path | None = None, runtime: Runtime = "torch", test_side: int | None = None,
) -> Detector | GroundTruth:  # fmt: skip
    """Return what finds faces, given in any of the ways that `FacePipeline` takes, with its options."""
    options = {"min_score": MIN_SCORE, **(changes or {})}
    if isinstance(given, str | Path):
        return load_detector(given, device or "cpu", options, batch_size, images, runtime, test_side)
    net = getattr(given, "net", None) if getattr(given, "gives", None) == "detections" else given
    if isinstance(net, DetectionNet):
        net = deepcopy(net)  # the one that was given may be trained and measured on, with its own scores
        return fast_detector(net, device or next(net.parameters()).device, options, batch_size, test_side)
    if isinstance(given, GroundTruth) or (callable(given) and not isinstance(given, nn.Module | type)):
        expected = f"a name, a file or a network for {', '.join(changes or ())}"
        require(not changes, "detector", f"{kind_of(given)}, which decides itself", expected)
        return given
    raise FaceExprError(
        f"detector is {kind_of(given)}; expected a name, a file, a FaceDetector or a function from arrays to Detections"
    )


def as_classifier(given: Any, device: torch.device | None, runtime: Runtime) -> Classifier:
    """Return what tells expressions, given in any of the ways that `FacePipeline` takes, with its options."""
    if isinstance(given, str | Path):
        return load_classifier(given, device or "cpu", runtime)
    if getattr(given, "gives", None) == "probabilities" and not isinstance(given, type):  # a task
        return TaskClassifier(given, device or given.device)
    named = hasattr(given, "class_names") and hasattr(given, "image_size")
    if named and callable(given) and not isinstance(given, nn.Module | type):
        return given  # type: ignore[no-any-return]
    raise FaceExprError(
        f"classifier is {kind_of(given)}; expected a name, a file, a network as ExpressionClassifier(net=...), or a "
        "function from faces to probabilities with class_names and an image_size"
    )


def require_one_image(image: Any) -> None:
    """Refuse several images and what is none, with a `FaceExprError` that says what to call."""
    if isinstance(image, str) and "://" in image:
        raise FaceExprError(f"image is a link, {image}; expected its bytes: urllib.request.urlopen(link).read()")
    if isinstance(image, Tensor):
        change = "pipeline(image.permute(1, 2, 0).cpu().numpy())"
        each = change if image.ndim == 3 else f"[{change} for image in images]"
        raise FaceExprError(f"image is a tensor {tuple(image.shape)}; expected an array (height, width, 3): {each}")
    if hasattr(image, "read"):
        raise FaceExprError(f"image is {kind_of(image)}, an open file; expected what is in it: pipeline(file.read())")
    several = isinstance(image, Sequence | Iterator) and not isinstance(image, str | bytes | bytearray)
    if several or (isinstance(image, np.ndarray) and image.ndim == 4):
        raise FaceExprError(
            f"image is {kind_of(image)}, not one image; expected [pipeline(image) for image in images], or "
            "pipeline.run(paths), which looks at several files together"
        )
    if not isinstance(image, str | os.PathLike | bytes | Image.Image | np.ndarray):
        raise FaceExprError(f"image is {kind_of(image)}; expected a path, a file's bytes, a PIL image or an array")


def find_device(device: str | torch.device, index: int = 0) -> torch.device:
    """Return the device that a name means; a `FaceExprError` where there is none.

    Args:
        device: ``auto``, or a name of torch's, such as ``cuda:1``.
        index: which of several processes asks, from 0; with ``auto`` those of a machine take its GPUs in turns.
    """
    if device == "auto":
        device = f"cuda:{index % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device).cpu()  # which the device "meta", without memory, does not do
    except (RuntimeError, AssertionError) as error:
        raise FaceExprError(f"device is {device}, which is not there; expected auto, cpu, cuda or cuda:1") from error
    return torch.device(device)
