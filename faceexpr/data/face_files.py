"""Images of faces without labels: what `faceexpr predict` reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.face_reading import FaceReader, check_image_options, read_faces
from faceexpr.data.file_names import FileNames
from faceexpr.data.loading import BatchLoader, FaceSplit
from faceexpr.data.module import Stage, require_at_least
from faceexpr.data.streaming import FaceFiles, StreamLoader, needs_streaming, streamed
from faceexpr.data.workers import workers
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DEFAULT_MAX_PIXELS, find_images


class FaceImages(ExpressionDataModule):
    """Image files of faces, in the order given; for predict only.

    A file that cannot be read does not end the run: it becomes a result of its own that says why.

    Args:
        paths: image files, and folders that are searched with their subfolders.
        batch_size: images in a batch of one process.
        box: the face in each image, as x0, y0, x1, y1 in pixels of the upright image (as a viewer shows it); by
            default the whole image.
        image_size: side in pixels that the images are resized to; by default what the network takes.
        channels: 1 for grey, 3 for RGB, which suits every network: one that wants grey converts by itself.
        max_pixels: an image with more pixels is not read and counts as failed.
        memory_gib: the decoded images are kept in memory where they need no more than this; more are decoded when they
            are needed.
        num_workers: processes that decode images then, for each process that predicts; by default the CPU cores that
            prediction leaves, 16 at most. 0 decodes in the predicting process.
    """

    def __init__(
        self,
        paths: str | list[str],
        batch_size: int = 128,
        box: tuple[int, int, int, int] | None = None,
        image_size: int | None = None,
        channels: Literal[1, 3] = 3,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        memory_gib: float = 4.0,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size)
        check_image_options(image_size, channels, max_pixels)
        require_at_least(0, "num_workers", num_workers)
        require_at_least(0, "memory_gib", memory_gib)
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise FaceExprError(f"data.box is {list(box)}; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        self.paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not self.paths:
            raise FaceExprError("data.paths is empty; expected image files or folders")
        self.box = box
        self.image_size = image_size
        self.channels = channels
        self.max_pixels = max_pixels
        self.memory_gib = memory_gib
        self.num_workers = num_workers

    def load_split(self, stage: Stage) -> FaceSplit:
        if stage != "predict":
            raise FaceExprError(
                f"FaceImages holds images without labels, so there is no {stage} split; expected `faceexpr predict`, "
                "or FaceFolder for images in one folder a class"
            )
        files = FileNames(str(file) for path in self.paths for file in find_images(Path(path)))
        reader = FaceReader(self.image_size or self.network_size, self.channels, self.box, self.max_pixels)
        read = streamed if needs_streaming(len(files), reader, self.memory_gib) else read_faces
        return read(files, reader)

    def _loader(self, stage: Stage) -> BatchLoader:
        loader = super()._loader(stage)
        if not isinstance(loader.split.images, FaceFiles):
            return loader
        return self.opened(StreamLoader(loader.split, loader.sampler, workers(self.num_workers, self.trainer)))
