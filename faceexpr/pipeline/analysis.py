"""Turn images into records and the files that belong to each, in this process or in those of Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from faceexpr.pipeline.classifiers import TaskClassifier
from faceexpr.pipeline.inputs import Item
from faceexpr.pipeline.pipeline import Analysis, FacePipeline
from faceexpr.pipeline.records import CROPS, EXPLAINED, PICTURES, UNKNOWN, ImageResult, caption, write_image
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError
from faceexpr.utils.labels import colour
from faceexpr.visualization.boxes import draw_boxes, font_for
from faceexpr.visualization.explain import side_by_side

BATCHES = 4
"""Batches of a pipeline that an actor is given together: while one is looked at, the next is read."""

_HEIGHT, _GAP, _BAND, _TEXT = 256, 8, 34, 17


@dataclass(frozen=True)
class ImageFiles:
    """Which files are made from each image, and where.

    Attributes:
        out: folder of the results.
        pictures: the image with its boxes, expressions and probabilities, below ``pictures``.
        crops: each face as it was cut out, below ``crops``.
        explain: each face beside the parts of it that speak for its expression, below ``explained``.
    """

    out: Path
    pictures: bool = False
    crops: bool = False
    explain: bool = False

    def write(self, name: str, analysis: Analysis, pipeline: FacePipeline) -> None:
        """Write the files of an image, whose names begin with ``name``."""
        if self.pictures and analysis.pixels is not None:
            write_image(draw_faces(analysis, pipeline.classifier.class_names), self.out / PICTURES / name)
        if self.crops:
            for number, crop in enumerate(analysis.crops, 1):
                write_image(crop, self.out / CROPS / f"{name}.{number}.png")
        if self.explain:
            for number, drawn in explain_faces(pipeline, analysis):
                write_image(drawn, self.out / EXPLAINED / f"{name}.{number}.png")


def analyze_items(pipeline: FacePipeline, items: Iterable[Item], files: ImageFiles) -> Iterator[dict[str, Any]]:
    """Yield the record of each image in order, after the files that belong to it were written."""
    items, ahead = tee(items)
    paths = (item.source if item.read is None else (item.source, item.read) for item in ahead)
    # The items come second: `zip` would drop one where the analyses end first.
    for analysis, item in zip(pipeline.run_with_pixels(paths), items, strict=True):
        files.write(item.name, analysis, pipeline)
        yield {"image": item.source, "name": item.name, **analysis.result.record()}


def draw_recorded(
    pipeline: FacePipeline, items: Mapping[str, Item], records: Iterable[Mapping[str, Any]], out: Path
) -> Iterator[str]:
    """Draw those of some images, by their names, that were analysed before and not drawn: as the analysis would have.

    Yields:
        For each why it could not be drawn; an empty text where it could.
    """
    for record in records:
        result, place = ImageResult.of_record(record), out / PICTURES / record["name"]
        if result.source not in items or result.size is None or place.exists():
            continue
        image = pipeline.read(items[result.source].read or result.source)
        if isinstance(image, ImageError) or image.size != result.size:
            reason = image.reason if isinstance(image, ImageError) else "another image than the one that was analysed"
            yield f"{result.source} is not drawn: {reason}"
            continue
        drawn = draw_faces(Analysis(result, image.pixels, image.reduction), pipeline.classifier.class_names)
        write_image(drawn, place)
        yield ""


class AnalysisActor:
    """A process of Ray that holds a pipeline.

    Args:
        make_pipeline: builds it.
        files: which files are made from each image.
        folder: the current folder, which paths are relative to.
    """

    def __init__(self, make_pipeline: Callable[[], FacePipeline], files: ImageFiles, folder: str) -> None:
        os.chdir(folder)
        self.pipeline = make_pipeline()
        self.files = files

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn a column of items into a column of records, both pickled: names may be bytes that are no text."""
        items = [pickle.loads(item) for item in batch["item"]]
        records = [pickle.dumps(record) for record in analyze_items(self.pipeline, items, self.files)]
        return {"record": np.array(records, dtype=object)}


