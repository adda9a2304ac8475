"""``faceexpr audit``: look through a data set before it is trained on, and write a table of what to do about it."""

from __future__ import annotations

import json
import time
from argparse import SUPPRESS
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceexpr import __version__
from faceexpr.cli.help import BEGINNINGS, without_all
from faceexpr.cli.parser import Parser, naming_options
from faceexpr.cli.train import CALLBACKS, import_short_names
from faceexpr.data.annotations.reading import ReadOptions
from faceexpr.data.base import ExpressionDataModule, FaceDataModule
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.corrections import COLUMNS
from faceexpr.data.face_boxes import FaceBoxes
from faceexpr.data.face_files import FaceFiles
from faceexpr.data.face_folder import FaceFolder
from faceexpr.data.fer2013 import FER2013
from faceexpr.data.image_reading import split_fragment
from faceexpr.pipeline import auditing
from faceexpr.pipeline.auditing import Draw, Finding
from faceexpr.pipeline.detectors import Detector, GroundTruth, load_detector
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import keep_older, say, write_file
from faceexpr.utils.redirects import redirect
from faceexpr.utils.specs import class_path, describe
from faceexpr.utils.text import counted, csv_text
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR

MIN_SIDE, MIN_BOX = 24, 8
"""Pixels of the shorter side below which an image of a face, or a box, is tiny."""

NO_FACE = 0.3
"""Score below which what a detector finds in an odd image is no face."""

PATH = "In the place of --data: a folder of classes or of faces, a file of FER-2013, or annotations of boxes."


@dataclass(frozen=True)
class AuditOptions:
    """What is looked for.

    Args:
        out: folder for audit.json, audit.csv and audit.html.
        labels: look for wrong labels, which takes cleanlab.
        faces: look for images without a face; of boxes: for faces that nobody has marked.
        classifier: network whose features tell which labels are doubtful: name of one that comes with the package,
            model file, checkpoint or run folder.
        detector: finds faces: likewise.
        min_score: faces that it is less sure of are none that somebody has forgotten.
        similarity: correlation of pixels from which images are near copies, above 0 and up to 1.
        min_side: images, and boxes in images, whose shorter side has fewer pixels are tiny; by default 24 and 8.
        gallery: images of each kind on the page.
        device: where the networks run, such as cpu or cuda.
    """

    out: Path
    labels: bool = True
    faces: bool = True
    classifier: str = CLASSIFIER
    detector: str = DETECTOR
    min_score: float = 0.8
    similarity: float = 0.9
    min_side: int | None = None
    gallery: int = 60
    device: str = "cpu"

    def __post_init__(self) -> None:
        require(0 <= self.min_score <= 1, "min_score", self.min_score, "0 to 1")
        require(0 < self.similarity <= 1, "similarity", self.similarity, "more than 0 and up to 1")
        require(self.gallery >= 0, "gallery", self.gallery, "0 or more")


def run(args: list[str]) -> None:
    """Run ``faceexpr audit``, given the arguments with the verb."""
    import_short_names()
    args = without_all(args)
    unread = ("model", "trainer", "ckpt_path", "seed_everything", *CALLBACKS)
    parser = Parser(prog="faceexpr audit", description=BEGINNINGS["audit"].partition("\n\n")[0], left_out=unread)
    parser.add_argument("path", nargs="?", default=SUPPRESS, type=str, help=PATH)
    parser.add_argument("--config", action="config", help="YAML file with the options below, such as that of a run.")
    parser.add_subclass_arguments(FaceDataModule, "data", required=False, help="The data set.")
    parser.add_class_arguments(AuditOptions)
    config = parser.parse_args(redirect(args[1:]))
    with naming_options(config):
        options = AuditOptions(**{option.name: config[option.name] for option in fields(AuditOptions)})
        if (config.get("path") is None) == (config.get("data") is None):
            raise FaceExprError("expected a path or --data, and not both")
        module = parser.instantiate_classes(config).data if config.get("path") is None else open_path(config["path"])
        try:
            audit(module, options)
        except FaceExprError as error:
            boxes = f"--data FaceBoxes --data.train {config['path']} " if "path" in config else ""
            said = str(error).replace("that which images names", f"FOLDER by {boxes}--data.images FOLDER")
            raise FaceExprError(said) from error


def open_path(path: str) -> FaceDataModule:
    """Return the data set that a path stands for."""
    place = Path(path).expanduser()
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        state = "is empty" if place.exists() else "is not there"
        raise FaceExprError(f"{path} {state}; expected a folder of faces, FER-2013's file or annotations")
    if place.is_dir():
        holds_folders = any(entry.is_dir() and not entry.name.startswith((".", "__")) for entry in place.iterdir())
        return FaceFolder(path) if holds_folders else FaceFiles(path)
    return FER2013(path) if place.name.endswith((".csv", ".csv.gz")) else FaceBoxes(path)


