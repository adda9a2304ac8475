"""Who a drawn person is, and which muscles of the face move for an expression."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from faceexpr.utils.errors import FaceExprError

Colour = tuple[int, int, int]

# fmt: off
SKIN: tuple[Colour, ...] = (
    (248, 220, 198), (238, 198, 168), (222, 172, 136), (196, 142, 104), (158, 106, 74), (118, 78, 56), (84, 56, 44),
)
HAIR: tuple[Colour, ...] = (
    (28, 24, 24), (52, 36, 28), (92, 58, 36), (134, 84, 44), (196, 156, 92), (150, 62, 34), (158, 156, 154),
)
IRIS: tuple[Colour, ...] = ((58, 38, 28), (88, 58, 34), (70, 104, 72), (68, 108, 148), (92, 104, 112))
CLOTHES: tuple[Colour, ...] = (
    (44, 62, 100), (132, 44, 52), (56, 98, 78), (88, 82, 96), (196, 178, 142), (222, 222, 226),
)
# fmt: on
HAIRSTYLES = ("bald", "cropped", "fringe", "parted", "long", "curly")


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


# fmt: off
PROTOTYPES: dict[str, dict[str, tuple[float, float]]] = {
    "Angry": {
        "brow_lower": (0.7, 1.0), "lid_raise": (0.0, 0.3), "lid_tight": (0.4, 1.0), "lip_press": (0.5, 1.0),
        "corner_drop": (0.0, 0.3),
    },
    "Disgust": {
        "nose_wrinkle": (0.6, 1.0), "lip_raise": (0.6, 1.0), "brow_lower": (0.2, 0.6), "lid_tight": (0.4, 0.9),
        "corner_drop": (0.1, 0.6), "cheek": (0.2, 0.6),
    },
    "Fear": {
        "brow_inner": (0.7, 1.0), "brow_outer": (0.2, 0.5), "brow_lower": (0.1, 0.4), "lid_raise": (0.6, 1.0),
        "lip_stretch": (0.6, 1.0), "jaw_drop": (0.15, 0.35),
    },
    "Happy": {"cheek": (0.4, 1.0), "corner_pull": (0.6, 1.0), "jaw_drop": (0.0, 0.35)},
    "Sad": {
        "brow_inner": (0.6, 1.0), "brow_lower": (0.1, 0.4), "lid_raise": (-0.6, -0.2), "corner_drop": (0.6, 1.0),
    },
    "Surprise": {
        "brow_inner": (0.6, 1.0), "brow_outer": (0.7, 1.0), "lid_raise": (0.6, 1.0), "jaw_drop": (0.85, 1.05),
    },
    "Neutral": {},
}
# fmt: on
"""Which movements make each expression, and how far (EMFACS; Friesen and Ekman, 1983)."""

RESTLESS = 0.1
"""No muscle is quite at rest: every movement is off by up to this much."""


def draw_movements(expression: str, rng: np.random.Generator) -> Movements:
    """Draw at random the movements of one face that shows an expression, at a strength of its own.

    Raises:
        FaceExprError: no face shows this expression.
    """
    if expression not in PROTOTYPES:
        raise FaceExprError(f"no face can be drawn for {expression!r}; expected one of {', '.join(PROTOTYPES)}")
    strength = rng.uniform(0.7, 1.15)
    names = [field.name for field in fields(Movements)]
    draws = rng.random((2, len(names))).tolist()
    moved = {}
    for name, where, stray in zip(names, *draws, strict=True):
        low, high = PROTOTYPES[expression].get(name, (0.0, 0.0))
        moved[name] = strength * (low + (high - low) * where) + RESTLESS * (2 * stray - 1)
    return Movements(**moved)


def _between(low: float, high: float) -> Any:
    return field(metadata={"range": (low, high)})


@dataclass(frozen=True)
class Person:
    """What makes a face this person's, whatever it shows; lengths in face coordinates, each with its range."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    hairstyle: str
    glasses: bool
    beard: bool
    side: int
    width: float = _between(0.9, 1.08)
    height: float = _between(1.2, 1.38)
    taper: float = _between(0.12, 0.36)
    eye_distance: float = _between(0.41, 0.48)
    eye_height: float = _between(-0.24, -0.12)
    eye_width: float = _between(0.24, 0.3)
    eye_opening: float = _between(0.12, 0.16)
    brow_height: float = _between(-0.36, -0.3)
    brow_thickness: float = _between(0.07, 0.12)
    nose_length: float = _between(0.3, 0.4)
    nose_width: float = _between(0.14, 0.22)
    mouth_height: float = _between(0.64, 0.72)
    mouth_width: float = _between(0.38, 0.48)
    lips: float = _between(0.05, 0.1)
    turn: float = _between(-0.14, 0.14)
    nod: float = _between(-0.07, 0.07)
    gaze: float = _between(-0.3, 0.3)


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person at random."""
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
        **{one.name: within(*one.metadata["range"]) for one in fields(Person) if one.metadata},
        side=1 if within(0, 1) < 0.5 else -1,
    )


def mix(first: Colour, second: Colour, weight: float) -> Colour:
    """The colour that lies a fraction ``weight`` of the way from the first to the second."""
    weight = min(max(weight, 0.0), 1.0)
    (r, g, b), (r2, g2, b2) = first, second  # written out: it runs thirty times a face
    return int(r + (r2 - r) * weight), int(g + (g2 - g) * weight), int(b + (b2 - b) * weight)
