"""How the bytes of an image become 8-bit grey or RGB pixels; `faceexpr.utils.images` is the way in."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, features

from faceexpr.utils.errors import FaceExprError

BACKGROUND = (255, 255, 255)
"""The colour behind transparent pixels: white, as on paper and on most web pages."""

# Only decoders that run in this process: Pillow's EPS reader, for one, would start Ghostscript on the user's file.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "TIFF", "BMP", "DIB", "WEBP", "AVIF", "HEIF", "JPEG2000", "PPM")

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
)
_UNSUPPORTED = ("JPEG XL", "Photoshop", "PDF")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# Pixels that are converted at a time: what a conversion needs beside its input and output stays small.
_STRIP = 2**20

_UPRIGHT: dict[object, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.swapaxes(np.rot90(pixels, 2), 0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
_SIDEWAYS = (5, 6, 7, 8)
_PNG_TEXT = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


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


def too_large(pixels: str, max_pixels: int) -> str:
    """Return the reason for refusing an image by its size."""
    return f"too large: {pixels} pixels, the limit is {max_pixels:,} (max_pixels)"


def damage(error: Exception) -> str:
    """Return the reason that a decoder's exception stands for."""
    text = " ".join(str(error).split())
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text or type(error).__name__}"


def identify(file: BinaryIO, name: str) -> Image.Image:
    """Read the header of an image file, whose format its first bytes tell; nothing is decoded yet.

    Pillow's readers are called one by one: `PIL.Image.open` would hold the size against a limit that belongs to the
    whole process, and not to the caller.

    Raises:
        ImageError: the file is empty, or no image of a known format.
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
        _register_heic(name)
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
    return next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), None)


def _register_heic(name: str) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(name, "format not supported: HEIC; pip install 'faceexpr[heic]'") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()


def from_array(pixels: np.ndarray, name: str) -> Image.Image:
    """Return an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as a PIL image of 8 bits a channel.

    Raises:
        ImageError: the array has another shape or type, or values out of range.
    """
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


def to_pixels(image: Image.Image, mode: Literal["L", "RGB"], factor: int, name: str) -> np.ndarray:
    """Convert a loaded image to pixels, each the mean of ``factor`` x ``factor`` of its own.

    Returns:
        uint8, shape (H, W) or (H, W, 3); the sides are divided by ``factor`` and rounded up.

    Raises:
        ImageError: the image has values that are out of range.
    """
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


def turned_upright(pixels: np.ndarray, image: Image.Image) -> tuple[np.ndarray, bool]:
    """Turn pixels as the EXIF block of their image says; an unreadable block turns nothing.

    Returns:
        The pixels, and whether width and height have changed places.
    """
    orientation = _orientation(image)
    turn = _UPRIGHT.get(orientation)
    if turn is None:
        return pixels, False
    return np.ascontiguousarray(turn(pixels)), orientation in _SIDEWAYS


def size_when_upright(image: Image.Image, file: BinaryIO) -> tuple[int, int]:
    """Return width and height that an image, identified from a file, has when it is decoded and turned."""
    width, height = image.size
    # Pillow's TIFF reader turns by itself. Its PNG reader would decode everything in search of an EXIF block that
    # follows the pixels, which few files have.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info and not _text_after_pixels(file)):
        return width, height
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's parser raises anything on a broken block, which is no reason to lose the image
        return None


def _text_after_pixels(file: BinaryIO) -> bool:
    """Tell whether a PNG file has, after its first pixels, a chunk that can hold an EXIF block."""
    back = file.tell()
    position, pixels = 8, False
    try:
        while True:
            file.seek(position)
            head = file.read(8)
            if len(head) < 8:
                return False
            if pixels and head[4:] in _PNG_TEXT:
                return True
            pixels = pixels or head[4:] == b"IDAT"
            position += 12 + int.from_bytes(head[:4], "big")
    finally:
        file.seek(back)
