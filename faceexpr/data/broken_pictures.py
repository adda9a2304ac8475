"""Which of very many picture files are broken, found out without decoding them all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_warn

from faceexpr.data.together import gathered, process
from faceexpr.utils.image_decoding import too_large
from faceexpr.utils.images import ImageError, read_image, upright_size
from faceexpr.utils.text import counted

_TAIL = 4096
"""Bytes at the end of a JPEG file among which its end mark is looked for: some cameras write notes after it."""

_AT_ONCE = 1024
"""Places that the threads are given at a time; what is kept for each would add up over a million of them."""

Result = TypeVar("Result")


def check_picture(file: str, max_pixels: int) -> None:
    """Read a picture's header and see whether the file has its end; one that has not is decoded to find out.

    Raises:
        ImageError: the picture cannot be read. One that passes may still be damaged inside.
    """
    width, height = upright_size(file)
    if width * height > max_pixels:
        raise ImageError(file, too_large(f"{width} x {height}", max_pixels))
    try:
        cut = _looks_cut(file)
    except OSError as error:
        raise ImageError(file, f"cannot be opened: {error.strerror}") from error
    if cut:
        read_image(file, max_pixels=max_pixels, reduce_to=1)


def _looks_cut(file: str) -> bool:
    """Tell whether a JPEG or PNG file is without its end mark; of other formats nothing is said."""
    with open(file, "rb", buffering=0) as opened:  # noqa: PTH123  # a name is all there is
        head = opened.read(4)
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - _TAIL))
        tail = opened.read(_TAIL)
    # Within compressed data no mark of this value occurs: JPEG writes a zero after each byte of 255.
    return (head[:3] == b"\xff\xd8\xff" and b"\xff\xd9" not in tail) or (head == b"\x89PNG" and b"IEND" not in tail)


def check_all(check: Callable[[int], None], number: int) -> dict[int, str]:
    """Check many pictures; each process of a run takes its part, and all have to ask.

    Args:
        check: raises an `ImageError` where the picture at a place is broken.
        number: of pictures.

    Returns:
        Reasons by place, ascending.
    """
    rank, processes = process()

    def reason(place: int) -> tuple[int, str] | None:
        try:
            check(place)
        except ImageError as error:
            return place, error.reason
        return None

    mine = [found for found in in_threads(reason, range(rank, number, processes)) if found is not None]
    return dict(sorted(chain.from_iterable(gathered(mine))))


def in_threads(function: Callable[[int], Result], places: range) -> Iterator[Result]:
    """Yield the function's results for the places, in their order, computed by several threads."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(places), _AT_ONCE):
            yield from pool.map(function, places[start : start + _AT_ONCE])


def tell_of_broken(split: str, number: int, broken: Mapping[str, str], noun: str = "image") -> None:
    """Count and name the pictures that turned out to be broken while they were used, where there are any.

    Args:
        split: its name.
        number: of its pictures.
        broken: reasons by name, in the order of the split.
        noun: what to call a picture.
    """
    if broken:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in broken.items())
        rank_zero_warn(
            f"{len(broken):,} of {counted(number, noun)} of the {split} split turned out to be broken and "
            f"{'was' if len(broken) == 1 else 'were'} left out:{reasons}"
        )
