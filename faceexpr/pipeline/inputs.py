"""Which files are analysed, and what the files made from each are called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faceexpr.errors import FaceExprError
from faceexpr.images import find_images
from faceexpr.wording import counted

OPTIONS = "analysis.json"
PICTURES, CROPS = "pictures", "crops"

_DRAWN = (".jpg", ".jpeg", ".png")
_LONGEST = 180  # bytes of a name; file systems take 255, and endings and a temporary name's are added


@dataclass(frozen=True)
class Inputs:
    """The files to analyse.

    Attributes:
        names: for each file, as it is called in the results, its name below ``pictures`` and ``crops``; in order.
        notes: what was left out, in sentences.
    """

    names: Mapping[str, str]
    notes: tuple[str, ...]


def collect(paths: Sequence[Path], taken: Mapping[str, str]) -> Inputs:
    """Find the files that paths mean.

    A file that is meant twice is taken once. Pictures that an analysis has written are left out, so that the folder of
    the results may be the folder of the images, or lie in it.

    Args:
        paths: files and folders.
        taken: names of files that were analysed before.

    Raises:
        FaceExprError: a folder holds no image.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    own = twice = 0
    used = {name.casefold() for name in taken.values()}
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        for file in find_images(path):
            if path.is_dir() and _written_by_analysis(file):
                own += 1
                continue
            # A link to a file is a picture of its own; a folder may be reached in several ways.
            place = os.path.realpath(file.parent) + os.sep + file.name
            if place in seen:
                twice += 1
                continue
            seen.add(place)
            wanted = _relative(file, path, prefixed=len(folders) > 1)
            found[str(file)] = taken.get(str(file)) or _free(_drawable(wanted), used)
    if not found:
        raise FaceExprError(
            f"{', '.join(map(str, paths))}: the only images there were written by an analysis; expected images of "
            "your own"
        )
    notes = []
    if own:
        notes.append(f"{counted(own, 'image was', 'images were')} written by an analysis left out")
    if twice:
        notes.append(f"{counted(twice, 'image was', 'images were')} named more than once, and taken once")
    return Inputs(found, tuple(notes))


def _written_by_analysis(file: Path) -> bool:
    return any(parent.name in (PICTURES, CROPS) and (parent.parent / OPTIONS).is_file() for parent in file.parents)


def _relative(file: Path, given: Path, prefixed: bool) -> Path:
    """Return the place of a file in the folder that was given, below the folder's name where there are several."""
    if not given.is_dir():
        return Path(file.name)
    return Path(given.resolve().name, file.relative_to(given)) if prefixed else file.relative_to(given)


def _drawable(place: Path) -> Path:
    """Return the name of the drawn picture: of a format that it can be written in, and not too long."""
    name = place.name if place.suffix.lower() in _DRAWN else f"{place.name}.jpg"
    data = os.fsencode(name)
    if len(data) > _LONGEST:
        start = data[: _LONGEST - 20].decode("utf-8", "ignore")
        name = f"{start}-{hashlib.sha256(data).hexdigest()[:8]}{Path(name).suffix}"
    return place.with_name(name)


def _free(place: Path, used: set[str]) -> str:
    """Return the name, or with a number where another file, whatever its case, has it already."""
    candidate, number = place, 1
    while candidate.as_posix().casefold() in used:
        number += 1
        candidate = place.with_name(f"{place.stem}-{number}{place.suffix}")
    used.add(candidate.as_posix().casefold())
    return candidate.as_posix()


def names_of(records: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return the names that earlier records have given."""
    return {str(record["image"]): str(record["name"]) for record in records}
