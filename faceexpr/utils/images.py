"""The one image reader and the one resize of the whole product."""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, features

from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.text import kind_of

if TYPE_CHECKING:
    from torch import Tensor

Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"
"""What an image can be read from: a file's path, a file's bytes, or an image in memory (arrays are RGB or grey)."""

Mode: TypeAlias = Literal["L", "RGB"]

DEFAULT_MAX_PIXELS = 160_000_000
"""Larger images are refused; the largest camera sensors on sale have 151 million pixels."""

BACKGROUND = (255, 255, 255)
"""The colour behind transparent pixels: white, as on paper and on most web pages."""

# Only decoders that run in this process: Pillow's EPS reader, for one, would start Ghostscript on the user's file.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "TIFF", "BMP", "DIB", "WEBP", "AVIF", "HEIF", "JPEG2000", "PPM")

# fmt: off
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"8BPS": "Photoshop",
    b"%PDF": "PDF",
}
# fmt: on
_UNSUPPORTED = ("JPEG XL", "Photoshop", "PDF")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# fmt: off
EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".webp",
    ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
})
# fmt: on
"""The endings, in lower case, by which a folder is searched; what a file holds is decided by its content alone."""

# By the EXIF orientation: whether to mirror, and then the quarter turns anticlockwise.
_TURNS: dict[object, tuple[bool, int]]
_TURNS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, -1), 7: (True, -1), 8: (False, 1)}
_PNG_TEXT = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")

# Pixels that are converted at a time: what a conversion needs beside its input and output stays small.
_STRIP = 2**20

# Of images with this many pixels or more, one is decoded at a time, so that several threads need the memory of one.
_LARGE = 32_000_000
_one_large = threading.Lock()


class ImageError(FaceExprError):
    """An image that cannot be read.

    Attributes:
        source: the file, or what was given instead of one.
        reason: what was wrong, as a phrase: "truncated", "empty file", "not an image", ...
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


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
    mode: Mode = "RGB",
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
            source = _from_array(source, name)
        if isinstance(source, Image.Image):
            return _decode(source, name, mode, max_pixels, reduce_to, from_file=False)
        with _open(source, name) as file, _identify(file, name) as image:
            return _decode(image, name, mode, max_pixels, reduce_to, from_file=True)


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height in pixels of an image after its EXIF rotation; nothing is decoded.

    Raises:
        ImageError: the header cannot be read; what follows it may be damaged all the same.
    """
    name = str(path)
    with _naming_damage(name), _open(path, name) as file, _identify(file, name) as image:
        # Pillow's TIFF reader turns by itself. Its PNG reader would decode everything in search of an EXIF block that
        # follows the pixels, which few files have.
        png_without = image.format == "PNG" and "exif" not in image.info and not _text_after_pixels(file)
        turned = image.format != "TIFF" and not png_without and _turn(image)[1] % 2 == 1
        return (image.height, image.width) if turned else image.size


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
        raise ImageError(name, f"cannot be opened: {error.strerror}" if error.errno else _damage(error)) from error
    except Exception as error:  # damaged files make decoders raise anything: struct.error, zlib.error, IndexError, ...
        raise ImageError(name, _damage(error)) from error


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


def as_faces(images: Any, name: str = "image") -> Tensor:
    """Return faces, a tensor or an array (N, 1 or 3, H, W), as a tensor; a `FaceExprError` where it is neither."""
    import torch

    images = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    fits = isinstance(images, torch.Tensor) and images.ndim == 4 and images.shape[1] in (1, 3)
    require(fits, name, kind_of(images), "faces, a tensor or an array (N, 1 or 3, height, width)")
    return images  # type: ignore[no-any-return]


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
        raise ImageError(name, "a folder, not a file; in Python sorted(Path(folder).rglob('*.jpg')) are its images")
    if not stat.S_ISREG(mode):  # reading a pipe or a device might never end
        raise ImageError(name, "not a regular file")
    return Path(source).open("rb")


