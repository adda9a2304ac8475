"""``faceexpr merge``: the parts of several processes as the results that one process would have written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faceexpr.cli.parser import Parser, naming_options
from faceexpr.data.annotations.reading import read_annotations
from faceexpr.pipeline.coco_results import write_coco
from faceexpr.pipeline.output import merge_parts, remove_parts
from faceexpr.pipeline.records import RECORDS, ROWS
from faceexpr.utils.errors import SOME_FAILED, FaceExprError
from faceexpr.utils.files import say

DESCRIPTION = (
    "Put the parts that several processes of `faceexpr analyze` have written together: OUT/faces.jsonl and "
    "OUT/faces.csv are what one process would have written. It may be run again at any time."
)


@dataclass(frozen=True)
class MergeOptions:
    """What is merged, and what is written.

    Args:
        coco: also write the boxes as COCO detections, to OUT/detections.json.
        annotations: file whose ids the COCO detections have; by default images are numbered as in faces.jsonl.
        images: folder of the images that annotations name.
        partial: write what there is although some images are not analysed yet.
        remove_parts: remove the parts once all images are analysed and merged.
    """

    coco: bool = False
    annotations: Path | None = None
    images: Path | None = None
    partial: bool = False
    remove_parts: bool = False


def run(args: list[str]) -> None:
    """Run ``faceexpr merge``."""
    parser = Parser(prog="faceexpr merge", description=DESCRIPTION)
    parser.add_argument("out", type=Path, metavar="OUT", help="Folder of the results, --out of the analysis.")
    parser.add_class_arguments(MergeOptions)
    config = parser.parse_args(args[1:])
    with naming_options(config):
        merge(config.out, MergeOptions(**{name: config[name] for name in MergeOptions.__dataclass_fields__}))


def merge(out: Path, options: MergeOptions) -> None:
    """Merge the parts of an analysis in the folder of its results.

    Raises:
        FaceExprError: an option is wrong, there is nothing to merge, or a file is damaged.
        SystemExit: some images are not analysed yet, or could not be analysed.
    """
    if not options.coco and options.annotations is not None:
        raise FaceExprError("annotations is for the ids of COCO detections; expected coco true with it")
    if options.annotations is None and options.images is not None:
        raise FaceExprError("images is for the images that annotations name; expected annotations with it")
    annotations = None if options.annotations is None else read_annotations(options.annotations, options.images)
    missing, failed = merge_parts(out, options.partial)
    if missing and not options.partial:
        say("nothing is merged; the commands of these parts go on with what is still there")
        say("--partial true merges what is done")
        raise SystemExit(SOME_FAILED)
    say(f"written to {out / RECORDS} and {out / ROWS}")
    if options.coco:
        write_coco(out, annotations, str(options.annotations))
    if options.remove_parts and missing:
        say("the parts are kept, since some images are not analysed yet")
    elif options.remove_parts:
        remove_parts(out)
    if failed or missing:
        raise SystemExit(SOME_FAILED)
