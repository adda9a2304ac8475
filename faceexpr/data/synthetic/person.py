"""The geometry of a drawn face: who the person is, which muscles move, and the coloured polygons that follow.

Face coordinates: the origin lies between nose and eyes, x to the right, y down; a head is about 2 wide and 2.6 high.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Colour = tuple[int, int, int]
Shape = tuple[Points, Colour]

SKIN: tuple[Colour, ...] = (
    (248, 220, 198),
    (238, 198, 168),
    (222, 172, 136),
    (196, 142, 104),
    (158, 106, 74),
    (118, 78, 56),
    (84, 56, 44),
)
HAIR: tuple[Colour, ...] = (
    (28, 24, 24),
    (52, 36, 28),
    (92, 58, 36),
    (134, 84, 44),
    (196, 156, 92),
    (150, 62, 34),
    (158, 156, 154),
)
IRIS: tuple[Colour, ...] = ((58, 38, 28), (88, 58, 34), (70, 104, 72), (68, 108, 148), (92, 104, 112))
CLOTHES: tuple[Colour, ...] = (
    (44, 62, 100),
    (132, 44, 52),
    (56, 98, 78),
    (88, 82, 96),
    (196, 178, 142),
    (222, 222, 226),
)
WHITE: Colour = (244, 242, 238)
DARK: Colour = (40, 22, 24)
HAIRSTYLES = ("bald", "cropped", "fringe", "parted", "long", "curly")

T = np.linspace(-1, 1, 13)
DOME = 1 - T * T
ROUND = np.sqrt(DOME)
_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE = np.column_stack([np.cos(_TURN), np.sin(_TURN)])


@dataclass(frozen=True)
class Movements:
    """How far the muscles of a face are drawn, 0 at rest, about 1 at most.

    The numbers are action units of the Facial Action Coding System (Ekman and Friesen, 1978).
    """

    brow_inner: float = 0.0  # 1
    brow_outer: float = 0.0  # 2
    brow_lower: float = 0.0  # 4
    lid_raise: float = 0.0  # 5; below 0 it droops
    cheek: float = 0.0  # 6
    lid_tight: float = 0.0  # 7
    nose_wrinkle: float = 0.0  # 9
    lip_raise: float = 0.0  # 10
    corner_pull: float = 0.0  # 12
    corner_drop: float = 0.0  # 15
    lip_stretch: float = 0.0  # 20
    lip_press: float = 0.0  # 23 and 24
    jaw_drop: float = 0.0  # 25 and 26


PROTOTYPES: dict[str, dict[str, tuple[float, float]]] = {
    "Angry": {
        "brow_lower": (0.7, 1.0),
        "lid_raise": (0.0, 0.3),
        "lid_tight": (0.4, 1.0),
        "lip_press": (0.5, 1.0),
        "corner_drop": (0.0, 0.3),
    },
    "Disgust": {
        "nose_wrinkle": (0.6, 1.0),
        "lip_raise": (0.6, 1.0),
        "brow_lower": (0.2, 0.6),
        "lid_tight": (0.4, 0.9),
        "corner_drop": (0.1, 0.6),
        "cheek": (0.2, 0.6),
    },
    "Fear": {
        "brow_inner": (0.7, 1.0),
        "brow_outer": (0.2, 0.5),
        "brow_lower": (0.1, 0.4),
        "lid_raise": (0.6, 1.0),
        "lip_stretch": (0.6, 1.0),
        "jaw_drop": (0.15, 0.35),
    },
    "Happy": {"cheek": (0.4, 1.0), "corner_pull": (0.6, 1.0), "jaw_drop": (0.0, 0.35)},
    "Sad": {
        "brow_inner": (0.6, 1.0),
        "brow_lower": (0.1, 0.4),
        "lid_raise": (-0.6, -0.2),
        "corner_drop": (0.6, 1.0),
    },
    "Surprise": {
        "brow_inner": (0.6, 1.0),
        "brow_outer": (0.7, 1.0),
        "lid_raise": (0.6, 1.0),
        "jaw_drop": (0.85, 1.05),
    },
    "Neutral": {},
}
"""Which movements make each expression, and how far (EMFACS; Friesen and Ekman, 1983)."""

RESTLESS = 0.1
"""No muscle is quite at rest: every movement is off by up to this much."""


def perform(expression: str, rng: np.random.Generator) -> Movements:
    """Draw the movements of one face that shows an expression, at a strength of its own."""
    prototype = PROTOTYPES[expression]
    strength = rng.uniform(0.7, 1.15)
    names = [field.name for field in fields(Movements)]
    draws = rng.random((2, len(names))).tolist()
    moved = {}
    for name, where, stray in zip(names, *draws, strict=True):
        low, high = prototype.get(name, (0.0, 0.0))
        moved[name] = strength * (low + (high - low) * where) + RESTLESS * (2 * stray - 1)
    return Movements(**moved)


@dataclass(frozen=True)
class Person:
    """What makes a face this person's, whatever it shows; lengths in face coordinates."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    hairstyle: str
    glasses: bool
    beard: bool
    width: float
    height: float
    taper: float
    eye_distance: float
    eye_height: float
    eye_width: float
    eye_opening: float
    brow_height: float
    brow_thickness: float
    nose_length: float
    nose_width: float
    mouth_height: float
    mouth_width: float
    lips: float
    turn: float
    nod: float
    gaze: float
    side: int


