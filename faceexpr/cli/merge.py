"""``faceexpr merge``: the parts of several processes as the results that one process would have written."""

from __future__ import annotations

from pathlib import Path

from faceexpr.cli.parser import Parser, naming_options
from faceexpr.data.annotations.reading import read_annotations
from faceexpr.pipeline.output import merge_parts, remove_parts, write_coco
from faceexpr.pipeline.records import RECORDS, ROWS
from faceexpr.utils.errors import SOME_FAILED, FaceExprError
from faceexpr.utils.files import say

DESCRIPTION = (
    "Put the parts that several processes of `faceexpr analyze` have written together: OUT/faces.jsonl and "
    "OUT/faces.csv are what one process would have written. It may be run again at any time."
)
IDS = "File whose ids the COCO detections have; by default images are numbered as in faces.jsonl."


def run(args: list[str]) -> None:
    """Run ``faceexpr merge``, given the arguments with the verb.

    Raises:
        FaceExprError: an option is wrong, there is nothing to merge, or a file is damaged.
        SystemExit: some images are not analysed yet, or could not be analysed.
    """
    parser = Parser(prog="faceexpr merge", description=DESCRIPTION)
    parser.add_argument("out", type=Path, metavar="OUT", help="Folder of the results, --out of the analysis.")
    parser.add_argument("--coco", type=bool, default=False, help="Write OUT/detections.json too, as COCO detections.")
    parser.add_argument("--annotations", type=Path | None, default=None, help=IDS)
    parser.add_argument("--images", type=Path | None, default=None, help="Folder of the images that these name.")
    parser.add_argument("--partial", type=bool, default=False, help="Write what there is though images are missing.")
    parser.add_argument("--remove_parts", type=bool, default=False, help="Remove the parts once all images are merged.")
    options = parser.parse_args(args[1:])
    with naming_options(options):
        if not options.coco and options.annotations is not None:
            raise FaceExprError("annotations is for the ids of COCO detections; expected coco true with it")
        if options.annotations is None and options.images is not None:
            raise FaceExprError("images is for the images that annotations name; expected annotations with it")
        annotations = None if options.annotations is None else read_annotations(options.annotations, options.images)
        missing, failed = merge_parts(options.out, options.partial)
        if missing and not options.partial:
            say("nothing is merged; the commands of these parts go on with what is still there")
            say("--partial true merges what is done")
            raise SystemExit(SOME_FAILED)
        say(f"written to {options.out / RECORDS} and {options.out / ROWS}")
        if options.coco:
            write_coco(options.out, annotations, str(options.annotations))
        if options.remove_parts and missing:
            say("the parts are kept, since some images are not analysed yet")
        elif options.remove_parts:
            remove_parts(options.out)
    if failed or missing:
        raise SystemExit(SOME_FAILED)
