"""Which images are analysed: those in folders, files, lists and tar files, in an order that is always the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from faceexpr.pipeline.lists import STANDARD_INPUT, plain, read_list
from faceexpr.pipeline.names import below
from faceexpr.pipeline.tars import Member, Unreadable, is_tar, member_source, read_tar
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import find_images
from faceexpr.utils.text import counted

OPTIONS = "analysis.json"
PICTURES, CROPS, EXPLAINED = "pictures", "crops", "explained"


@dataclass
class Inputs:
    """The images to analyse.

    Attributes:
        places: for each image, as it is called in the results, the place that its drawing would like below
            ``pictures``; in order.
        members: what reads those that are no files of their own.
        own: how many images were left out, because an analysis has written them.
        twice: how many were named more than once, and are taken once.
        others: how many members of tar files are no images.
    """

    places: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member | Unreadable] = field(default_factory=dict)
    own: int = 0
    twice: int = 0
    others: int = 0

    def notes(self) -> list[str]:
        """Return in sentences what was left out."""
        told = []
        if self.own:
            told.append(f"{counted(self.own, 'image was', 'images were')} written by an analysis left out")
        if self.twice:
            told.append(f"{counted(self.twice, 'image was', 'images were')} named more than once, and taken once")
        if self.others:
            told.append(f"{counted(self.others, 'member')} of tar files, which by name are no images, left out")
        return told


def collect(paths: Sequence[Path], listed: str | None = None, alone: bool = True) -> Inputs:
    """Find the images that paths mean.

    An image that is meant twice is taken once. Pictures that an analysis has written are left out, so that the folder
    of the results may be the folder of the images, or lie in it, and what lists them may be run again. Tar files are
    read where they are named themselves.

    Args:
        paths: files and folders; ``-`` is a list at standard input.
        listed: file with further ones, one a line, or ``-``; none of them is a folder.
        alone: this is the only process that reads them.

    Raises:
        FaceExprError: a folder or a list holds no image, a tar file is compressed, or there is nothing at all.
    """
    lists = [STANDARD_INPUT for path in paths if str(path) == STANDARD_INPUT] + ([] if listed is None else [listed])
    paths = [path for path in paths if str(path) != STANDARD_INPUT]
    if not paths and not lists:
        raise FaceExprError("nothing to analyse; expected a PATH of images, or --list FILE")
    if len(lists) > 1 and lists[0] == lists[-1]:
        raise FaceExprError("standard input is named more than once; expected it once")
    found = Inputs()
    seen = _Seen()
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        if path in folders:
            _folder(path, f"{path.resolve().name}/".lstrip("/") if len(folders) > 1 else "", found, seen)
        else:
            _file(str(path), below(path.name), found, seen)
    for entry in (entry for place in lists for entry in read_list(place, alone)):
        source = plain(entry)
        _file(source, below(source), found, seen)
    if not found.places:
        raise FaceExprError(
            f"{', '.join([*map(str, paths), *lists])}: the only images there were written by an analysis; expected "
            "images of your own"
        )
    return found


class _Seen:
    """The places of files that were found, and whose they are.

    A link to a file is a picture of its own, whose folder has many ways in.
    """

    def __init__(self) -> None:
        self._places: set[str] = set()
        self._real = cache(os.path.realpath)
        self._written = cache(_written_by_analysis)

    def again(self, source: str) -> bool:
        folder, name = os.path.split(source)
        place = f"{self._real(folder)}{os.sep}{name}"
        if place in self._places:
            return True
        self._places.add(place)
        return False

    def by_analysis(self, source: str) -> bool:
        return self._written(os.path.dirname(source))  # noqa: PTH120 - a million of them


def _folder(folder: Path, prefix: str, found: Inputs, seen: _Seen) -> None:
    start = len(str(folder / "x")) - 1
    for file in find_images(folder):
        source = str(file)
        if seen.by_analysis(source):
            found.own += 1
        elif seen.again(source):
            found.twice += 1
        else:
            found.places[source] = prefix + source[start:].replace(os.sep, "/")


def _written_by_analysis(folder: str) -> bool:
    place = Path(folder).absolute()
    return any(
        parent.name in (PICTURES, CROPS, EXPLAINED) and (parent.parent / OPTIONS).is_file()
        for parent in (place, *place.parents)
    )


def _file(source: str, place: str, found: Inputs, seen: _Seen) -> None:
    if seen.by_analysis(source):
        found.own += 1
    elif seen.again(source):
        found.twice += 1
    elif is_tar(source) and not os.path.isdir(source):  # noqa: PTH112 - a million of them
        _tar(source, place, found)
    else:
        found.places[source] = place


def _tar(source: str, place: str, found: Inputs) -> None:
    content = read_tar(Path(source))
    for name, member in content.images.items():
        image = member_source(source, name)
        found.places[image] = f"{place}/{below(name)}"
        found.members[image] = member
    found.others += content.others
    found.twice += content.replaced
    damage = content.damage or (None if content.images else "no image in the tar file")
    if damage:
        found.places[source] = place
        found.members[source] = Unreadable(source, damage)