def person(rng: np.random.Generator) -> Person:
    """Draw a person."""
    draws = iter(rng.random(32).tolist())

    def within(low: float, high: float) -> float:
        return low + (high - low) * float(next(draws))

    def shade(colours: tuple[Colour, ...], place: float) -> Colour:
        """A colour between two neighbours of a palette, at a place from 0 to 1."""
        whole, part = divmod(place * (len(colours) - 1.001), 1)
        return mix(colours[int(whole)], colours[int(whole) + 1], part)

    tone = within(0, 1)
    return Person(
        skin=shade(SKIN, tone),
        hair=HAIR[int(within(0, len(HAIR) if tone < 0.55 else 3))],
        iris=shade(IRIS, within(0, 1)),
        clothes=shade(CLOTHES, within(0, 1)),
        hairstyle=HAIRSTYLES[int(within(0, len(HAIRSTYLES)))],
        glasses=within(0, 1) < 0.12,
        beard=within(0, 1) < 0.12,
        width=within(0.9, 1.08),
        height=within(1.2, 1.38),
        taper=within(0.12, 0.36),
        eye_distance=within(0.41, 0.48),
        eye_height=within(-0.24, -0.12),
        eye_width=within(0.24, 0.3),
        eye_opening=within(0.12, 0.16),
        brow_height=within(-0.36, -0.3),
        brow_thickness=within(0.07, 0.12),
        nose_length=within(0.3, 0.4),
        nose_width=within(0.14, 0.22),
        mouth_height=within(0.64, 0.72),
        mouth_width=within(0.38, 0.48),
        lips=within(0.05, 0.1),
        turn=within(-0.14, 0.14),
        nod=within(-0.07, 0.07),
        gaze=within(-0.3, 0.3),
        side=1 if within(0, 1) < 0.5 else -1,
    )


def mix(first: Colour, second: Colour, weight: float) -> Colour:
    """The colour that lies a fraction ``weight`` of the way from the first to the second."""
    weight = min(max(weight, 0.0), 1.0)
    (r, g, b), (r2, g2, b2) = first, second  # written out: it runs thirty times a face
    return int(r + (r2 - r) * weight), int(g + (g2 - g) * weight), int(b + (b2 - b) * weight)


def ellipse(x: float, y: float, across: float, down: float) -> Points:
    """An ellipse by its centre and half axes, shape (K, 2)."""
    return CIRCLE * (across, down) + (x, y)


def band(x: Points, upper: Points, lower: Points) -> Points:
    """The area between two curves over the same x, shape (2K, 2)."""
    outline = np.empty((2 * len(x), 2))
    outline[: len(x), 0], outline[len(x) :, 0] = x, x[::-1]
    outline[: len(x), 1], outline[len(x) :, 1] = upper, lower[::-1]
    return outline


def stroke(x: Points, y: Points, thickness: float | Points) -> Points:
    """A line of some thickness along a curve that runs more across than down."""
    return band(x, y - thickness / 2, y + thickness / 2)
