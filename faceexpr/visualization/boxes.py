"""Boxes, captions and small charts drawn into images, and contact sheets of annotated images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, sqrt
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import progress, write_file
from faceexpr.utils.images import ImageError, read_image

Pixels: TypeAlias = "NDArray[np.uint8]"
Box: TypeAlias = "NDArray[np.float64]"

SMALLEST_TEXT = 9
"""Height of letters in pixels below which nobody reads them."""

FACE, IGNORED = "#00f58a", "#ffb300"
"""Colours of annotated faces, and of those that are not counted."""

SHEET = "contact_sheet.png"
MOST_ON_SHEET = 48
CELL = 320
"""Side in pixels of an image on the contact sheet."""
_GAP = 8

_COVERED = 0.25  # a caption that would hide more than this share of itself in faces and captions is left out
_NAMED_ROW = 9  # rows of a chart that are lower than this have no room for the name of their class
_LEAST_ROW = 3
_PANEL = (20, 22, 26, 190)


@dataclass
class _Canvas:
    """An image that is being drawn on, and what must not be covered."""

    image: Image.Image
    faces: Box
    line: int
    text: float
    placed: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def place(
        self, corners: Iterator[tuple[float, float]], width: float, height: float, most: float
    ) -> tuple[int, int] | None:
        """Return the corner of the place that covers least, moved into the image; None where each covers too much.

        ``corners`` are left and top of each place, the best first; ``most`` is the share of what is placed that may
        lie over faces and over what was placed before.
        """
        if width > self.image.width or height > self.image.height:
            return None
        limits = self.image.width - width, self.image.height - height
        taken = np.concatenate([self.faces, np.array(self.placed).reshape(-1, 4)])
        places = np.array(list(corners)).clip(0, limits)
        across = np.minimum(taken[:, 2], places[:, :1] + width) - np.maximum(taken[:, 0], places[:, :1])
        down = np.minimum(taken[:, 3], places[:, 1:] + height) - np.maximum(taken[:, 1], places[:, 1:])
        covered = (across.clip(0) * down.clip(0)).sum(axis=1) / (width * height)
        best = int(covered.argmin())
        if covered[best] > most:
            return None
        left, top = places[best].tolist()
        self.placed.append((left, top, left + width, top + height))
        return round(left), round(top)


def draw_boxes(
    pixels: Pixels, boxes: ArrayLike, captions: Sequence[str] | None = None, colours: Sequence[str] | str = "#00a676",
    bars: Sequence[Sequence[float]] | None = None, bar_colours: Sequence[str] | str = "#ffffff",
    bar_names: Sequence[str] | None = None,
) -> Pixels:  # fmt: skip
    """Draw boxes around faces, each with a caption and a chart of probabilities beside it.

    Lines and letters grow with the image. Captions and charts lie inside the image and keep off the faces. Where
    faces are so many that there is no room, the later ones do without their chart, and then without their caption.

    Args:
        pixels: RGB, uint8 (H, W, 3); it is not changed.
        boxes: (F, 4), left, top, right, bottom in pixels, the most important first.
        captions: one for each box.
        colours: of the boxes, such as ``#00a676``: one for all or one for each.
        bars: for each box the values of its chart, from 0 to 1; none for a box where its sequence is empty.
        bar_colours: of the bars of a chart: one for all or one for each.
        bar_names: names of the bars, written where there is room.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    scale = sqrt(pixels.shape[0] * pixels.shape[1])
    line = max(1, round(scale / 350))
    canvas = _Canvas(Image.fromarray(np.array(pixels)), corners, line, text=max(12.0, scale / 45))
    each = [colours] * len(corners) if isinstance(colours, str) else list(colours)
    # The last is drawn first, so that the most important lies on top.
    for box, colour in list(zip(corners, each, strict=True))[::-1]:
        # The line lies around the face and not over it; a thin dark one on either side shows on any ground.
        left, top, right, bottom = np.round(box).astype(int).tolist()
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        for away, width, paint in ((line + 1, line + 2, (0, 0, 0, 110)), (line, line, (*_rgb(colour), 255))):
            outer = (left - away - 1, top - away - 1, right + away, bottom + away)
            canvas.pen.rectangle(outer, outline=paint, width=width)
    for box, colour, caption in zip(corners, each, captions or [""] * len(each), strict=True):
        if caption:
            _draw_caption(canvas, box, caption, colour)
    for box, values in zip(corners, bars if bars is not None else [()] * len(each), strict=True):
        if len(values):
            shades = [bar_colours] * len(values) if isinstance(bar_colours, str) else bar_colours
            _draw_chart(canvas, box, values, shades, bar_names)
    return np.asarray(canvas.image)


