"""``faceexpr analyze``: the two-step system over files, folders, lists and tar files."""

from __future__ import annotations

import os
from argparse import SUPPRESS
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from faceexpr.boxes.suppression import Suppression
from faceexpr.cli.parser import Parser
from faceexpr.data.annotations.reading import read_annotations
from faceexpr.pipeline.claim import claim, fingerprint
from faceexpr.pipeline.classifier import TaskClassifier, load_classifier
from faceexpr.pipeline.coco import FILE, write_coco
from faceexpr.pipeline.crop import Crop
from faceexpr.pipeline.explained import explained
from faceexpr.pipeline.ground_truth import GroundTruth
from faceexpr.pipeline.inputs import CROPS, EXPLAINED, PICTURES, collect
from faceexpr.pipeline.load import detector_file, load_detector
from faceexpr.pipeline.output import Output
from faceexpr.pipeline.pictures import draw, write_picture
from faceexpr.pipeline.pipeline import MIN_SCORE, Analysed, FacePipeline, usable_device
from faceexpr.pipeline.progress import progress, tell
from faceexpr.pipeline.records import RECORDS, ROWS, read_records
from faceexpr.pipeline.shard import Shard, find_shard
from faceexpr.pipeline.share import Share, folder_of, share_out
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, SOME_FAILED, FaceExprError
from faceexpr.utils.files import say
from faceexpr.utils.images import DEFAULT_MAX_PIXELS
from faceexpr.utils.termination import Terminated, Termination
from faceexpr.utils.text import counted
from faceexpr.visualization.explain import explained_network
from faceexpr.weights.checkpoints import find_checkpoint
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR

DESCRIPTION = (
    "Find the faces in photographs and tell the expression of each: faces.jsonl has a record for each image, faces.csv "
    "a row for each face. Interrupted, the same command goes on where it stopped. Several processes, started by "
    "torchrun or SLURM, analyse a part each, and `faceexpr merge OUT` puts the parts together."
)
PATHS = "Image files, folders with images, and tar files with images; - is a list at standard input."
STOPPED = "stopped by SIGTERM"

LIST = "File with further paths of images and tar files, one a line; - is standard input."


@dataclass(frozen=True)
class AnalyzeOptions:
    """What is analysed with what, and what is written.

    Args:
        detector: name of a detector that comes with the package, model file, checkpoint or run folder; or a file of
            annotations, whose boxes are then taken.
        classifier: name of a classifier of expressions that comes with the package, model file, checkpoint or run
            folder.
        out: folder of the results.
        pictures: also write each image with its boxes, expressions and probabilities, below OUT/pictures.
        crops: also write each face as it was cut out, below OUT/crops.
        explain: also write each face beside the parts of it that speak for its expression, below OUT/explained.
        coco: also write the boxes as COCO detections, to OUT/detections.json.
        annotations: file whose ids the COCO detections have; by default images are numbered as in faces.jsonl.
        images: folder of the images that annotations name.
        min_score: faces that the detector is less sure of, from 0 to 1, are left out.
        max_faces: at most so many faces an image, the surest; a note says where there were more.
        suppression: what becomes of several boxes for one face; by default as the detector was trained with.
        iou: overlap above which two boxes are of one face; by default as the detector was trained with.
        coverage: also give each face all expressions that it may be: a set that holds the true one this often, such as
            0.9; for classifiers that were calibrated for it.
        margin: what is added to a box on each side before its face is classified, as a part of its width and height.
        shape: square keeps the proportions of a face; stretched takes its box as it is.
        min_face: faces whose shorter side has fewer pixels are left out; a note says how many.
        reduce_to: large images are shrunk by a whole factor such that the shorter side keeps this many pixels; more
            finds smaller faces in large images and takes longer; null shrinks none.
        max_pixels: images with more pixels are not read and count as failed.
        device: auto takes the GPU where there is one, and of several a process's own; cpu; cuda; cuda:1.
        batch_size: images that are looked at together.
        face_batch: faces that are classified together.
        shard: INDEX/COUNT where this is one of COUNT processes that share the images, with INDEX from 0, such as 3/16;
            by default what torchrun or SLURM says.
    """

    out: Path
    detector: str = DETECTOR
    classifier: str = CLASSIFIER
    pictures: bool = False
    crops: bool = False
    explain: bool = False
    coco: bool = False
    annotations: Path | None = None
    images: Path | None = None
    min_score: float = MIN_SCORE
    max_faces: int = 300
    suppression: Literal["nms", "soft_nms", "wbf", "none"] | None = None
    iou: float | None = None
    coverage: float | None = None
    margin: float = Crop.margin
    shape: Literal["square", "stretched"] = "square"
    min_face: float = 8
    reduce_to: int | None = 1000
    max_pixels: int = DEFAULT_MAX_PIXELS
    device: str = "auto"
    batch_size: int = 8
    face_batch: int = 64
    shard: str | None = None


def run(args: list[str]) -> None:
    """Run ``faceexpr analyze``."""
    parser = Parser(prog="faceexpr analyze", description=DESCRIPTION)
    parser.add_argument("paths", nargs="*", default=SUPPRESS, type=str, metavar="PATH", help=PATHS)
    parser.add_argument("--config", action="config", help="YAML file with the options below.")
    parser.add_argument("--list", type=str | None, default=None, metavar="FILE", help=LIST)
    parser.add_class_arguments(AnalyzeOptions)
    config = parser.parse_args(args[1:])
    values = {name: config[name] for name in AnalyzeOptions.__dataclass_fields__}
    paths = config.get("paths") or []
    if "" in paths:  # as of a variable that is not set; it would be the current folder
        raise FaceExprError("a PATH is empty; expected a file or a folder")
    with Termination() as termination:
        try:
            analyze([Path(path) for path in paths], AnalyzeOptions(**values), config["list"], termination)
        except Terminated:
            say(f"{STOPPED}; the same command goes on")
            raise SystemExit(PREEMPTED) from None


