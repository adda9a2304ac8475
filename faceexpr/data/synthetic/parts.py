"""The parts of a drawn face, from the back to the front: each function gives the coloured polygons of one part.

Face coordinates: the origin lies between nose and eyes, x to the right, y down; a head is about 2 wide and 2.6 high.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faceexpr.data.synthetic.person import Colour, Movements, Person, mix

Points = NDArray[np.float64]
Shape = tuple[Points, Colour]

WHITE: Colour = (244, 242, 238)
DARK: Colour = (40, 22, 24)
SIDES = (-1, 1)

T = np.linspace(-1, 1, 13)
DOME = 1 - T * T
ROUND = np.sqrt(DOME)
_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE = np.column_stack([np.cos(_TURN), np.sin(_TURN)])


def list_shapes(who: Person, moves: Movements) -> list[Shape]:
    """All polygons of a face with hair, neck and shoulders, in the order in which they are painted."""
    outline = head_outline(who, moves)
    parts = (skin_marks, nose, mouth, eyes, brows, glasses)
    # What lies in front turns further than the outline of the head, which is what makes a turned head look turned.
    shift = np.array([who.turn, who.nod])
    front = [(points + shift, colour) for part in parts for points, colour in part(who, moves)]
    return [*back(who), *head(who, outline), *beard(who, outline), *front, *hair(who, outline)]


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


def head_outline(who: Person, moves: Movements) -> Points:
    """The outline of the head without ears and hair; an open jaw lengthens it."""
    across, down = CIRCLE.T
    low = np.maximum(down, 0)
    length = who.height + 0.16 * max(moves.jaw_drop, 0)
    x = across * who.width * (1 - who.taper * low * low)
    return np.column_stack([x, np.where(down > 0, down * length, down * who.height)])


def back(who: Person) -> list[Shape]:
    """Hair behind the head, neck, shoulders and ears."""
    shapes: list[Shape] = []
    shade = mix(who.hair, DARK, 0.3)
    if who.hairstyle == "long":
        x = T * who.width * (1.12 + 0.1 * ROUND)
        shapes.append((band(x, -1.1 * who.height * ROUND, 0.9 + 0.7 * ROUND), shade))
    elif who.hairstyle == "curly":
        shapes.append((ellipse(0, -0.5, who.width * 1.3, 1.12), shade))
    shapes.append((band(T * 0.5, 0.6 + 0 * T, 2.4 + 0 * T), mix(who.skin, DARK, 0.28)))
    shapes.append((band(T * 1.9, 2.0 - 0.38 * ROUND, 9 + 0 * T), who.clothes))
    ear = mix(who.skin, DARK, 0.15)
    return [*shapes, *((ellipse(side * who.width * 0.99, 0.02, 0.13, 0.25), ear) for side in SIDES)]


def head(who: Person, outline: Points) -> list[Shape]:
    """The head in three tones: its edge in shade, its middle in light."""
    return [
        (outline, mix(who.skin, DARK, 0.16)),
        (outline * (0.94, 0.96) + (who.turn * 0.3, 0), mix(who.skin, DARK, 0.06)),
        (outline * (0.84, 0.88) + (who.turn * 0.6, 0), who.skin),
    ]


def beard(who: Person, outline: Points) -> list[Shape]:
    """The lower part of the head in the colour of the hair."""
    if not who.beard:
        return []
    lower = outline[CIRCLE[:, 1] > 0.12]
    x, chin = lower[np.argsort(lower[:, 0])].T
    moustache = who.mouth_height - 0.17
    edge = moustache + (0.1 - moustache) * np.abs(x / who.width) ** 3
    return [(band(x, np.minimum(edge, chin), chin), mix(who.skin, who.hair, 0.75))]


def hair(who: Person, outline: Points) -> list[Shape]:
    """The hair that lies over the forehead."""
    if who.hairstyle == "bald":
        return []
    upper = outline[CIRCLE[:, 1] <= -0.2]
    x, top = upper[np.argsort(upper[:, 0])].T
    reach = x / who.width
    if who.hairstyle == "fringe":
        line = -0.68 * who.height + 0.1 * np.abs(np.sin(9 * x)) + 0 * x
    elif who.hairstyle == "parted":
        line = -0.86 * who.height + 0.55 * np.maximum(who.side * reach + 0.2, 0) ** 2 + 0.5 * reach**6
    else:
        line = -0.8 * who.height + 0.55 * reach**4
    thick = {"cropped": 1.04, "curly": 1.2}.get(who.hairstyle, 1.1)
    third = len(x) // 3
    shine, gleam = x[third:-third], np.sin(np.linspace(0, np.pi, len(x) - 2 * third))
    return [
        (band(x * (thick + 0.98) / 2, top * thick, np.maximum(line, top)), who.hair),
        (stroke(shine, top[third:-third] * thick + 0.12, 0.07 * gleam), mix(who.hair, WHITE, 0.18)),
    ]


def skin_marks(who: Person, moves: Movements) -> list[Shape]:
    """Cheeks, and the furrows that the movements fold into the skin."""
    cheek = mix(who.skin, (226, 108, 92), 0.12 + 0.12 * max(moves.cheek, 0))
    shapes: list[Shape] = [(ellipse(side * 0.52, 0.3 - 0.07 * moves.cheek, 0.2, 0.15), cheek) for side in SIDES]
    fold = max(0.9 * moves.corner_pull, 0.8 * moves.lip_raise, 0.7 * moves.nose_wrinkle, 0.15)
    start, end = 0.05 + who.nose_width, who.mouth_width + 0.1 + 0.08 * moves.corner_pull
    along = who.nose_length + (who.mouth_height - 0.06 - who.nose_length) * (T + 1) / 2
    for side in SIDES:
        across = side * (start + (end - start) * ((T + 1) / 2) ** 0.8)
        shapes.append((stroke(along, across, 0.05 * ROUND)[:, ::-1], mix(who.skin, DARK, 0.4 * fold)))
    raised = min(max(moves.brow_inner, 0), max(moves.brow_outer + 0.3, 0))
    if raised > 0.25:
        for level in (-0.72, -0.84):
            shapes.append((stroke(T * 0.42, level - 0.03 * DOME, 0.035 * ROUND), mix(who.skin, DARK, 0.3 * raised)))
    if moves.brow_lower > 0.2:
        for x in (-0.07, 0.07):
            line = stroke(who.eye_height - 0.16 + 0.12 * T, x + 0.02 * T * np.sign(x), 0.045 * ROUND)
            shapes.append((line[:, ::-1], mix(who.skin, DARK, 0.5 * moves.brow_lower)))
    return shapes


def nose(who: Person, moves: Movements) -> list[Shape]:
    """Bridge, tip and nostrils; wrinkling lifts and widens the wings and folds the bridge."""
    tip = who.nose_length - 0.07 * moves.nose_wrinkle
    wide = who.nose_width * (1 + 0.25 * max(moves.nose_wrinkle, 0))
    bridge = np.array([0.0, 0.05, 0.09]) * who.side
    shapes: list[Shape] = [
        (band(bridge, np.array([-0.12, -0.1, tip - 0.05]), np.array([tip, tip, tip])), mix(who.skin, DARK, 0.2)),
        (ellipse(0, tip - 0.02, wide * 0.95, 0.085), mix(who.skin, DARK, 0.1)),
        (ellipse(0, tip - 0.05, wide * 0.5, 0.07), mix(who.skin, WHITE, 0.2)),
    ]
    for side in SIDES:
        shapes.append((ellipse(side * wide * 0.52, tip + 0.025, wide * 0.26, 0.032), mix(who.skin, DARK, 0.65)))
    if moves.nose_wrinkle > 0.2:
        fold = mix(who.skin, DARK, 0.5 * moves.nose_wrinkle)
        shapes += [(stroke(T * 0.13, level + 0.05 * DOME, 0.035 * ROUND), fold) for level in (-0.1, 0.0)]
    return shapes


def mouth(who: Person, moves: Movements) -> list[Shape]:
    """Lips, and what an open mouth shows: teeth above, tongue below."""
    jaw, raised = max(moves.jaw_drop, 0), max(moves.lip_raise, 0)
    smile = moves.corner_pull - moves.corner_drop
    width = who.mouth_width * (1 + 0.32 * moves.corner_pull + 0.3 * moves.lip_stretch - 0.12 * moves.lip_press)
    width *= 1 - 0.48 * jaw * jaw
    x = T * width
    middle = who.mouth_height + 0.1 * jaw - 0.22 * smile * (T * T - 0.4)
    # A raised upper lip is lifted on one side more than on the other.
    lifted = 0.15 * raised * ROUND * (1 + 0.7 * who.side * T)
    opening = 0.5 * jaw * (ROUND if jaw > 0.5 else DOME) + 0.1 * max(moves.lip_stretch, 0) * ROUND
    upper, lower = middle - 0.3 * opening - lifted, middle + 0.7 * opening - 0.25 * lifted
    full = who.lips * (1 - 0.7 * max(moves.lip_press, 0)) * (1 - 0.25 * max(moves.lip_stretch, 0))
    lip = mix(who.skin, (168, 52, 58), 0.5)
    bow = 1 - 0.22 * np.exp(-((T / 0.22) ** 2))
    shapes: list[Shape] = [
        (band(x, upper - full * DOME * bow, lower + 1.25 * full * DOME), lip),
        (band(x * 0.5, lower + full * 0.3, lower + full * 0.7 * DOME), mix(lip, WHITE, 0.15)),
        (band(x * 0.97, upper, lower), mix(DARK, (110, 24, 32), 0.35)),
    ]
    gap = lower - upper
    widest = float(gap.max())
    if widest > 0.08 and jaw < 0.5:  # a rounded mouth covers them
        teeth = np.minimum(gap * 0.8, 0.12 + 0.04 * max(moves.corner_pull, 0))
        shapes.append((band(x * 0.9, upper + 0.008, upper + teeth), WHITE))
    if widest > 0.2:
        shapes.append((band(x * 0.6, lower - 0.3 * widest * ROUND, lower - 0.01), (178, 78, 82)))
    shapes.append((stroke(x * 1.04, middle if widest < 0.05 else upper, 0.032), mix(lip, DARK, 0.7)))
    if moves.lip_press > 0.3:
        line = stroke(T * width * 0.6, who.mouth_height + 0.16 + 0.03 * T * T, 0.04 * ROUND)
        shapes.append((line, mix(who.skin, DARK, 0.3 * moves.lip_press)))
    return shapes


def eyes(who: Person, moves: Movements) -> list[Shape]:
    """Whites, irises and lids."""
    tight, cheek = max(moves.lid_tight, 0), max(moves.cheek, 0)
    upper = max(who.eye_opening * (1.1 + 0.75 * moves.lid_raise - 0.3 * tight - 0.2 * cheek), 0.03)
    lower = max(who.eye_opening * (0.75 - 0.5 * tight - 0.55 * cheek + 0.2 * moves.lid_raise), 0.012)
    iris = who.eye_width * 0.52
    shapes: list[Shape] = []
    for side in SIDES:
        centre, level = side * who.eye_distance, who.eye_height
        x = T * who.eye_width + centre
        droop = 0.03 * side * T * max(-moves.lid_raise, 0)
        lid, floor = level - upper * ROUND + droop, level + lower * DOME + droop
        shapes.append((stroke(x, lid - 0.06, 0.05 * ROUND), mix(who.skin, DARK, 0.22)))
        shapes.append((band(x, lid, floor), WHITE))
        for radius, colour in ((iris, who.iris), (iris * 0.5, (16, 12, 14))):
            disc = ellipse(centre + who.gaze * iris, level - 0.01, radius, radius)
            disc[:, 1] = np.clip(disc[:, 1], np.interp(disc[:, 0], x, lid), np.interp(disc[:, 0], x, floor))
            shapes.append((disc, colour))
        shapes.append((ellipse(centre + who.gaze * iris + 0.035, level - 0.35 * upper, 0.025, 0.025), WHITE))
        shapes.append((stroke(x, lid, 0.045), mix(who.hair, DARK, 0.8)))
        shapes.append((stroke(x, floor + 0.012, 0.024 * ROUND), mix(who.skin, DARK, 0.4)))
        if moves.cheek > 0.3 or moves.lid_tight > 0.3:
            bag = mix(who.skin, DARK, 0.25 * max(moves.cheek, moves.lid_tight))
            shapes.append((stroke(x, floor + 0.07 + 0.02 * DOME, 0.03 * ROUND), bag))
    return shapes


def brows(who: Person, moves: Movements) -> list[Shape]:
    """Eyebrows, thick at the inner end."""
    along = (T + 1) / 2
    lowered = moves.brow_lower
    base = who.eye_height + who.brow_height - 0.05 * np.sin(np.pi * along)
    raised = 0.24 * moves.brow_inner * (1 - along) ** 1.5 + 0.2 * moves.brow_outer * along**0.7
    y = base - raised + lowered * 0.21 * (1 - along) ** 1.3 + 0.03 * lowered + 0.05 * moves.nose_wrinkle * (1 - along)
    inner = who.eye_distance - 0.3 - 0.06 * max(lowered, 0)
    x = inner + (who.eye_distance + 0.34 - inner) * along
    thickness = who.brow_thickness * (1.15 - 0.75 * along)
    colour = mix(mix(who.hair, DARK, 0.35), who.skin, 0.1)
    return [(stroke(side * x, y, thickness), colour) for side in SIDES]


def glasses(who: Person, moves: Movements) -> list[Shape]:
    """Frames around the eyes, which nothing moves."""
    if not who.glasses:
        return []
    frame = (46, 44, 50)
    shapes: list[Shape] = [(stroke(T * 0.14, who.eye_height - 0.03 - 0.02 * DOME, 0.045), frame)]
    for side in SIDES:
        rim, inside = (
            ellipse(side * who.eye_distance, who.eye_height + 0.02, across, across - 0.05) for across in (0.36, 0.31)
        )
        # One polygon that runs around the rim and back along its inner edge is a ring.
        shapes.append((np.concatenate([rim, rim[:1], inside[:1], inside[::-1]]), frame))
    return shapes