def _draw_caption(canvas: _Canvas, box: Box, caption: str, colour: str) -> None:
    ink = "#111111" if np.dot(_rgb(colour), (0.299, 0.587, 0.114)) > 150 else "#ffffff"
    wanted = min(canvas.text, max(SMALLEST_TEXT, 0.28 * (box[3] - box[1])))
    for size in dict.fromkeys((round(wanted), round(0.8 * wanted), SMALLEST_TEXT)):
        font = font_for(caption, max(size, SMALLEST_TEXT))
        left, _, right, _ = font.getbbox(caption)
        padding = max(1, round(size / 5))
        width, height = right - left + 2 * padding, sum(font.getmetrics()) + padding
        places = _around(box, width, height, canvas.line + 1)
        corner = canvas.place(places, width, height, 0 if size > SMALLEST_TEXT else _COVERED)
        if corner is not None:
            x, y = corner
            canvas.pen.rectangle((x, y, x + width - 1, y + height - 1), fill=(*_rgb(colour), 235))
            canvas.pen.text((x + padding - left, y + padding / 2), caption, font=font, fill=ink)
            return


def _around(box: Box, width: float, height: float, line: int) -> Iterator[tuple[float, float]]:
    """Yield the places for a caption beside a box, the best first: above, below, right, left, within."""
    left, top, right, bottom = box.tolist()
    for y in (top - height - line, bottom + line):
        yield from ((x, y) for x in (left - line, right + line - width, (left + right - width) / 2))
    for y in (top - line, bottom - height):
        yield from ((x, y) for x in (right + line, left - line - width))
    yield left, bottom - height