def analyze_with_ray(
    make_pipeline: Callable[[], FacePipeline],
    items: Sequence[Item],
    files: ImageFiles,
    workers: int,
    batch_size: int,
    gpu: bool | None,
) -> Iterator[dict[str, Any]]:
    """Yield the record of each image in order, which actors of Ray have made.

    A cluster that ``RAY_ADDRESS`` names, or that runs on this machine, is used; else one is started here. All its
    machines see the images, the models and the folder of the results under the same paths.

    Args:
        make_pipeline: builds the pipeline of an actor; it can be pickled.
        items: the images.
        files: which files the actors make from each image.
        workers: number of actors, each with a core of its own.
        batch_size: images that a pipeline looks at together.
        gpu: each actor takes a GPU; None means where the cluster has any.

    Raises:
        FaceExprError: Ray is not installed, or an actor has failed.
    """
    if workers < 1:
        raise FaceExprError(f"workers is {workers}; expected at least 1")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise FaceExprError("engine is ray, which is not installed: pip install 'faceexpr[ray]'") from error
    if not items:
        return
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # Small blocks for few images, so that every actor has some; whole batches, so that results stay the same.
    share = batch_size * min(BATCHES, max(1, len(items) // (2 * workers * batch_size)))
    gpus = int(bool(ray.cluster_resources().get("GPU")) if gpu is None else gpu)
    # A block becomes a task, and records come back by the task: little is lost when the driver is killed.
    rows = ray.data.from_items(
        [{"item": pickle.dumps(item)} for item in items], override_num_blocks=-(-len(items) // share)
    ).map_batches(
        AnalysisActor,
        fn_constructor_args=(make_pipeline, files, str(Path.cwd())),
        batch_size=share,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
    )
    try:
        for row in rows.iter_rows():
            yield pickle.loads(row["record"])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise FaceExprError(f"an actor of Ray has failed: {str(cause).strip().splitlines()[-1]}") from error


def draw_faces(
    analysis: Analysis, class_names: Sequence[str], captions: Sequence[str] | None = None
) -> NDArray[np.uint8]:
    """Draw the faces of an image that could be read: boxes, captions and a chart of the probabilities.

    Captions are the top expressions where no others are given. The bars of a chart are in the order of the classes. The
    drawing is RGB, uint8 (H, W, 3), of the size in which the image was analysed.
    """
    assert analysis.pixels is not None
    faces = analysis.result.faces
    return draw_boxes(
        analysis.pixels,
        np.array([face.box for face in faces]).reshape(-1, 4) / analysis.reduction,
        [caption(face) for face in faces] if captions is None else captions,
        [colour(face.expression or UNKNOWN) for face in faces],
        [[*(face.probabilities or {}).values()] for face in faces],
        [colour(name) for name in class_names],
        class_names,
    )


def explain_faces(pipeline: FacePipeline, analysis: Analysis) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Draw each face of an image, analysed with a `TaskClassifier` of a network, beside what speaks for its expression.

    Yields:
        The number of the face, from 1, and its drawing, RGB, uint8 (H, W, 3). Faces without an expression are left out.
    """
    classifier, size = pipeline.classifier, pipeline.face_batch
    assert isinstance(classifier, TaskClassifier)
    faces = [
        (number, crop, face.expression, (face.probabilities or {}).get(face.expression, 0.0))
        for number, (crop, face) in enumerate(zip(analysis.crops, analysis.result.faces, strict=True), 1)
        if face.expression is not None
    ]
    for batch in (faces[start : start + size] for start in range(0, len(faces), size)):
        seen = pipeline.face_tensors([crop for _, crop, _, _ in batch])
        maps = classifier.explain(seen, [name for _, _, name, _ in batch])
        for (number, crop, name, share), values in zip(batch, maps, strict=True):
            yield number, _add_captions(side_by_side(crop, values, _HEIGHT, _GAP), name, share)


def _add_captions(pair: NDArray[np.uint8], name: str, share: float) -> NDArray[np.uint8]:
    """Write the expression under the face, and what is seen under the map."""
    height, width = pair.shape[:2]
    canvas = Image.new("RGB", (width, height + _BAND), "white")
    canvas.paste(Image.fromarray(pair))
    pen = ImageDraw.Draw(canvas)
    half = (width - _GAP) // 2
    pen.rectangle((0, height + 10, 13, height + 23), fill=colour(name))
    for left, room, text in (
        (20, half - 20, f"{name} {share:.0%}"),
        (half + _GAP, half, f"what speaks for {name}"),
    ):
        length = font_for(text, _TEXT).getlength(text)
        font = font_for(text, max(6, int(_TEXT * min(1.0, room / length))))
        pen.text((left, height + _BAND / 2), text, font=font, fill="#222222", anchor="lm")
    return np.asarray(canvas)
