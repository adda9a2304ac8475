"""The one image reader and the one resize of the whole product."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import Image

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.image_decoding import (
    BACKGROUND,
    ImageError,
    damage,
    from_array,
    identify,
    size_when_upright,
    to_pixels,
    too_large,
    turned_upright,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BACKGROUND",
    "DEFAULT_MAX_PIXELS",
    "EXTENSIONS",
    "DecodedImage",
    "ImageError",
    "Source",
    "find_images",
    "list_images",
    "read_image",
    "resize",
    "source_name",
    "upright_size",
]

Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"
"""What an image can be read from: a file's path, a file's bytes, or an image in memory (arrays are RGB or grey)."""

DEFAULT_MAX_PIXELS = 160_000_000
"""Larger images are refused; the largest camera sensors on sale have 151 million pixels."""

# fmt: off
EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".webp",
    ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
})
# fmt: on
"""The endings, in lower case, by which a folder is searched; what a file holds is decided by its content alone."""

# Of images with this many pixels or more, one is decoded at a time, so that several threads need the memory of one.
_LARGE = 32_000_000
_one_large = threading.Lock()


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image, upright.

    Attributes:
        pixels: uint8, shape (H, W) for grey or (H, W, 3) for RGB.
        size: width and height in pixels of the upright original.
        reduction: how many pixels of the original, in each direction, one of ``pixels`` stands for; multiply
            coordinates in ``pixels`` by it to get those in the original (exact to one pixel of ``pixels``).
        notes: remarks for the user, such as "first of 2 frames".
    """

    pixels: np.ndarray
    size: tuple[int, int]
    reduction: int = 1
    notes: tuple[str, ...] = ()


def read_image(
    source: Source,
    mode: Literal["L", "RGB"] = "RGB",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    reduce_to: int | None = None,
) -> DecodedImage:
    """Read an image; every image that enters the product comes through here.

    The format is told by the content, never by the file's name. The EXIF orientation is applied; an unreadable EXIF
    block turns nothing. Integers of 16 bits are scaled to 8 and floating-point values from 0 to 1 likewise;
    transparent pixels are laid on `BACKGROUND`; of several frames or pages the first is taken and noted.

    Args:
        source: path, bytes of a file, PIL image, or array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of
            uint8, uint16, bool, or floating point from 0 to 1.
        mode: ``L`` for grey (ITU-R BT.601 weights) or ``RGB``.
        max_pixels: images with more pixels are refused before anything is decoded. Decoding takes 4 to 9 bytes of
            memory a pixel (16 for WebP), whatever the number of threads that read large images.
        reduce_to: shrink by a whole factor while decoding, such that the shorter side still has this many pixels or
            more; None keeps the size.

    Raises:
        ImageError: the image cannot be read; ``reason`` says why.
    """
    name = source_name(source)
    with _naming_damage(name):
        if isinstance(source, np.ndarray):
            return _decode(from_array(source, name), name, mode, max_pixels, reduce_to, from_file=False)
        if isinstance(source, Image.Image):
            return _decode(source, name, mode, max_pixels, reduce_to, from_file=False)
        with _open(source, name) as file, identify(file, name) as image:
            return _decode(image, name, mode, max_pixels, reduce_to, from_file=True)


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height in pixels of an image after its EXIF rotation; only the file's header is read.

    Raises:
        ImageError: the header cannot be read; what follows it may be damaged all the same.
    """
    name = str(path)
    with _naming_damage(name), _open(path, name) as file, identify(file, name) as image:
        return size_when_upright(image, file)


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(name, "not enough memory to decode it") from None
    except Image.DecompressionBombError:  # its readers of TIFF and WebP have a limit of their own
        raise ImageError(name, "too large for Pillow (PIL.Image.MAX_IMAGE_PIXELS)") from None
    except OSError as error:
        raise ImageError(name, f"cannot be opened: {error.strerror}" if error.errno else damage(error)) from error
    except Exception as error:  # damaged files make decoders raise anything: struct.error, zlib.error, IndexError, ...
        raise ImageError(name, damage(error)) from error


def list_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted; hidden files and folders are left out.

    Raises:
        FaceExprError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise FaceExprError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error

    found: list[Path] = []
    visited: set[str] = set()  # links to folders are followed, each folder once, so that a circle of links ends
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        visited.add(os.path.realpath(parent))
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(parent, name)) not in visited
        )
        found += [
            Path(parent, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS
        ]
    return sorted(found)


def find_images(path: Path) -> list[Path]:
    """Return the images that a path means: those in a folder and its subfolders, or the file itself.

    A file is taken whatever its name, and a missing one too: reading it says what is wrong.

    Raises:
        FaceExprError: the folder holds no image, or cannot be read.
    """
    if not path.is_dir():
        return [path]
    found = list_images(path)
    if not found:
        raise FaceExprError(
            f"{path}: the folder holds no image; expected files that end in .jpg, .png, .webp or another image format"
        )
    return found


def resize(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize images with anti-aliasing; the only resize that any image of the product goes through.

    Args:
        image: floating point, shape (N, C, H, W); uint8 on the CPU as well.
        size: side of a square result in pixels, or height and width.

    Returns:
        Shape (N, C, height, width); the input itself where it has that size already.
    """
    from torch.compiler import is_exporting
    from torch.nn.functional import interpolate

    # An exported program takes any size, so it must not be written down which one its example had.
    size = (size, size) if isinstance(size, int) else size
    if not is_exporting() and image.shape[-2:] == size:
        return image
    return interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def source_name(source: Source) -> str:
    """Return what an image is called in messages and results: its path, or what it was given as."""
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, bytes):
        return "bytes"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "PIL image")
    return str(source)


