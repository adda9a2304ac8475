"""Text to files and to the console, safely."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import printable_lines


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: to a temporary file in the same folder, which is then renamed.

    Folders are made as needed. Text is written in UTF-8 as it is; what UTF-8 cannot hold, such as a file name whose
    bytes are no text, is written with backslash escapes.

    Raises:
        FaceExprError: the file cannot be written there.
    """
    with replacing(path) as file:
        file.write(as_bytes(content))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write bytes to, which takes its name at the end, or is gone where anything went wrong.

    Raises:
        FaceExprError: the file cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                # mkstemp makes files private; a result has the permissions that any new file would have. The only way
                # to read the mask is to set it.
                mask = os.umask(0)
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if taken := next((place for place in path.parents if place.is_file()), None):
            raise FaceExprError(f"{taken} is a file; expected a folder") from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        expected = "more room there" if full else "a file name in a folder that may be written to"
        raise FaceExprError(f"{path} cannot be written ({error.strerror or error}); expected {expected}") from error


def as_bytes(text: str | bytes) -> bytes:
    """Return text as UTF-8; what that cannot hold becomes backslash escapes, which JSON reads back as they were."""
    return text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def keep_older(path: Path) -> None:
    """Put a file that is to be written anew under a number; nothing is done where there is none."""
    if not path.exists():
        return
    number = 1
    while (copy := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    path.rename(copy)


class _Lines:
    """What tqdm writes to where there is no terminal: each state of the bar is a line."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self) -> None:
        """Do nothing: lines are written at once."""


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a bar of tqdm; where there is no terminal, such as in a pipe or a log file, it prints a line a minute."""
    from tqdm import tqdm

    if sys.stderr is None or not sys.stderr.isatty():
        options |= {"file": _Lines(), "mininterval": 60, "delay": 60, "miniters": 1}
    return tqdm(items, **options)


def say(text: str) -> None:
    """Print; what the console cannot show, or would obey, is printed as backslash escapes and does not end the run."""
    if sys.stdout is None:  # closed by whoever started the program
        return
    encoding = sys.stdout.encoding or "utf-8"
    print(printable_lines(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