def audit(module: FaceDataModule, options: AuditOptions) -> dict[str, Any]:
    """Look through a data set, write what was found, and return what audit.json holds.

    Raises:
        FaceExprError: the data cannot be read at all, a model cannot be loaded, or cleanlab is missing.
    """
    start = time.perf_counter()
    if isinstance(module, DetectionDataModule):
        if isinstance(module, FaceBoxes):
            module.reading = replace(module.reading or ReadOptions(), missing="leave_out")  # the notes name them
        detector = find_detector(options, options.min_score) if options.faces else None
        album, findings, draw = auditing.read_boxes(module, detector, options.min_side or MIN_BOX)
        album.notes += dict.fromkeys(getattr(module, "notes", ()))
    else:
        assert isinstance(module, ExpressionDataModule)
        if options.labels and find_spec("cleanlab") is None:
            raise FaceExprError(
                "labels is true, and cleanlab is not installed: pip install 'faceexpr[audit]'; expected that, or false"
            )
        embed = auditing.Embedder(options.classifier, options.device) if options.labels or options.faces else None
        album, findings = auditing.read_faces(module, embed), []
        thumbnails = album.thumbnails

        def draw(finding: Finding) -> NDArray[np.uint8]:
            return thumbnails[finding.place or 0]

    say(f"{counted(len(album.images), 'image')} read in {time.perf_counter() - start:.0f} s")
    started = time.perf_counter()
    copies, groups = auditing.find_copies(album, options.similarity)
    say(f"copies found in {time.perf_counter() - started:.0f} s")
    findings += album.broken + copies
    if isinstance(module, ExpressionDataModule):
        findings += auditing.find_bad_faces(album, module, options.min_side or MIN_SIDE)
        if options.faces:
            findings += auditing.find_no_faces(album, find_detector(options, NO_FACE))
        if options.labels:
            findings += auditing.find_wrong_labels(album, groups)
    findings.sort(key=lambda finding: [*auditing.ISSUES].index(finding.issue))  # which keeps the order of each issue
    facts = {
        "faceexpr": __version__,
        "data": {"class_path": class_path(type(module)), "init_args": describe(module.init_args, "data")},
        "options": describe(asdict(options), "options"),
        "notes": album.notes,
        "splits": album.balance(),
        "copies": auditing.count_copies(album, groups),
        "issues": Counter(finding.issue for finding in findings),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write(options, type(module).__name__, facts, findings, draw)
    return facts


def find_detector(options: AuditOptions, min_score: float) -> Detector:
    """Return the detector of the options."""
    detector = load_detector(options.detector, options.device, {"min_score": min_score})
    if isinstance(detector, GroundTruth):
        raise FaceExprError(f"detector is {options.detector}, which holds annotations; expected a detector")
    return detector


def write(options: AuditOptions, name: str, facts: dict[str, Any], findings: Sequence[Finding], draw: Draw) -> None:
    """Write audit.json, audit.csv and audit.html, and say what was found."""
    rows = []
    for one in findings:
        image = Path(one.image).absolute() if Path(split_fragment(one.image)[0]).exists() else one.image
        score = "" if one.score is None else f"{one.score:.4g}"
        box = " ".join(f"{value:.1f}" for value in one.box or ())
        group = "" if one.group is None else one.group
        rows.append(("", one.issue, one.split, image, one.label, one.suggestion, score, group, box, one.note))
    keep_older(options.out / "audit.csv")  # in which somebody has written
    write_file(options.out / "audit.csv", csv_text(COLUMNS, rows))
    write_file(options.out / "audit.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    page = auditing.write_page(f"Audit of {name}", facts, findings, draw, options.gallery)
    write_file(options.out / "audit.html", page)
    copies = facts["copies"]
    say("\n".join([
        *(f"note: {note}" for note in facts["notes"]),
        *(f"{split}: {', '.join(f'{number:,} {label}' for label, number in row.items())}"
          for split, row in facts["splits"].items()),
        f"{counted(copies['groups'], 'group')} of equal images, {copies['contradictions']:,} with different labels",
        *(f"{split}: {leak['equal']:,} equal to a training image, {leak['near']:,} more nearly equal"
          for split, leak in copies["leaks"].items()),
        *(f"{issue}: {count:,}" for issue, count in facts["issues"].items()),
        f"written to {options.out}: audit.json, audit.csv and audit.html, in {facts['seconds']:.0f} s",
    ]))  # fmt: skip
