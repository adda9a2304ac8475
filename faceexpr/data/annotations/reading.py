"""One way in for every format of box annotations."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from faceexpr.data import annotations as formats
from faceexpr.data.annotations.collect import collect
from faceexpr.data.annotations.document import Document, ReadOptions
from faceexpr.data.annotations.records import Annotations
from faceexpr.data.annotations.text import read_text
from faceexpr.utils.errors import FaceExprError

_HEAD = 65_536
"""Characters by which a format is told."""


class Format(Protocol):
    """What a module of this folder needs to be a format; the name of the module is that of the format."""

    NAME: str

    def recognises(self, head: str) -> bool:
        """Tell by the first characters of a file whether it is in this format."""

    def read(self, path: Path, text: str) -> Document:
        """Return what the file says; ``path`` is for messages and for guesses at the images' folder."""


def known_formats() -> dict[str, Format]:
    """Return every format by its name: each module of this folder that can recognise one."""
    names = [module.name for module in pkgutil.iter_modules(formats.__path__)]
    modules = {name: import_module(f"{formats.__name__}.{name}") for name in sorted(names)}
    return {name: cast(Format, module) for name, module in modules.items() if hasattr(module, "recognises")}


def read_annotations(
    path: Path, images: Path | None = None, format: str = "auto", options: ReadOptions | None = None
) -> Annotations:
    """Read a file of box annotations.

    Args:
        path: the file; its name does not matter.
        images: folder of the images; None searches beside the file, as the format's layout suggests.
        format: ``auto`` tells it by the content; else the name of a format, such as ``coco``.
        options: what counts as a face, and what becomes of images that are missing or unlabelled.

    Raises:
        FaceExprError: the file cannot be read as annotations, or images are missing.
    """
    return collect(path, read_document(path, format), images, options or ReadOptions())


def read_document(path: Path, format: str = "auto") -> Document:
    """Read what a file of box annotations says, without looking at images.

    Args:
        path: the file.
        format: as for `read_annotations`.

    Raises:
        FaceExprError: the file cannot be read as annotations.
    """
    known = known_formats()
    if format != "auto" and format not in known:
        raise FaceExprError(f"format is {format!r}; expected auto, {', '.join(known)}")
    text = read_text(path)
    fitting = (one for one in known.values() if one.recognises(text[:_HEAD]))
    chosen = known.get(format) or next(fitting, None)
    if chosen is None:
        raise FaceExprError(
            f"{path} is in no format known here; expected {', '.join(one.NAME for one in known.values())}"
        )
    return chosen.read(path, text)
