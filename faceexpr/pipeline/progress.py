"""How far an analysis is, and what it has found in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from faceexpr.pipeline.records import Done
from faceexpr.utils.files import say
from faceexpr.utils.text import counted

SECONDS_A_LINE = 10


class Step(Protocol):
    """Moves the progress on by an image."""

    def __call__(self, faces: int) -> None: ...


@contextmanager
def progress(total: int, before: int, part: str = "") -> Iterator[Step]:
    """Show a bar on a terminal, and a line now and then elsewhere.

    Args:
        total: images.
        before: how many of them are done.
        part: begins the lines of one of several processes, which share a terminal and have no bar.
    """
    found = 0
    if sys.stderr.isatty() and not part:
        from tqdm import tqdm

        with tqdm(total=total, initial=before, unit="image") as bar:

            def advance(faces: int) -> None:
                nonlocal found
                found += faces
                bar.set_postfix_str(f"{found:,} faces", refresh=False)
                bar.update()

            yield advance
        return
    start = last = time.monotonic()
    done = before

    def line(faces: int) -> None:
        nonlocal found, done, last
        found, done, now = found + faces, done + 1, time.monotonic()
        if now - last >= SECONDS_A_LINE:
            last = now
            left = (now - start) / (done - before) * (total - done)
            say(f"{part}{done:,} of {total:,} images, {found:,} faces, about {left:,.0f} s left")

    yield line


def tell(done: Iterable[Done], part: str = "") -> int:
    """Say what was found in images.

    Returns:
        The number of those that could not be analysed.
    """
    images = faces = empty = failed = 0
    for image in done:
        images += 1
        faces += image.faces
        empty += not image.failed and not image.faces
        failed += image.failed
    say(f"{part}{counted(faces, 'face')} in {counted(images, 'image')}; {empty:,} of {images:,} without face")
    if failed:
        say(f"{part}{failed:,} of {images:,} could not be analysed; the reason of each is in its record")
    return failed