def _open(source: str | os.PathLike[str] | bytes, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        mode = Path(source).stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name with a null character is no file's
        raise ImageError(name, "no such file") from None
    if stat.S_ISDIR(mode):
        raise ImageError(name, "a folder, not a file")
    if not stat.S_ISREG(mode):  # reading a pipe or a device might never end
        raise ImageError(name, "not a regular file")
    return Path(source).open("rb")


def _decode(
    image: Image.Image,
    name: str,
    mode: Literal["L", "RGB"],
    max_pixels: int,
    reduce_to: int | None,
    from_file: bool,
) -> DecodedImage:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(name, too_large(f"{width} x {height}", max_pixels))
    notes = _frame_notes(image) if from_file else ()
    factor = max(1, min(width, height) // reduce_to) if reduce_to else 1
    # The JPEG decoder shrinks by 2, 4 or 8 in a fraction of the time and memory, and for grey it need not decode the
    # colours; what is left is done below. An image that the caller holds is left as it is.
    by_decoder = 1
    if from_file and image.format in ("JPEG", "MPO"):
        by_decoder = next(scale for scale in (8, 4, 2, 1) if scale <= factor)
        image.draft("L" if mode == "L" else None, (width // by_decoder, height // by_decoder))

    def decode() -> tuple[np.ndarray, bool]:
        image.load()
        decoded = turned_upright(to_pixels(image, mode, factor // by_decoder, name), image)
        if from_file:
            image.close()  # gives its memory back before the next large image is begun
        return decoded

    pixels, swapped = _alone(decode) if width * height >= _LARGE else decode()
    return DecodedImage(
        pixels,
        size=(height, width) if swapped else (width, height),
        reduction=by_decoder * (factor // by_decoder),
        notes=notes,
    )


def _alone(decode: Callable[[], tuple[np.ndarray, bool]]) -> tuple[np.ndarray, bool]:
    # In a thread of its own: glibc keeps freed memory for the thread that used it, and eight readers would keep eight
    # times that of the largest image (2.2 GB and not 0.5 GB for 100 megapixels). Threads that follow one another
    # share it.
    with _one_large, ThreadPoolExecutor(max_workers=1) as worker:
        return worker.submit(decode).result()


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # counting reads on to the end of the file, and damage there is no reason to lose the first frame
        return ("first of several frames",)
    return (f"first of {frames} frames",) if frames > 1 else ()
