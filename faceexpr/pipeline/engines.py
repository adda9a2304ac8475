"""How images become records, by one process or by the actors of Ray Data on any number of machines; with progress."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from faceexpr.pipeline.drawing import ImageFiles
from faceexpr.pipeline.inputs import Item
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say

BATCHES = 4
"""Batches of a pipeline that an actor is given together: while one is looked at, the next is read."""

SECONDS_A_LINE = 10
"""How often a line says how far an analysis is where there is no terminal for a bar."""


def analyze_items(pipeline: FacePipeline, items: Iterable[Item], files: ImageFiles) -> Iterator[dict[str, Any]]:
    """Yield the record of each image in order, after the files that belong to it were written."""
    items, ahead = tee(items)
    paths = (item.source if item.read is None else (item.source, item.read) for item in ahead)
    # The items come second: `zip` would drop one where the analyses end first.
    for analysis, item in zip(pipeline.run_with_pixels(paths), items, strict=True):
        files.write(item.name, analysis, pipeline)
        yield {"image": item.source, "name": item.name, **analysis.result.record()}


class AnalysisActor:
    """A process of Ray that holds a pipeline.

    Args:
        make_pipeline: builds it; it can be pickled.
        files: which files are made from each image.
        folder: the current folder, which paths are relative to; every machine sees it.
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
        files: which files are made from each image; the actors write them.
        workers: number of actors; each has a core of its own, and a GPU where ``gpu`` says so.
        batch_size: images that a pipeline looks at together.
        gpu: each actor takes a GPU; None means where the cluster has any.

    Raises:
        FaceExprError: Ray is not installed, or an actor has failed.
    """
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
    gpus = int(bool(ray.cluster_resources().get("GPU")) if gpu is None else gpu)  # type: ignore[no-untyped-call]
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


@contextmanager
def show_progress(total: int, before: int, part: str = "") -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, and a line now and then elsewhere.

    Args:
        total: images.
        before: how many of them are done.
        part: begins the lines of one of several processes, which share a terminal and have no bar.

    Yields:
        A function that moves on by an image; it takes the number of its faces.
    """
    done, found = before, 0
    start = last = time.monotonic()
    as_lines = bool(part) or not sys.stderr.isatty()
    with tqdm(total=total, initial=before, unit="image", disable=as_lines) as bar:

        def advance(faces: int) -> None:
            nonlocal done, found, last
            done, found, now = done + 1, found + faces, time.monotonic()
            bar.set_postfix_str(f"{found:,} faces", refresh=False)
            bar.update()
            if as_lines and now - last >= SECONDS_A_LINE:
                last = now
                left = (now - start) / (done - before) * (total - done)
                say(f"{part}{done:,} of {total:,} images, {found:,} faces, about {left:,.0f} s left")

        yield advance
