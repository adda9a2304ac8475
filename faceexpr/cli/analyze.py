"""``faceexpr analyze``: the two-step system over images in files, folders, lists and tar files, and over videos."""

from __future__ import annotations

import os
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import faceexpr.pipeline
from faceexpr.cli.parser import Parser, naming_options
from faceexpr.data.annotations.reading import read_annotations
from faceexpr.pipeline.inputs import VIDEOS, Item, collect_inputs
from faceexpr.pipeline.output import PLACES, Output, Shard, Summary, check_options, fingerprint, report, write_coco
from faceexpr.pipeline.records import FACE_HEAD, MIN_SCORE, RECORDS, face_lines, read_records
from faceexpr.utils.errors import INTERRUPTED, SOME_FAILED, FaceExprError
from faceexpr.utils.files import progress, say
from faceexpr.utils.images import DEFAULT_MAX_PIXELS, EXTENSIONS
from faceexpr.utils.text import counted, printable
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR

DESCRIPTION = (
    "Find the faces in photographs and tell the expression of each. Without --out each face is printed; with it, "
    "faces.jsonl in that folder has a record for each image, faces.csv a row for each face. Interrupted, the same "
    "command goes on where it stopped. With --shard several processes analyse a part each, and `faceexpr merge OUT` "
    "puts the parts together; --engine ray uses several processes of one machine or of a cluster. Of a video "
    "faces.jsonl has a record for each frame, and tracks.csv a row for each face that was followed."
)
PATHS = "Images, folders and tar files with images, - for a list at standard input; or videos and URLs of streams."
LIST = "File with further paths of images and tar files, one a line; - is standard input."

DEPENDENT = (
    "min_score", "min_face", "reduce_to", "max_pixels", "crops", "explain", "coverage", "min_probability",
)  # fmt: skip
"""Options that results depend on, beside the models and the suppression."""

OF_VIDEOS = ("every", "per_second", "seconds", "smoothing")
"""Options that results of videos depend on too."""

OF_IMAGES = ("crops", "explain", "coco", "annotations", "images", "shard", "engine")
"""Options that videos do not have."""

TASKS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")
"""Variables by which torchrun, SLURM, mpirun and LSF announce several tasks; a step of SLURM may have fewer than its
job."""


