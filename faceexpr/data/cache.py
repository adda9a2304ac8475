"""Keep parsed data on disk, so that only the first start pays for the parsing.

An entry is one ``.npz`` file. Its name carries a digest of the sources' paths, sizes and modification times: a source
that changes leads to another entry, and the older one is removed.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import replacing

Arrays = dict[str, npt.NDArray[Any]]
Kept = TypeVar("Kept", bound=Arrays | None)

FOLDER = ".faceexpr-cache"


def load_cached(
    sources: Sequence[Path], kind: str, build: Callable[[], Kept], cache_dir: str | None = None, options: str = ""
) -> Arrays | Kept:
    """Return what ``build`` returns, from the cache where that is possible.

    Args:
        sources: the files that the arrays are made from. A change of path, size or modification time of any of them
            leads to a new build.
        kind: what the arrays are, with a version: ``fer2013-2``. Part of a file name.
        build: makes the arrays, none of which may hold Python objects; None where they are not to be kept.
        cache_dir: folder of the cache; None means ``.faceexpr-cache`` beside the first source, or, where nothing can
            be written there, the user's cache folder.
        options: whatever else the arrays depend on.

    Raises:
        FaceExprError: a source does not exist.
    """
    try:
        states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    except OSError as error:
        raise FaceExprError(f"{error.filename} cannot be read: {error.strerror}") from error
    paths = [str(path.resolve()) for path in sources]
    group = f"{sources[0].name[:40]}-{kind}-{_digest(paths, options)}"
    entries = [folder / f"{group}-{_digest(paths, states)}.npz" for folder in _folders(sources[0], cache_dir)]
    for entry in entries:
        try:
            with np.load(entry, allow_pickle=False) as stored:  # whose checksums are compared
                return dict(stored)
        except Exception:  # whatever is wrong with an entry, the answer is to build it again
            continue
    arrays = build()
    if arrays is None:
        return arrays
    problem = "no folder to write to"
    for entry in entries:
        try:
            with replacing(entry) as file:  # under its name when it is whole: others may build the same one
                np.savez(file, allow_pickle=False, **arrays)
        except FaceExprError as error:
            problem = str(error)
            continue
        for older in entry.parent.glob(f"{glob.escape(group)}-*"):
            if older != entry:
                older.unlink(missing_ok=True)
        return arrays
    rank_zero_info(f"no cache is kept of {sources[0]}, which is read anew at each start ({problem})")
    return arrays


def _digest(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _folders(source: Path, cache_dir: str | None) -> list[Path]:
    """Return the folders that an entry may be in, the first one preferred."""
    if cache_dir is not None:
        return [Path(cache_dir).expanduser()]
    beside = source.resolve().parent
    # The mode too: an administrator can write to a folder that was made read-only on purpose, and should not.
    writable = os.access(beside, os.W_OK) and stat.S_IMODE(beside.stat().st_mode) & 0o222
    folders = [beside / FOLDER] if writable or (beside / FOLDER).is_dir() else []
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return folders
    return [*folders, user / "faceexpr"]
