"""Images of faces without labels: what `faceexpr predict` reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.module import Stage
from faceexpr.data.split import FaceSplit, Failure
from faceexpr.errors import FaceExprError
from faceexpr.images import DEFAULT_MAX_PIXELS, ImageError, find_images, read_picture, resize

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the upright image."""

# A large photograph is first shrunk by a whole factor, which is cheap, to no less than this many times the final side:
# what the resize then does to it differs from resizing the original by less than one grey level.
_OVERSAMPLING = 8


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
    """

    def __init__(
        self,
        paths: str | list[str],
        batch_size: int = 128,
        box: tuple[int, int, int, int] | None = None,
        image_size: int | None = None,
        channels: Literal[1, 3] = 3,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        super().__init__(batch_size=batch_size)
        check_image_options(image_size, channels, max_pixels)
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise FaceExprError(f"data.box is {list(box)}; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        self.paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not self.paths:
            raise FaceExprError("data.paths is empty; expected image files or folders")
        self.box = box
        self.image_size = image_size
        self.channels = channels
        self.max_pixels = max_pixels

    def load_split(self, stage: Stage) -> FaceSplit:
        if stage != "predict":
            raise FaceExprError(
                f"FaceImages holds images without labels, so there is no {stage} split; expected `faceexpr predict`, "
                "or FaceFolder for images in one folder a class"
            )
        files = [file for path in self.paths for file in find_images(Path(path))]
        return read_faces(files, self.image_size or self.network_size, self.channels, self.box, self.max_pixels)


def check_image_options(image_size: int | None, channels: int, max_pixels: int) -> None:
    """Refuse values that no image can be read with.

    Raises:
        FaceExprError: an option is out of its range.
    """
    if image_size is not None and image_size < 1:
        raise FaceExprError(f"data.image_size is {image_size}; expected 1 or more")
    if channels not in (1, 3):
        raise FaceExprError(f"data.channels is {channels}; expected 1 (grey) or 3 (RGB)")
    if max_pixels < 1:
        raise FaceExprError(f"data.max_pixels is {max_pixels}; expected 1 or more")


def read_faces(
    files: Sequence[Path],
    image_size: int,
    channels: Literal[1, 3],
    box: Box | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> FaceSplit:
    """Read image files, resize them to a square, and keep account of those that cannot be read.

    Args:
        files: in the order of the result.
        image_size: side of the images in pixels.
        channels: 1 for grey, 3 for RGB.
        box: the part of each image to take; None for all of it.
        max_pixels: see `read_picture`.

    Returns:
        A split without labels. A failure's ``position`` is the file's place in ``files``; the images, their sources
        and the keys of the notes are those that are left.
    """
    images = torch.empty((len(files), channels, image_size, image_size), dtype=torch.uint8)

    def read(position: int) -> Failure | tuple[str, ...]:
        file = files[position]
        try:
            images[position], notes = _read_face(file, image_size, channels, box, max_pixels)
        except ImageError as error:
            return Failure(position, str(file), error.reason)
        return notes

    # Decoders release the interpreter's lock, so threads help; they share the one tensor, which processes would not.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(read, range(len(files))))
    kept = [position for position, result in enumerate(results) if not isinstance(result, Failure)]
    all_notes = [result for result in results if not isinstance(result, Failure)]
    return FaceSplit(
        images=images if len(kept) == len(files) else images[kept],
        targets=None,
        sources=[str(files[position]) for position in kept],
        failures=[result for result in results if isinstance(result, Failure)],
        notes={index: "; ".join(notes) for index, notes in enumerate(all_notes) if notes},
    )


def _read_face(
    file: Path, image_size: int, channels: Literal[1, 3], box: Box | None, max_pixels: int
) -> tuple[Tensor, tuple[str, ...]]:
    picture = read_picture(
        file,
        mode="L" if channels == 1 else "RGB",
        max_pixels=max_pixels,
        reduce_to=_OVERSAMPLING * image_size if box is None else None,
    )
    pixels, notes = picture.pixels, picture.notes
    if box is not None:
        pixels, clipped = _crop(pixels, box, str(file))
        notes = (*notes, "box clipped to the image") if clipped else notes
    return face_tensor(pixels, image_size), notes


def _crop(pixels: np.ndarray, box: Box, name: str) -> tuple[np.ndarray, bool]:
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if x0 >= x1 or y0 >= y1:
        raise ImageError(name, f"the box {list(box)} lies outside the image of {width} x {height} pixels")
    return pixels[y0:y1, x0:x1], (x0, y0, x1, y1) != tuple(box)


def face_tensor(pixels: np.ndarray, image_size: int) -> Tensor:
    """Resize a face to what a data set holds; pixels that have the size already stay as they are.

    Args:
        pixels: uint8, shape (H, W) or (H, W, 3).
        image_size: side of the result in pixels.

    Returns:
        uint8, shape (1 or 3, image_size, image_size).
    """
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    resized = resize(image[None].float(), image_size)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)