@dataclass(frozen=True)
class AnalyzeOptions:
    """What is analysed with what, and what is written.

    Args:
        detector: name of a detector that comes with the package, model file, checkpoint or run folder; or a file of
            annotations, whose boxes are then taken.
        classifier: name of a classifier of expressions that comes with the package, model file, checkpoint or run
            folder.
        out: folder of the results; without it each face is printed, and nothing is written.
        pictures: also write each image with its boxes, expressions and probabilities, below OUT/pictures; images of an
            earlier run without it are drawn from their records.
        crops: also write each face as it was cut out, below OUT/crops.
        explain: also write each face beside the parts of it that speak for its expression, below OUT/explained.
        coco: also write the boxes as COCO detections, to OUT/detections.json.
        annotations: file whose ids the COCO detections have; by default images are numbered as in faces.jsonl.
        images: folder of the images that annotations name.
        min_score: faces that the detector is less sure of, from 0 to 1, are left out.
        max_faces: at most so many faces an image, the surest; a note says where there were more. By default as the
            detector was trained with.
        suppression: what becomes of several boxes for one face; by default as the detector was trained with.
        iou: overlap above which two boxes are of one face; by default as the detector was trained with.
        inside: part of the smaller of two boxes, such as 0.8, above which the other holds it, and both are of one face;
            by default as the detector was trained with.
        test_side: pixels to which the longer side of larger images is reduced before a light detector looks for faces;
            less is faster and misses small faces; by default as the detector was trained with, which is 640.
        coverage: also give each face all expressions that it may be: a set that holds the true one this often, such as
            0.9; for classifiers that were calibrated for it.
        min_probability: a face whose most probable expression has less than this, from 0 to 1, is given none; its
            probabilities are.
        margin: what is added to a box on each side before its face is classified, as a part of its width and height; by
            default as the classifier was trained, which is 0.05 where its data have said nothing else.
        shape: square keeps the proportions of a face; stretched takes its box as it is; by default as the classifier
            was trained.
        min_face: faces whose shorter side has fewer pixels are left out; a note says how many.
        reduce_to: large images are shrunk by a whole factor such that the shorter side keeps this many pixels; more
            finds smaller faces in large images and takes longer; null shrinks none.
        max_pixels: images with more pixels are not read and count as failed.
        device: auto takes the GPU where there is one, and of several each shard another; cpu; cuda; cuda:1.
        runtime: what runs the models: torch, or ONNX Runtime on the CPU, for which they are written as ONNX files once
            (to ~/.cache/faceexpr); ONNX files are run by it anyway.
        batch_size: images that are looked at together.
        face_batch: faces that are classified together.
        shard: INDEX/COUNT where this is one of COUNT processes that divide the list of images, with INDEX from 0, such
            as 3/16; 0/1 for the only one.
        engine: local analyses in this process; ray in processes of Ray Data, on this machine or on a cluster.
        workers: number of Ray's processes, each with a core, and with a GPU where there are any.
        camera: number or name of a camera, which is analysed until Ctrl-C.
        every: only every so manieth frame of a video is analysed.
        per_second: only so many frames of a video a second are analysed.
        seconds: a video is analysed for so many seconds.
        smoothing: seconds after which what was seen of a face counts for a third in the probabilities of a later frame
            of a video; 0 smooths nothing.
    """

    out: Path | None = None
    detector: str = DETECTOR
    classifier: str = CLASSIFIER
    pictures: bool = False
    crops: bool = False
    explain: bool = False
    coco: bool = False
    annotations: Path | None = None
    images: Path | None = None
    min_score: float = MIN_SCORE
    max_faces: int | None = None
    suppression: Literal["nms", "soft_nms", "wbf", "none"] | None = None
    iou: float | None = None
    inside: float | None = None
    test_side: int | None = None
    coverage: float | None = None
    min_probability: float | None = None
    margin: float | None = None
    shape: Literal["square", "stretched"] | None = None
    min_face: float = 8
    reduce_to: int | None = 1000
    max_pixels: int = DEFAULT_MAX_PIXELS
    device: str = "auto"
    runtime: Literal["torch", "onnx"] = "torch"
    batch_size: int = 8
    face_batch: int = 64
    shard: str | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int = 2
    camera: str | None = None
    every: int | None = None
    per_second: float | None = None
    seconds: float | None = None
    smoothing: float = 0.5


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
    if values["shard"] is None:
        refuse_several_tasks(os.environ)
    options = AnalyzeOptions(**values)
    with naming_options(config):
        videos = [path for path in paths if VIDEOS.fullmatch(path)]
        if videos or options.camera is not None:
            for path in videos:
                if "://" in path and Path(urlsplit(path).path).suffix.lower() in EXTENSIONS:
                    raise FaceExprError(f"{path} is a link to an image; expected a file: download it first")
            if config["list"] is not None or len(videos) < len(paths) or (videos and options.camera is not None):
                raise FaceExprError("images, videos and a camera are named; expected only one kind in a command")
            analyze_videos(videos, options)
            return
        for name in OF_VIDEOS[:-1]:
            if getattr(options, name) is not None:
                raise FaceExprError(f"{name} is {getattr(options, name)}; expected it with a video")
        analyze([Path(path) for path in paths], options, config["list"])


def refuse_several_tasks(environment: Mapping[str, str]) -> None:
    """Refuse to be one of several tasks of a launcher, each of which would analyse all images."""
    name = next((name for name in TASKS if environment.get(name, "").isdigit()), None)
    if name is not None and int(environment[name]) > 1:
        raise FaceExprError(
            f"{name} is {environment[name]}, and each of these tasks would analyse all images; expected --shard "
            "INDEX/COUNT, such as --shard $SLURM_PROCID/$SLURM_NTASKS, or --shard 0/1 where this is the only process"
        )