def _decode(
    image: Image.Image, name: str, mode: Mode, max_pixels: int, reduce_to: int | None, from_file: bool
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
    factor //= by_decoder

    def decode() -> tuple[np.ndarray, bool]:
        image.load()
        pixels = _to_pixels(image, mode, factor, name)
        mirror, turns = _turn(image)
        if from_file:
            image.close()  # gives its memory back before the next large image is begun
        pixels = np.fliplr(pixels) if mirror else pixels
        return np.ascontiguousarray(np.rot90(pixels, turns)), turns % 2 == 1

    if width * height < _LARGE:
        pixels, sideways = decode()
    else:
        # In a thread of its own: glibc keeps freed memory for the thread that used it, and eight readers would keep
        # eight times that of the largest image (2.2 GB and not 0.5 GB for 100 megapixels). Threads that follow one
        # another share it.
        with _one_large, ThreadPoolExecutor(max_workers=1) as worker:
            pixels, sideways = worker.submit(decode).result()
    return DecodedImage(pixels, (height, width) if sideways else (width, height), by_decoder * factor, notes)


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # counting reads on to the end of the file, and damage there is no reason to lose the first frame
        return ("first of several frames",)
    return (f"first of {frames} frames",) if frames > 1 else ()


def _turn(image: Image.Image) -> tuple[bool, int]:
    """Return how an image is turned upright, as in `_TURNS`."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation), (False, 0))
    except Exception:  # Pillow's parser raises anything on a broken block, which is no reason to lose the image
        return False, 0


def too_large(pixels: str, max_pixels: int) -> str:
    """Return the reason for refusing an image by its size."""
    return f"too large: {pixels} pixels, the limit is {max_pixels:,} (max_pixels)"


def _damage(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text or type(error).__name__}"


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """Read the header of an image file, whose format its first bytes tell; nothing is decoded yet.

    Pillow's readers are called one by one: `PIL.Image.open` would hold the size against a limit that belongs to the
    whole process, and not to the caller.
    """
    head = file.read(64)
    if not head:
        raise ImageError(name, "empty file")
    kind = _kind(head)
    if kind in _UNSUPPORTED:
        raise ImageError(name, f"format not supported: {kind}; convert it to PNG or JPEG")
    if kind == "AVIF" and not features.check("avif"):
        raise ImageError(name, "format not supported: AVIF; pip install 'Pillow>=11.3'")
    if kind == "HEIC":
        try:
            import pillow_heif
        except ImportError:
            raise ImageError(name, "format not supported: HEIC; pip install 'faceexpr[heic]'") from None
        if "HEIF" not in Image.OPEN:
            pillow_heif.register_heif_opener()
    Image.init()
    for known in _FORMATS:
        build, accepts = Image.OPEN.get(known, (None, None))
        if build is None or (accepts is not None and accepts(head[:16]) is not True):
            continue
        file.seek(0)
        try:
            image: Image.Image = build(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # by which Pillow's readers say: not mine
            continue
        return image
    reason = "not an image" if kind is None else f"truncated or damaged: the {kind} header cannot be read"
    raise ImageError(name, reason)


def _kind(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        # The size of this box bounds the list of brands: four bytes each, the second one being a version.
        box = head[: int.from_bytes(head[:4], "big")]
        brands = {box[start : start + 4] for start in range(8, len(box), 4) if start != 12}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIC" if brands & _HEIC_BRANDS else None
    return next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or 0 in pixels.shape:
        raise ImageError(name, f"array of shape {pixels.shape}; expected (height, width) or (height, width, 3), RGB")
    if pixels.dtype not in (np.uint8, np.uint16, np.bool_) and not np.issubdtype(pixels.dtype, np.floating):
        raise ImageError(name, f"{pixels.dtype} array; expected uint8, uint16, bool, or floating point from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(pixels, name)))


def _eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Scale to uint8 by what white is in the type, never by the brightest pixel at hand."""
    if values.dtype == np.uint8:
        return values
    low, high = values.min(), values.max()
    white = 65535 if np.issubdtype(values.dtype, np.integer) else 1
    if not (low >= 0 and high <= white):  # this way round NaN is refused too
        raise ImageError(name, f"pixel values from {low} to {high}; expected 0 to {white} in {values.dtype}")
    scaled: np.ndarray = np.rint(values * (255 / white))
    return scaled.astype(np.uint8)


def _to_pixels(image: Image.Image, mode: Mode, factor: int, name: str) -> np.ndarray:
    """Return the pixels of a loaded image, each the mean of ``factor`` x ``factor`` of its own; sides round up."""
    width, height = image.size
    shape = (-(-height // factor), -(-width // factor))
    pixels = np.empty(shape if mode == "L" else (*shape, 3), np.uint8)
    step = factor * max(1, _STRIP // (width * factor))
    for top in range(0, height, step):
        # Pillow copies an image even where nothing is cut off or converted.
        part = image if step >= height else image.crop((0, top, width, min(top + step, height)))
        strip = _flat(part, name)
        strip = strip if strip.mode == mode else strip.convert(mode)
        rows = np.asarray(strip.reduce(factor) if factor > 1 else strip)
        pixels[top // factor : top // factor + len(rows)] = rows
    return pixels


def _flat(image: Image.Image, name: str) -> Image.Image:
    """Return the image as opaque L or RGB of 8 bits."""
    if image.mode == "1" and not image.has_transparency_data:
        return image.convert("L")
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image), name))
    if image.has_transparency_data:
        # La (premultiplied grey) converts to nothing but LA.
        with_alpha = image.convert("LA") if image.mode == "La" else image
        background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, with_alpha.convert("RGBA")).convert("RGB")
    return image if image.mode == "L" else image.convert("RGB")


def _text_after_pixels(file: BinaryIO) -> bool:
    """Tell whether a PNG file may have, after its first pixels, a chunk that can hold an EXIF block."""
    back = file.tell()
    file.seek(0)
    after = file.read().partition(b"IDAT")[2]
    file.seek(back)
    return any(chunk in after for chunk in _PNG_TEXT)