def analyze(
    paths: Sequence[Path],
    options: AnalyzeOptions,
    listed: str | None = None,
    termination: Termination | None = None,
) -> None:
    """Analyse images.

    Args:
        paths: what to analyse.
        options: with what, and what is written.
        listed: file with further paths.
        termination: what SIGTERM does; nothing of ours by default.

    Raises:
        FaceExprError: an option is wrong, or nothing is there to analyse.
        SystemExit: some images could not be analysed, or Ctrl-C was pressed, or SIGTERM has come.
    """
    if not options.coco and options.annotations is not None:
        raise FaceExprError("--annotations is for the ids of COCO detections; expected --coco true with it")
    shard = find_shard(options.shard, os.environ)
    inputs = collect(paths, listed, shard.count == 1)
    annotations = None if options.annotations is None else read_annotations(options.annotations, options.images)
    pipeline, kept = build(options, shard)
    folder = folder_of(options.out, shard)
    if options.coco and folder != options.out:
        raise FaceExprError("--coco needs the records of all parts; expected it with `faceexpr merge`")
    claim(options.out, kept)
    with closing(Output(folder, pipeline.classifier.class_names)) as output:
        share = share_out(options.out, inputs, shard, output)
        for note in inputs.notes() if shard.index == 0 else ():
            say(f"note: {note}")
        try:
            failed = work(pipeline, share, options, termination or Termination())
        except (KeyboardInterrupt, Terminated) as stop:
            what, code = ("interrupted", INTERRUPTED) if isinstance(stop, KeyboardInterrupt) else (STOPPED, PREEMPTED)
            done = f"{share.done():,} of {len(share.names):,} images are done"
            say(f"{share.part}{what}: {done}; the same command goes on from there")
            raise SystemExit(code) from None
    if options.coco:
        write_coco(options.out / FILE, read_records(options.out / RECORDS), annotations, str(options.annotations))
    # A code other than 0 would make launchers end the other processes; what has failed is told when parts are merged.
    if failed and not share.part:
        raise SystemExit(SOME_FAILED)


def build(options: AnalyzeOptions, shard: Shard) -> tuple[FacePipeline, dict[str, Any]]:
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
    device = usable_device(options.device, shard.local)
    classifier_file = find_checkpoint(options.classifier, Path("lightning_logs"), "--classifier")
    files = {"detector": fingerprint(detector_file(options.detector)), "classifier": fingerprint(classifier_file)}
    detector = load_detector(options.detector, device, changes, options.batch_size, options.images)
    classifier = load_classifier(classifier_file, device)
    if options.explain:
        explained_network(classifier.task)
    pipeline = FacePipeline(
        detector,
        classifier,
        crop,
        options.batch_size,
        options.face_batch,
        options.reduce_to,
        options.max_pixels,
        options.coverage,
    )
    written = {"pictures": options.pictures, "crops": options.crops, "explain": options.explain}
    read = {"reduce_to": options.reduce_to, "max_pixels": options.max_pixels}
    if options.images is not None and options.annotations is None and not isinstance(pipeline.detector, GroundTruth):
        raise FaceExprError("--images is for the images that annotations name; expected annotations with it")
    return pipeline, {**files, **changes, **asdict(crop), **read, **written, "coverage": options.coverage}


def work(pipeline: FacePipeline, share: Share, options: AnalyzeOptions, termination: Termination) -> int:
    """Analyse what is not done yet, and say what came out.

    Returns:
        The number of images that could not be analysed, those of earlier runs included.
    """
    total, before = len(share.names), share.done()
    if before:
        say(f"{share.part}{counted(before, 'image was', 'images were')} done before; {total - before:,} to go")
    with progress(total, before, share.part) as step:
        for analysed in pipeline.analysed(share.remaining()):
            with termination.held():
                _write(analysed, pipeline, share, options)
            step(len(analysed.result.faces))
    failed = tell((share.output.done[source] for source in share.names), share.part)
    folder = share.output.folder
    if share.part:
        say(f"{share.part}written to {folder}; `faceexpr merge {options.out}` puts all parts together")
    else:
        say(f"written to {folder / RECORDS} and {folder / ROWS}")
    return failed


def _write(analysed: Analysed, pipeline: FacePipeline, share: Share, options: AnalyzeOptions) -> None:
    result = analysed.result
    name = share.names[result.source]
    # What belongs to a record is there before the record says so.
    if options.pictures and analysed.pixels is not None:
        write_picture(draw(analysed, share.output.class_names), options.out / PICTURES / name)
    if options.crops:
        for number, crop in enumerate(analysed.crops, 1):
            write_picture(crop, options.out / CROPS / f"{name}.{number}.png")
    if options.explain:
        assert isinstance(pipeline.classifier, TaskClassifier)  # as `build` has made it
        for number, drawn in explained(pipeline.classifier, analysed, pipeline.face_batch):
            write_picture(drawn, options.out / EXPLAINED / f"{name}.{number}.png")
    share.output.write({"image": result.source, "name": name, **result.record()})
