"""Drawn faces and images with several of them, each decided by a random generator alone.

They make everything run at once and without a download: the first training, the tests and the demonstrations. Nothing
learnt from them carries over to photographs.
"""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from faceexpr.data.base import Stage
from faceexpr.data.synthetic.parts import Points, head_outline, list_shapes
from faceexpr.data.synthetic.person import PROTOTYPES, Movements, Person, draw_movements, draw_person
from faceexpr.utils.errors import FaceExprError

Pixels = NDArray[np.uint8]

STREAMS: dict[Stage, int] = {"train": 0, "val": 1, "test": 2, "predict": 2}
"""Each split of a data set draws from numbers of its own; what is predicted are the test images."""

OVERSAMPLING = 3
"""Polygons are painted without anti-aliasing on a canvas this many times larger, and averaged down."""

SMALLEST_FACE = 12.0
"""The longer side of the smallest face in an image, in pixels."""


def draw_face(expression: str, rng: np.random.Generator, size: int = 48) -> Pixels:
    """Draw a face that fills the image.

    Args:
        expression: one of FER-2013's seven classes.
        rng: decides everything else: the person, the strength of the expression, pose, light, blur and noise.
        size: side of the image in pixels.

    Returns:
        RGB, uint8 (size, size, 3).

    Raises:
        FaceExprError: no face shows this expression.
    """
    who, moves = draw_person(rng), draw_movements(expression, rng)
    side = size * OVERSAMPLING
    unit = side / 2.6 * rng.uniform(0.9, 1.08)
    centre = side * (0.5 + rng.uniform(-0.04, 0.04)), side * (0.5 + rng.uniform(-0.04, 0.04))
    canvas = Image.new("RGB", (side, side), _background_colour(rng))
    _paint(canvas, who, moves, _placement(unit, rng.uniform(-10, 10), *centre))
    return _photograph(canvas, rng)


def draw_scene(
    rng: np.random.Generator, width: int, height: int, faces: int
) -> tuple[Pixels, NDArray[np.float32], list[str]]:
    """Draw an image with several people whose faces do not overlap.

    Args:
        rng: decides everything else.
        width: of the image, in pixels.
        height: of the image, in pixels.
        faces: number of faces, 0 or more.

    Returns:
        The image, RGB uint8 (height, width, 3); the boxes of the faces from the top of the head to the chin,
        without hair and ears, float32 (faces, 4) as left, top, right, bottom in pixels, all inside the image; and
        the expression of each face.

    Raises:
        FaceExprError: there is no room for so many faces.
    """
    canvas = _background(rng, width * OVERSAMPLING, height * OVERSAMPLING)
    scene = []
    for left, top, side in _places(rng, width, height, faces):
        name = list(PROTOTYPES)[int(rng.integers(len(PROTOTYPES)))]
        who, moves = draw_person(rng), draw_movements(name, rng)
        outline = head_outline(who, moves) @ _rotation(tilt := rng.uniform(-18, 18))
        low, high = outline.min(0), outline.max(0)
        unit = side / float((high - low).max())
        x, y = left + side / 2 - unit * (low[0] + high[0]) / 2, top + side / 2 - unit * (low[1] + high[1]) / 2
        box = [unit * low[0] + x, unit * low[1] + y, unit * high[0] + x, unit * high[1] + y]
        scene.append((box, name, who, moves, _placement(unit, tilt, x, y, OVERSAMPLING)))
    # From the highest chin to the lowest, so that nobody's shoulders hide a face.
    scene.sort(key=lambda entry: entry[0][3])
    for _, _, who, moves, placement in scene:
        _paint(canvas, who, moves, placement)
    boxes = np.array([entry[0] for entry in scene], dtype=np.float32).reshape(-1, 4)
    return _photograph(canvas, rng), boxes, [entry[1] for entry in scene]


def _rotation(tilt: float) -> Points:
    """The matrix that turns row vectors by ``tilt`` degrees."""
    c, s = cos(radians(tilt)), sin(radians(tilt))
    return np.array([[c, s], [-s, c]])


def _placement(unit: float, tilt: float, x: float, y: float, zoom: float = 1.0) -> Points:
    """The 3x2 matrix from face coordinates (x, y, 1) to the canvas."""
    return np.vstack([_rotation(tilt) * unit, [x, y]]) * zoom


def _paint(canvas: Image.Image, who: Person, moves: Movements, placement: Points) -> None:
    shapes = list_shapes(who, moves)
    # All polygons are placed in one product: there are some fifty of a few points each.
    ends = np.cumsum([len(points) for points, _ in shapes]).tolist()
    placed = np.concatenate([points for points, _ in shapes]) @ placement[:2] + placement[2]
    flat = placed.round().ravel().tolist()
    pen = ImageDraw.Draw(canvas)
    start = 0
    for (_, colour), end in zip(shapes, ends, strict=True):
        pen.polygon(flat[2 * start : 2 * end], fill=colour)
        start = end


def _photograph(canvas: Image.Image, rng: np.random.Generator) -> Pixels:
    """Average the canvas down, then add what a camera adds: blur, uneven light, exposure and noise."""
    image = canvas.reduce(OVERSAMPLING)
    blur = rng.uniform(-0.5, 0.7)
    if blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    width, height = image.size
    across, down = rng.uniform(-0.3, 0.3, 2)
    light = np.add.outer(np.linspace(-down, down, height), np.linspace(-across, across, width))
    light = (light + 1) * rng.uniform(0.7, 1.15)
    pixels = np.asarray(image, dtype=np.float32) * light[..., None].astype(np.float32)
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(1, 6))
    pixels += grain[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _background_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    light = rng.uniform(50, 205)
    red, green, blue = (light + rng.uniform(-32, 32, 3)).round().astype(int).tolist()
    return red, green, blue


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A wall of soft colour with a few objects in front of it."""
    coarse = np.array([[_background_colour(rng) for _ in range(5)] for _ in range(4)], dtype=np.uint8)
    canvas = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        across, down = rng.uniform(0.03, 0.18, 2) * width
        paint = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        paint((x - across, y - down, x + across, y + down), fill=_background_colour(rng))
    return canvas


def _places(rng: np.random.Generator, width: int, height: int, faces: int) -> list[tuple[float, float, float]]:
    """Squares inside the image, as (left, top, side), far enough apart for the hair of each."""
    places: list[tuple[float, float, float]] = []
    largest = 0.6 * min(width, height)
    while len(places) < faces:
        if largest < SMALLEST_FACE:
            raise FaceExprError(f"an image of {width} x {height} has no room for {faces} faces; expected fewer")
        side = max(SMALLEST_FACE, largest * rng.uniform(0.35, 1))
        left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
        apart = (
            max(abs(left + side / 2 - x - other / 2), abs(top + side / 2 - y - other / 2)) > 0.6 * (side + other)
            for x, y, other in places
        )
        if all(apart):
            places.append((left, top, side))
        else:
            largest *= 0.97
    return places
