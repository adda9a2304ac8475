"""``faceexpr analyze``: the two-step system over files and folders."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from faceexpr.boxes.suppression import Suppression
from faceexpr.checkpoints import find_checkpoint
from faceexpr.data.formats.record import Annotations
from faceexpr.detection.ground_truth import GroundTruth
from faceexpr.detection.load import detector_file, load_detector
from faceexpr.errors import INTERRUPTED, SOME_FAILED, FaceExprError
from faceexpr.files import say
from faceexpr.images import DEFAULT_MAX_PIXELS
from faceexpr.options import Parser
from faceexpr.pipeline.classifier import load_classifier
from faceexpr.pipeline.coco import FILE, write_coco
from faceexpr.pipeline.crop import Crop
from faceexpr.pipeline.inputs import CROPS, PICTURES, Inputs, collect, names_of
from faceexpr.pipeline.output import RECORDS, ROWS, Output, fingerprint, read_records
from faceexpr.pipeline.pictures import draw, write_picture
from faceexpr.pipeline.pipeline import FacePipeline, usable_device
from faceexpr.wording import counted

SECONDS_A_LINE = 10

DESCRIPTION = (
    "Find the faces in photographs and tell the expression of each: faces.jsonl has a record for each image, faces.csv "
    "a row for each face. Interrupted, the same command goes on where it stopped."
)


@dataclass(frozen=True)
class AnalyzeOptions:
    """What is analysed with what, and what is written.

    Args:
        detector: checkpoint file or run folder of a detector, or a file of annotations, whose boxes are then taken.
        classifier: checkpoint file or run folder of a classifier of expressions.
        out: folder of the results.
        pictures: also write each image with its boxes, expressions and probabilities, below OUT/pictures.
        crops: also write each face as it was cut out, below OUT/crops.
        coco: also write the boxes as COCO detections, to OUT/detections.json.
        annotations: file whose ids the COCO detections have; by default images are numbered as in faces.jsonl.
        images: folder of the images that annotations name.
        min_score: faces that the detector is less sure of, from 0 to 1, are left out.
        max_faces: at most so many faces an image, the surest; a note says where there were more.
        suppression: what becomes of several boxes for one face; by default as the detector was trained with.
        iou: overlap above which two boxes are of one face; by default as the detector was trained with.
        margin: what is added to a box on each side before its face is classified, as a part of its width and height.
        shape: square keeps the proportions of a face; stretched takes its box as it is.
        min_face: faces whose shorter side has fewer pixels are left out; a note says how many.
        reduce_to: large images are shrunk by a whole factor such that the shorter side keeps this many pixels; more
            finds smaller faces in large images and takes longer; null shrinks none.
        max_pixels: images with more pixels are not read and count as failed.
        device: auto takes the GPU where there is one; cpu; cuda; cuda:1.
        batch_size: images that are looked at together.
        face_batch: faces that are classified together.
    """

    detector: str
    classifier: str
    out: Path
    pictures: bool = False
    crops: bool = False
    coco: bool = False
    annotations: Path | None = None
    images: Path | None = None
    min_score: float = 0.4
    max_faces: int = 300
    suppression: Literal["nms", "soft_nms", "wbf", "none"] | None = None
    iou: float | None = None
    margin: float = 0.1
    shape: Literal["square", "stretched"] = "square"
    min_face: float = 8
    reduce_to: int | None = 1000
    max_pixels: int = DEFAULT_MAX_PIXELS
    device: str = "auto"
    batch_size: int = 8
    face_batch: int = 64


def run(args: list[str]) -> None:
    """Run ``faceexpr analyze``."""
    parser = Parser(prog="faceexpr analyze", description=DESCRIPTION)
    parser.add_argument("paths", nargs="+", type=ANY_NAME, metavar="PATH", help="Image files, and folders with images.")
    parser.add_argument("--config", action="config", help="YAML file with the options below.")
    parser.add_class_arguments(AnalyzeOptions)
    config = parser.parse_args(args[1:])
    values = {name: config[name] for name in AnalyzeOptions.__dataclass_fields__}
    analyze(config.paths, AnalyzeOptions(**values))


class _File:
    """A path in the words of the help; of ``Path`` itself, jsonargparse would refuse names whose bytes are no text."""

    def __call__(self, text: str) -> Path:
        return Path(text)

    def __repr__(self) -> str:
        return "path"


ANY_NAME = _File()


def analyze(paths: Sequence[Path], options: AnalyzeOptions) -> None:
    """Analyse files and folders.

    Args:
        paths: what to analyse.
        options: with what, and what is written.

    Raises:
        FaceExprError: an option is wrong, or nothing is there to analyse.
        SystemExit: some images could not be analysed, or Ctrl-C was pressed.
    """
    if not options.coco and options.annotations is not None:
        raise FaceExprError("--annotations is for the ids of COCO detections; expected --coco true with it")
    inputs = collect(paths, names_of(read_records(options.out / RECORDS)))
    annotations = _annotations(options)
    pipeline, kept = build(options)
    output = Output(options.out, kept, pipeline.classifier.class_names)
    for note in inputs.notes:
        say(f"note: {note}")
    try:
        failed = work(pipeline, inputs, output, options)
    except KeyboardInterrupt:
        done = sum(source in output.done for source in inputs.names)
        say(f"interrupted: {done:,} of {len(inputs.names):,} images are done; the same command goes on from there")
        raise SystemExit(INTERRUPTED) from None
    finally:
        output.close()
    if options.coco:
        unknown = write_coco(options.out / FILE, read_records(options.out / RECORDS), annotations)
        if unknown:
            say(f"{counted(unknown, 'image is', 'images are')} not in {options.annotations}, and left out of {FILE}")
    if failed:
        raise SystemExit(SOME_FAILED)


def _annotations(options: AnalyzeOptions) -> Annotations | None:
    if options.annotations is None:
        return None
    from faceexpr.data.formats.read import read_annotations

    return read_annotations(options.annotations, options.images)


def build(options: AnalyzeOptions) -> tuple[FacePipeline, dict[str, Any]]:
    """Return the pipeline, and the options that its results depend on.

    Raises:
        FaceExprError: an option is wrong, or a checkpoint cannot be loaded.
    """
    crop = Crop(options.margin, options.shape, options.min_face)
    changes: dict[str, Any] = {"min_score": options.min_score, "max_faces": options.max_faces}
    changes |= {} if options.iou is None else {"iou": options.iou}
    changes |= {} if options.suppression is None else {"method": options.suppression}
    try:
        Suppression(**changes)
    except FaceExprError as error:  # which calls its options by the names that they have in a training
        raise FaceExprError(str(error).removeprefix("suppression.")) from error
    device = usable_device(options.device)
    classifier_file = find_checkpoint(options.classifier, Path("lightning_logs"), "--classifier")
    files = {"detector": fingerprint(detector_file(options.detector)), "classifier": fingerprint(classifier_file)}
    pipeline = FacePipeline(
        load_detector(options.detector, device, changes, options.batch_size, options.images),
        load_classifier(classifier_file, device),
        crop,
        options.batch_size,
        options.face_batch,
        options.reduce_to,
        options.max_pixels,
    )
    written = {"pictures": options.pictures, "crops": options.crops}
    read = {"reduce_to": options.reduce_to, "max_pixels": options.max_pixels}
    if options.images is not None and options.annotations is None and not isinstance(pipeline.detector, GroundTruth):
        raise FaceExprError("--images is for the images that annotations name; expected annotations with it")
    return pipeline, {**files, **changes, **asdict(crop), **read, **written}


def work(pipeline: FacePipeline, inputs: Inputs, output: Output, options: AnalyzeOptions) -> int:
    """Analyse what is not done yet, and say what came out.

    Returns:
        The number of images that could not be analysed, those of earlier runs included.
    """
    remaining = [source for source in inputs.names if source not in output.done]
    before = len(inputs.names) - len(remaining)
    if before:
        say(f"{counted(before, 'image was', 'images were')} done before; {len(remaining):,} to go")
    class_names = output.class_names
    with _progress(len(inputs.names), before) as step:
        for analysed in pipeline.analysed(remaining):
            result = analysed.result
            name = inputs.names[result.source]
            # What belongs to a record is there before the record says so.
            if options.pictures and analysed.pixels is not None:
                write_picture(draw(analysed, class_names), options.out / PICTURES / name)
            if options.crops:
                for number, crop in enumerate(analysed.crops, 1):
                    write_picture(crop, options.out / CROPS / f"{name}.{number}.png")
            output.write({"image": result.source, "name": name, **result.record()})
            step(len(result.faces))
    done = [output.done[source] for source in inputs.names]
    failed = sum(image.failed for image in done)
    empty = sum(not image.failed and not image.faces for image in done)
    faces = counted(sum(image.faces for image in done), "face")
    say(f"{faces} in {counted(len(done), 'image')}; {empty:,} of {len(done):,} without face")
    if failed:
        say(f"{failed:,} of {len(done):,} could not be analysed; the reason of each is in its record")
    say(f"written to {options.out / RECORDS} and {options.out / ROWS}")
    return failed


class _Step(Protocol):
    """Moves the progress on by an image."""

    def __call__(self, faces: int) -> None: ...


@contextmanager
def _progress(total: int, before: int) -> Iterator[_Step]:
    """Show a bar on a terminal, and a line now and then elsewhere."""
    found = 0
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, initial=before, unit="image") as bar:

            def advance(faces: int) -> None:
                nonlocal found
                found += faces
                bar.set_postfix_str(f"{found:,} faces", refresh=False)
                bar.update()

            yield advance
        return
    start = last = time.monotonic()
    done = before

    def line(faces: int) -> None:
        nonlocal found, done, last
        found, done, now = found + faces, done + 1, time.monotonic()
        if now - last >= SECONDS_A_LINE:
            last = now
            left = (now - start) / (done - before) * (total - done)
            say(f"{done:,} of {total:,} images, {found:,} faces, about {left:,.0f} s left")

    yield line
