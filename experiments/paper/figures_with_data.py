"""Draw the figures that show images of the data sets, beside the runs and never into the project."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from experiments.paper.experiments import DATASET_1, DATASET_1_IMAGES, RUNS, SYSTEM, TEST, WIDER_TRAIN
from experiments.paper.figures import BOX_COLOUR, DATASET_1_RUN, found_in_dataset_1, over_detected_photographs
from experiments.paper.figures import file_name as figure_file
from experiments.paper.runs import both_labels, expression_data, ferplus_data, labels
from faceexpr.data.annotations.reading import ReadOptions, read_annotations
from faceexpr.data.loading import FaceSplit
from faceexpr.metrics.predictions import SavedSamples, file_name, read_samples
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.images import read_image
from faceexpr.utils.labels import FER_NAMES, colour
from faceexpr.visualization.boxes import draw_annotations, draw_boxes
from faceexpr.visualization.classification import RIGHT, WRONG, as_pixels, gallery

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path("figures")
SHOWN = 16
"""Faces of a figure."""

PICTURES = 12
"""Photographs of a figure."""

Caption = list[tuple[str, str]]


def write_figures_with_data(out: Path) -> None:
    """Write what can be drawn of Figures 1, 2, 3, 5, 14 and 17 to 19 with images of the data sets.

    Args:
        out: folder of the runs, with the link ``data``.
    """
    drawn: dict[int, Callable[[Path], Figure]] = {
        3: _labelled,
        14: _predicted,
        17: over_detected_photographs,
        18: _relabelled,
        19: _several,
    }
    for number, draw in drawn.items():
        try:
            content = io.BytesIO()
            draw(out).savefig(content, format="png")
        except (FaceExprError, FileNotFoundError) as error:
            say(f"Figure {number} with images of the data is not drawn: {error}")
        else:
            write_file(out / FOLDER / figure_file(number), content.getvalue())
    own = (out / DATASET_1).is_file() and (out / DATASET_1_IMAGES).is_dir()
    if (own or (out / WIDER_TRAIN).is_file()) and not (out / FOLDER / "figure_02").is_dir():
        options = ReadOptions(missing="leave_out")
        images = read_annotations(out / (DATASET_1 if own else WIDER_TRAIN), options=options).images
        chosen = np.random.default_rng(0).choice(len(images), min(PICTURES, len(images)), replace=False)
        draw_annotations([images[index] for index in sorted(chosen.tolist())], out / FOLDER / "figure_02")
    _copied(out)


def _copied(out: Path) -> None:
    """Copy what the evaluation of the detector and the two-step system have drawn already."""
    for name in ("wider_light", DATASET_1_RUN):  # the one that is there and comes last stays
        detector = out / RUNS / name / "seed_0" / TEST / "figures"
        if (detector / "test_pictures.png").is_file():
            shutil.copyfile(detector / "test_pictures.png", out / FOLDER / figure_file(5))
    found = found_in_dataset_1(out).get("after", {})
    for name in sorted(found, key=lambda name: -len(found[name]))[:PICTURES]:
        drawn = draw_boxes(read_image(out / name).pixels, found[name], colours=BOX_COLOUR)
        content = io.BytesIO()
        Image.fromarray(drawn).save(content, "JPEG")
        write_file(out / FOLDER / "figure_01" / f"{Path(name).stem}.jpg", content.getvalue())
    system = out / RUNS / SYSTEM / "photographs/pictures"
    for path in [] if found else sorted(system.rglob("*.jpg"))[:PICTURES]:
        target = out / FOLDER / "figure_01" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _labelled(out: Path) -> Figure:
    split = expression_data(out).split("train")
    found = np.array(labels(split))
    rows = [int(row) for index in range(len(FER_NAMES)) for row in np.flatnonzero(found == index)[:2]]
    names = [FER_NAMES[found[row]] for row in rows]
    return _gallery(split, rows, [[(name, colour(name))] for name in names], "Faces with their labels")


def _predicted(out: Path) -> Figure:
    split, samples = _tested(out)
    right = samples.predicted == samples.labels
    sure = samples.probabilities.max(axis=1)
    rows = [
        *(int(row) for row in np.argsort(-sure * right, kind="stable")[: SHOWN // 2]),
        *(int(row) for row in np.argsort(-sure * ~right, kind="stable")[: SHOWN // 2]),
    ]
    captions = [
        [
            (f"{samples.predicted[row]} {sure[row]:.0%}", RIGHT if right[row] else WRONG),
            (f"true: {samples.labels[row]}", "#222222"),
        ]
        for row in rows
    ]
    return _gallery(
        split, [int(samples.indices[row]) for row in rows], captions, "Predicted correctly and wrong", SHOWN // 2
    )


def _several(out: Path) -> Figure:
    split, samples = _tested(out)
    order = np.argsort(-samples.probabilities, axis=1)
    second = np.take_along_axis(samples.probabilities, order[:, 1:2], axis=1)[:, 0]
    rows = [int(row) for row in np.argsort(-second, kind="stable")[:SHOWN]]
    captions: list[Caption] = [
        [
            (
                f"{samples.class_names[place]} {samples.probabilities[row, place]:.0%}",
                colour(samples.class_names[place]),
            )
            for place in order[row, :2].tolist()
        ]
        for row in rows
    ]
    places = [int(samples.indices[row]) for row in rows]
    return _gallery(split, places, captions, "Faces with two likely expressions")


def _relabelled(out: Path) -> Figure:
    before, now = both_labels(out)
    rows = [row for row, (old, new) in enumerate(zip(before, now, strict=True)) if old != new][:SHOWN]
    captions: list[Caption] = [
        [(FER_NAMES[before[row]], WRONG), (f"FER+: {FER_NAMES[now[row]]}", RIGHT)] for row in rows
    ]
    return _gallery(ferplus_data(out).split("test"), rows, captions, "Labels of FER-2013 and of FER+")


def _tested(out: Path) -> tuple[FaceSplit, SavedSamples]:
    samples = read_samples(out / RUNS / "resnet18/seed_0" / TEST / file_name("test"))
    return expression_data(out).split("test"), samples


def _gallery(
    split: FaceSplit, rows: Sequence[int], captions: Sequence[Caption], title: str, columns: int | None = None
) -> Figure:
    if not rows:
        raise FaceExprError(f"the data have no face for it ({title})")
    return gallery([as_pixels(split.images[row]) for row in rows], captions, title, columns)
