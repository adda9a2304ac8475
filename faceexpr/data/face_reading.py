"""How a face in a file becomes what a data set holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from faceexpr.data.broken_pictures import check_picture, in_threads
from faceexpr.data.loading import FaceSplit, Failure
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DEFAULT_MAX_PIXELS, ImageError, read_image, resize

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the upright image."""

# A large photograph is first shrunk by a whole factor, which is cheap, to no less than this many times the final side:
# what the resize then does to it differs from resizing the original by less than one grey level.
OVERSAMPLING = 8


@dataclass(frozen=True)
class FaceReader:
    """Reads faces from image files.

    Attributes:
        image_size: side of the faces in pixels.
        channels: 1 for grey, 3 for RGB.
        box: the part of each image to take; None for all of it.
        max_pixels: an image with more pixels is not read.
    """

    image_size: int
    channels: Literal[1, 3] = 1
    box: Box | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a face."""
        return self.channels, self.image_size, self.image_size

    def read(self, file: str) -> tuple[Tensor, tuple[str, ...]]:
        """Return a face, uint8 of the shape, and remarks such as "first of 2 frames".

        Raises:
            ImageError: the file cannot be read.
        """
        picture = read_image(
            file,
            mode="L" if self.channels == 1 else "RGB",
            max_pixels=self.max_pixels,
            reduce_to=OVERSAMPLING * self.image_size if self.box is None else None,
        )
        pixels, notes = picture.pixels, picture.notes
        if self.box is not None:
            pixels, clipped = _crop(pixels, self.box, file)
            notes = (*notes, "box clipped to the image") if clipped else notes
        return face_tensor(pixels, self.image_size), notes

    def check(self, file: str) -> None:
        """Look at a file without decoding it, where it does not look as if it were cut short.

        Raises:
            ImageError: the file cannot be read. One that passes may still be damaged inside.
        """
        check_picture(file, self.max_pixels)


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


def read_faces(files: Sequence[str], reader: FaceReader) -> FaceSplit:
    """Read image files into memory, and keep account of those that cannot be read.

    Args:
        files: in the order of the result.
        reader: reads each.

    Returns:
        A split without labels. A failure's ``position`` is the file's place in ``files``; the images, their sources
        and the keys of the notes are those that are left.
    """
    images = torch.empty((len(files), *reader.shape), dtype=torch.uint8)

    def read(position: int) -> Failure | tuple[str, ...]:
        try:
            images[position], notes = reader.read(files[position])
        except ImageError as error:
            return Failure(position, files[position], error.reason)
        return notes

    kept: list[int] = []
    failures: list[Failure] = []
    notes: dict[int, str] = {}
    # Decoders release the interpreter's lock, so threads help; they share the one tensor, which processes would not.
    for position, result in enumerate(in_threads(read, range(len(files)))):
        if isinstance(result, Failure):
            failures.append(result)
            continue
        if result:
            notes[len(kept)] = "; ".join(result)
        kept.append(position)
    if failures:
        # In place: a copy of those that are left would need the memory of a second split.
        for place, position in enumerate(kept):
            images[place] = images[position]
    return FaceSplit(
        images=images[: len(kept)],
        targets=None,
        sources=[files[position] for position in kept],
        failures=failures,
        notes=notes,
    )


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
    return resized.round_().clamp_(0, 255).to(torch.uint8)