def analyze(paths: Sequence[Path], options: AnalyzeOptions, listed: str | None = None) -> None:
    """Analyse the images of paths and of a file that lists further ones.

    Raises:
        FaceExprError: an option is wrong, or nothing is there to analyse.
        SystemExit: some images could not be analysed, or Ctrl-C was pressed.
    """
    if not options.coco and options.annotations is not None:
        raise FaceExprError("annotations is for the ids of COCO detections; expected coco true with it")
    shard = Shard.parse(options.shard or "0/1")
    if options.coco and shard.count > 1:
        raise FaceExprError("coco needs the records of all parts; expected it with `faceexpr merge`")
    for name in ("pictures", "crops", "explain", "coco"):
        if options.out is None and getattr(options, name):
            raise FaceExprError(f"{name} is True; expected --out with it, the folder of what it writes")
    inputs = collect_inputs(paths, listed)
    annotations = None if options.annotations is None else read_annotations(options.annotations, options.images)
    from faceexpr.pipeline.analysis import ImageFiles, draw_recorded

    # The pipelines of Ray's processes are on their devices; this one tells what is wrong before they are started.
    pipeline = build(options if options.engine == "local" else replace(options, device="cpu"), shard.index)
    dependent = find_dependent_options(options, pipeline)
    if shard.count > 1:
        dependent |= {"shards": shard.count, "inputs": {"count": len(inputs.images), "sha256": inputs.digest()}}
    if options.out is None:
        items = inputs.items({})[shard.index :: shard.count]
        records = analyzed(pipeline, items, ImageFiles(Path()), options)
        if report(printed(records, max(len(printable(item.source)) for item in items)), printed=True):
            raise SystemExit(SOME_FAILED)
        return
    check_options(options.out, dependent)
    part = "" if shard.count == 1 else f"part {shard}: "
    with closing(Output(shard.folder(options.out), pipeline.classifier.class_names)) as output:
        # Of several processes none knows the names that the others have given: each finds the same ones anew.
        names = {source: done.name for source, done in output.done.items()} if shard.count == 1 else {}
        items = inputs.items(names)[shard.index :: shard.count]
        for note in inputs.notes() if shard.index == 0 else ():
            say(f"note: {note}")
        remaining = [item for item in items if item.source not in output.done]
        if before := len(items) - len(remaining):
            say(f"{part}{counted(before, 'image was', 'images were')} done before; {len(remaining):,} to go")
        undrawn: list[str] = []
        if options.pictures and before:
            done = read_records(output.folder / RECORDS)
            late = draw_recorded(pipeline, {item.source: item for item in items}, done, options.out)
            drawn = [*progress(late, desc=f"{part}drawing", unit="image")]
            undrawn = [*filter(None, drawn)]
            say("\n".join([f"{part}{len(drawn) - len(undrawn):,} drawn from records", *undrawn]))
        files = ImageFiles(options.out, options.pictures, options.crops, options.explain)
        found = 0
        try:
            with progress(desc=part.rstrip(": "), total=len(items), initial=before, unit="image") as bar:
                for record in analyzed(pipeline, remaining, files, options):
                    output.write(record)
                    found += len(record["faces"])
                    bar.set_postfix_str(f"{found:,} faces", refresh=False)
                    bar.update()
        except KeyboardInterrupt:
            number = sum(item.source in output.done for item in items)
            say(f"{part}interrupted: {number:,} of {len(items):,} images are done; the same command goes on from there")
            raise SystemExit(INTERRUPTED) from None
        failed = report((output.done[item.source] for item in items), part)
    if part:
        # A code other than 0 would make launchers end the other processes; merging tells what has failed.
        say(f"{part}written to {output.folder}; `faceexpr merge {options.out}` puts all parts together")
        return
    *first, last = [str(place) for name in PLACES if (place := output.folder / name).exists()]
    say(f"written to {', '.join(first)} and {last}")
    if options.coco:
        write_coco(options.out, annotations, str(options.annotations))
    if failed or undrawn:
        raise SystemExit(SOME_FAILED)


def analyzed(
    pipeline: faceexpr.pipeline.FacePipeline,
    items: Sequence[Item],
    files: faceexpr.pipeline.ImageFiles,
    options: AnalyzeOptions,
) -> Iterator[dict[str, Any]]:
    """Return the records of images, made by the engine that is asked for."""
    from faceexpr.pipeline.analysis import analyze_items, analyze_with_ray

    if options.engine == "local":
        return analyze_items(pipeline, items, files)
    gpu = None if options.device == "auto" else options.device.startswith("cuda")
    return analyze_with_ray(partial(build, options), items, files, options.workers, options.batch_size, gpu)


def printed(records: Iterable[Mapping[str, Any]], width: int) -> Iterator[Summary]:
    """Print a line for each face, below names of columns, and yield what is to be remembered of each image."""
    width = min(max(width, len("image")), 60)  # longer names move their lines
    say(f"{'image':<{width}}  {FACE_HEAD}")
    for record in records:
        say("\n".join(face_lines(record, width)))
        yield Summary.of(record)


