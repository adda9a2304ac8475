"""Text to files and to the console, safely."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from faceexpr.errors import FaceExprError


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: to a temporary file in the same folder, which is then renamed.

    Folders are made as needed. Text is written in UTF-8 as it is; what UTF-8 cannot hold, such as a file name whose
    bytes are no text, is written with backslash escapes.

    Raises:
        FaceExprError: the file cannot be written there.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files private; a result has the permissions that any new file would have.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise FaceExprError(
            f"{path} cannot be written ({error.strerror or error}); expected a file name in a folder that may be "
            "written to"
        ) from error


def _umask() -> int:
    # The only way to read the mask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def keep_older(path: Path) -> None:
    """Put a file that is to be written anew under a number; nothing is done where there is none."""
    if not path.exists():
        return
    number = 1
    while (copy := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    path.rename(copy)


def lock(file: IO[Any]) -> bool:
    """Keep an open file for this process until it is closed; nothing is done where the system has no such locks.

    Returns:
        False where another process keeps it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some file systems of a network
        return True
    return True


def say(text: str) -> None:
    """Print; characters that the console cannot show are printed as backslash escapes and do not end the run."""
    if sys.stdout is None:  # closed by whoever started the program
        return
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
