"""A figure of the page with the data that it shows, so that a test can tell whether a stored picture is still right."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from faceexpr.utils.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "Source"
"""Field of a PNG file that holds the digest of what was drawn."""


BLUE, ORANGE = "#2e6da4", "#d1783c"
DRAWN = "Made from drawn faces and a portrait; the same with pictures of the data is in `RUNS/figures`."


@dataclass(frozen=True)
class Drawn:
    """One figure.

    Attributes:
        number: in the paper.
        title: in the paper's words, or ours.
        figure: the drawing.
        data: plain values that it was made from.
        note: what differs from the paper's figure.
    """

    number: int
    title: str
    figure: Figure
    data: Any
    note: str = ""

    @property
    def name(self) -> str:
        """The name of its file."""
        return file_name(self.number)

    @property
    def key(self) -> str:
        """A digest of the data."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> Path:
        """Write the PNG file, and return its path."""
        content = io.BytesIO()
        # Neither time nor version, so that the same figure is the same file.
        self.figure.savefig(content, format="png", metadata={KEY: self.key, "Software": None})
        write_file(folder / self.name, content.getvalue())
        return folder / self.name


def file_name(number: int) -> str:
    """Return the name of the file of a figure."""
    return f"figure_{number:02d}.png"


def stored_key(path: Path) -> str | None:
    """Return the digest of what a stored figure was made from; None where there is none."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return str(image.info[KEY]) if KEY in image.info else None