def analyze_videos(paths: Sequence[str], options: AnalyzeOptions) -> None:
    """Analyse videos one after the other, or the camera where there is none.

    Raises:
        FaceExprError: an option is wrong, or a video cannot be read.
        SystemExit: Ctrl-C was pressed before the end of a file.
    """
    from faceexpr.pipeline.video import Video, analyze_video

    for name in OF_IMAGES:
        if (value := getattr(options, name)) != AnalyzeOptions.__dataclass_fields__[name].default:
            raise FaceExprError(f"{name} is {value}; expected it with images, not with a video")
    if options.out is None:
        raise FaceExprError("out is not given; expected a folder for the results of a video")
    chosen = options.every, options.per_second, options.seconds
    videos = [Video(path, not paths, *chosen) for path in paths or [str(options.camera)]]
    names = [Path(video.source).name for video in videos]
    if len(set(names)) < len(names):
        raise FaceExprError("two videos have the same name; expected names of their own, which their results have")
    pipeline = build(options)
    own = {name: getattr(options, name) for name in (*OF_VIDEOS, "pictures")}
    dependent = find_dependent_options(options, pipeline) | own
    for video, name in zip(videos, names, strict=True):
        out = options.out / name if len(videos) > 1 else options.out
        size = None if video.live else Path(video.source).stat().st_size
        check_options(out, dependent | {"video": {"path": video.source, "bytes": size}})
        with progress(desc=video.name, total=video.expected, unit="frame") as bar:
            try:
                found = analyze_video(pipeline, video, out, options.pictures, options.smoothing, bar.update)
            except KeyboardInterrupt:
                say(f"{video.source}: interrupted; the same command goes on from the last whole segment")
                raise SystemExit(INTERRUPTED) from None
        say(f"{video.source}: {found}; written to {out}")


def build(options: AnalyzeOptions, index: int = 0) -> faceexpr.pipeline.FacePipeline:
    """Return the pipeline that options describe; of several GPUs the process takes the one with its index.

    Raises:
        FaceExprError: an option is wrong, or a checkpoint cannot be loaded.
    """
    from faceexpr.pipeline.pipeline import find_device
    from faceexpr.visualization.explain import explained_network

    pipeline = faceexpr.pipeline.FacePipeline(
        options.detector,
        options.classifier,
        device=options.device if options.runtime == "onnx" else find_device(options.device, index),
        min_score=options.min_score,
        images=options.images,
        suppression=find_suppression(options),
        runtime=options.runtime,
        test_side=options.test_side,
        batch_size=options.batch_size,
        face_batch=options.face_batch,
        coverage=options.coverage,
        min_probability=options.min_probability,
        reduce_to=options.reduce_to,
        max_pixels=options.max_pixels,
    )
    own: dict[str, Any] = {"margin": options.margin, "shape": options.shape, "min_face": options.min_face}
    pipeline.crop = replace(pipeline.crop, **{name: value for name, value in own.items() if value is not None})
    takes_images = options.annotations is not None or isinstance(pipeline.detector, faceexpr.pipeline.GroundTruth)
    if options.images is not None and not takes_images:
        raise FaceExprError("images is for the images that annotations name; expected annotations with it")
    if options.explain:
        if not isinstance(pipeline.classifier, faceexpr.pipeline.TaskClassifier):
            raise FaceExprError("explain needs the gradients of a network in torch; expected runtime torch with it")
        explained_network(pipeline.classifier.task)
    return pipeline


def find_suppression(options: AnalyzeOptions) -> dict[str, Any]:
    """Return those options of the suppression that are not the detector's own."""
    given = {
        "iou": options.iou, "inside": options.inside, "method": options.suppression, "max_faces": options.max_faces
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


def find_dependent_options(options: AnalyzeOptions, pipeline: faceexpr.pipeline.FacePipeline) -> dict[str, Any]:
    """Return the options that results depend on, with the content of the models and the detector's suppression."""
    from faceexpr.boxes.suppression import Suppression
    from faceexpr.pipeline.detectors import RUNS, find_detector_file
    from faceexpr.weights.checkpoints import find_checkpoint

    suppression: Suppression | None = getattr(pipeline.detector, "suppression", None)
    # What is off may not have been an option when the folder was begun.
    whole = {} if suppression is None else asdict(suppression)
    used = {"suppression": {name: value for name, value in whole.items() if value is not None}} if whole else {}
    return {
        "detector": fingerprint(find_detector_file(options.detector)),
        "classifier": fingerprint(find_checkpoint(options.classifier, RUNS, "classifier")),
        **find_suppression(options),
        **({} if options.runtime == "torch" else {"runtime": options.runtime}),
        **({} if options.test_side is None else {"test_side": options.test_side}),
        **used,
        "max_faces": (suppression or Suppression).max_faces,
        **{name: getattr(options, name) for name in DEPENDENT},
        "margin": pipeline.crop.margin,
        "shape": pipeline.crop.shape,
    }