def _draw_chart(
    canvas: _Canvas, box: Box, values: Sequence[float], colours: Sequence[str], names: Sequence[str] | None
) -> None:
    tall = box[3] - box[1]
    wanted = min(tall / len(values), 1.1 * canvas.text)
    for step in dict.fromkeys(max(round(share * wanted), _LEAST_ROW) for share in (1, 0.8, 0.6, 0.4, 0)):
        labels = names if names is not None and step >= _NAMED_ROW else []
        font = font_for("".join(names or ()), max(1, round(0.78 * step)))
        padding = max(1, step // 4)
        margin = ceil(max(map(font.getlength, labels))) + padding if labels else 0
        length = round(4.5 * step) if labels else round(max(12.0, 0.4 * tall, 3 * step))
        width, height = margin + length + 2 * padding, step * len(values) + 2 * padding
        corner = canvas.place(_beside(box, width, height, canvas.line + 2), width, height, 0)
        if corner is not None:
            break
    else:
        return
    x, y = corner
    canvas.pen.rectangle((x, y, x + width - 1, y + height - 1), fill=_PANEL)
    start, gap = x + padding + margin, 1 if step > _LEAST_ROW else 0
    for row, (value, colour) in enumerate(zip(values, colours, strict=True)):
        top = y + padding + row * step
        low = top + step - 1 - gap
        if labels:
            canvas.pen.text((x + padding, top + step / 2), labels[row], font=font, fill="#f2f2f2", anchor="lm")
        canvas.pen.rectangle((start, top, start + length - 1, low), fill=(255, 255, 255, 28))
        reach = round(min(max(value, 0.0), 1.0) * length)
        if reach:
            canvas.pen.rectangle((start, top, start + reach - 1, low), fill=(*_rgb(colour), 255))


def _beside(box: Box, width: float, height: float, gap: int) -> Iterator[tuple[float, float]]:
    """Yield the places for a chart beside a box, the best first: right, left, below, above."""
    left, top, right, bottom = box.tolist()
    for x in (right + gap, left - gap - width):
        yield from ((x, y) for y in (top, bottom - height, (top + bottom - height) / 2))
    for y in (bottom + gap, top - gap - height):
        yield from ((x, y) for x in (left, right - width))


def _rgb(colour: str) -> tuple[int, int, int]:
    return ImageColor.getrgb(colour)[:3]


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font that has all the characters of a text, ``size`` pixels high."""
    return _open_font(_font_file("".join(sorted(set(text)))), size)


_open_font = lru_cache(maxsize=64)(ImageFont.truetype)


@lru_cache(maxsize=256)
def _font_file(characters: str) -> Path:
    """Return a font that has all the characters: matplotlib's DejaVu Sans, or else the first one installed."""
    from matplotlib import get_data_path

    own = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    wanted = {ord(character) for character in characters if character.isprintable()}
    if wanted <= _charmap(str(own)):
        return own
    from matplotlib.font_manager import fontManager

    # matplotlib's LastResort has a frame for every character there is, which says nothing.
    names = sorted({font.fname for font in fontManager.ttflist if "LastResort" not in font.fname})
    return Path(next((name for name in names if wanted <= _charmap(name)), own))


@lru_cache(maxsize=8)
def _charmap(font: str) -> Set[int]:
    """Return the characters of a font; opening it takes a millisecond or two, which is much for a frame of a video."""
    from matplotlib.ft2font import FT2Font

    return FT2Font(font).get_charmap().keys()


def draw_annotations(records: Sequence[AnnotatedImage], out: Path) -> list[ImageError]:
    """Draw the annotated boxes of images into an image each, and into one contact sheet.

    Drawn images are named by their place in ``records`` and by the name of the image.

    Returns:
        What was wrong with those that could not be read.

    Raises:
        FaceExprError: the folder cannot be written to, or no image could be read.
    """
    failed: list[ImageError] = []
    cells: list[Image.Image] = []
    for number, record in enumerate(progress(records, unit="image"), 1):
        try:
            image = Image.fromarray(read_image(record.path).pixels)
        except ImageError as error:
            failed.append(error)
            continue
        drawn = _draw_record(image, record)
        write_file(out / f"{number:05d}-{record.path.stem[:60]}.jpg", _encode(drawn, "JPEG"))
        if len(cells) < MOST_ON_SHEET:
            # Boxes are drawn after the image is made small, as their lines would vanish.
            scale = min(CELL / image.width, CELL / image.height)
            small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            cells.append(_draw_record(image.resize(small, Image.Resampling.LANCZOS), record, scale))
    if not cells:
        raise FaceExprError(f"no image could be read; the first: {failed[0] if failed else 'there was none'}")
    columns = ceil(len(cells) ** 0.5)
    side = CELL + _GAP
    sheet = Image.new("RGB", (columns * side + _GAP, ceil(len(cells) / columns) * side + _GAP), "white")
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        sheet.paste(ImageOps.pad(cell, (CELL, CELL), color="white"), (_GAP + column * side, _GAP + row * side))
    write_file(out / SHEET, _encode(sheet, "PNG"))
    return failed


def _draw_record(image: Image.Image, record: AnnotatedImage, scale: float = 1.0) -> Image.Image:
    ignored = record.ignored.tolist()
    captions, colours = ["not counted" if one else "" for one in ignored], [IGNORED if one else FACE for one in ignored]
    return Image.fromarray(draw_boxes(np.asarray(image), record.boxes * scale, captions, colours))


def _encode(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    # Thin lines would lose their colour in a JPEG of halved colour resolution; PNG takes no notice of either option.
    image.save(buffer, image_format, quality=92, subsampling=0)
    return buffer.getvalue()
