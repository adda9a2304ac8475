"""Pictures that may be shown to everybody: drawn faces, drawn groups and a portrait in the public domain."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceexpr.data.synthetic.drawing import draw_face, draw_scene
from faceexpr.utils.files import write_file
from faceexpr.utils.labels import FER_NAMES

PORTRAIT = "portrait.png"
GROUPS = {"group_1.png": (480, 320, 6, 2026), "group_2.png": (480, 320, 3, 2027)}
"""Width, height, faces and seed of each drawn group."""

FACES_A_CLASS = 2
FACE_SIDE = 96


def portrait() -> NDArray[np.uint8]:
    """Return matplotlib's portrait of Grace Hopper, RGB uint8 (600, 512, 3)."""
    from matplotlib.cbook import get_sample_data

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        return np.asarray(image.convert("RGB"))


def group(name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[str]]:
    """Return a drawn group with the boxes and the expressions of its faces."""
    width, height, faces, seed = GROUPS[name]
    return draw_scene(np.random.default_rng(seed), width, height, faces)


def picture(name: str) -> NDArray[np.uint8]:
    """Return one of the pictures by the name of its file."""
    return portrait() if name == PORTRAIT else group(name)[0]


def face_names() -> list[tuple[str, str]]:
    """Return the file of each single drawn face with its expression."""
    return [
        (f"{number:02d}_{name.lower()}.png", name)
        for number, name in enumerate(name for _ in range(FACES_A_CLASS) for name in FER_NAMES)
    ]


def face(number: int, expression: str) -> NDArray[np.uint8]:
    """Return one of the single drawn faces."""
    return draw_face(expression, np.random.default_rng([2026, number]), FACE_SIDE)


def write_examples(folder: Path) -> None:
    """Write ``pictures/`` and ``faces/``; what is there already is left as it is."""
    images = {f"pictures/{name}": picture(name) for name in (PORTRAIT, *GROUPS)}
    images |= {f"faces/{name}": face(number, what) for number, (name, what) in enumerate(face_names())}
    for name, pixels in images.items():
        if not (folder / name).exists():
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            write_file(folder / name, content.getvalue())
