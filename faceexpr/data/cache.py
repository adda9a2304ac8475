"""Parsed data kept on disk as memory-mapped arrays, so that only the first start pays for the parsing.

An entry is a folder of ``.npy`` files and one small JSON file. Its name carries a digest of the sources' paths, sizes
and modification times: a source that changes leads to another entry, and no entry is ever written to once it is there.
Entries appear by renaming a finished folder, so processes may build the same one at the same time.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.utils.errors import FaceExprError

Arrays = dict[str, npt.NDArray[Any]]

FORMAT = 1
"""Raise it when the layout of an entry changes; older entries are then rebuilt."""

FOLDER = ".faceexpr-cache"
KEY_FILE = "key.json"
ABANDONED_AFTER = 3600.0
"""Seconds after which a half-written entry counts as left behind by a process that was killed."""


def cached_arrays(
    source: Path | Sequence[Path],
    kind: str,
    build: Callable[[], Arrays],
    cache_dir: Path | None = None,
    options: str = "",
) -> Arrays:
    """Return what ``build`` returns, from the cache where that is possible.

    Args:
        source: the file or files that the arrays are made from. A change of path, size or modification time of any
            of them leads to a new build.
        kind: what the arrays are, with a version: ``fer2013-1``. Part of a file name.
        build: makes the arrays; none may hold Python objects.
        cache_dir: folder of the cache; None means ``.faceexpr-cache`` beside the first source, or, where nothing can
            be written there, the user's cache folder.
        options: whatever else the arrays depend on.

    Returns:
        The arrays by name, memory-mapped copy-on-write: writing to them changes neither the cache nor another
        process's view. Where no folder can be written to, the built arrays themselves; a line says so.

    Raises:
        FaceExprError: a source does not exist.
    """
    sources = [source] if isinstance(source, Path) else list(source)
    key = _key(sources, kind, options)
    folders = [cache_dir] if cache_dir is not None else _default_folders(sources[0])
    for folder in folders:
        arrays = _load(folder / key.entry, key)
        if arrays is not None:
            return arrays
    arrays = build()
    problem = "no folder to write to"
    for folder in folders:
        try:
            _store(folder / key.entry, key, arrays)
        except OSError as error:
            problem = f"{folder}: {error.strerror or error}"
            continue
        _remove_stale(folder, key)
        # What has been mapped can leave memory again; the built arrays could not.
        return _load(folder / key.entry, key) or arrays
    rank_zero_info(f"no cache is kept of {sources[0]}, which is read anew at each start ({problem})")
    return arrays


@dataclass(frozen=True)
class _Key:
    """Identity of an entry.

    Attributes:
        group: the same for all states of the same sources.
        state: digest of the sources as they are now.
    """

    group: str
    state: str

    @property
    def entry(self) -> str:
        return f"{self.group}-{self.state}"


def _key(sources: Sequence[Path], kind: str, options: str) -> _Key:
    paths, states = [], []
    for path in sources:
        try:
            status = path.stat()
        except OSError as error:
            raise FaceExprError(f"{path} cannot be read: {error.strerror}") from error
        paths.append(str(path.resolve()))
        states.append([status.st_size, status.st_mtime_ns])
    identity = _digest([paths, kind, options])
    return _Key(group=f"{sources[0].name[:40]}-{kind}-{identity}", state=_digest([FORMAT, paths, states]))


def _digest(value: list[Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _default_folders(source: Path) -> list[Path]:
    beside = source.resolve().parent
    # The mode too: an administrator can write to a folder that was made read-only on purpose, and should not.
    writable = os.access(beside, os.W_OK) and stat.S_IMODE(beside.stat().st_mode) & 0o222
    folders = [beside / FOLDER] if writable or (beside / FOLDER).is_dir() else []
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return folders
    return [*folders, user / "faceexpr"]


def _load(entry: Path, key: _Key) -> Arrays | None:
    """Return the entry's arrays, or None where there is no such entry or it is not what was written."""
    try:
        content = json.loads((entry / KEY_FILE).read_text(encoding="utf-8"))
        if content["state"] != key.state:
            return None
        arrays: Arrays = {}
        for name, checksum in content["checksums"].items():
            mapped = np.lib.format.open_memmap(entry / f"{name}.npy", mode="c")
            if _checksum(mapped) != checksum:
                return None
            arrays[name] = mapped.view(np.ndarray)
    except Exception:  # whatever is wrong with an entry, the answer is to build it again
        return None
    return arrays


def _checksum(array: npt.NDArray[Any]) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def _store(entry: Path, key: _Key, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    temporary = entry.with_name(f"{entry.name}.{uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        content = json.dumps({"state": key.state, "checksums": checksums}, indent=1)
        (temporary / KEY_FILE).write_text(content + "\n", encoding="utf-8")
        _publish(temporary, entry, key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, entry: Path, key: _Key) -> None:
    """Rename the finished folder to its final name, unless another process has done so; replace a damaged one."""
    try:
        temporary.replace(entry)
    except OSError:
        if _load(entry, key) is not None:
            return
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
        temporary.replace(entry)


def _remove_stale(folder: Path, key: _Key) -> None:
    """Remove the entries of earlier states of the same sources, and what killed processes left half-written."""
    for other in folder.glob(f"{glob.escape(key.group)}-*"):
        if other.suffix == ".tmp":
            try:
                if time.time() - other.stat().st_mtime < ABANDONED_AFTER:
                    continue
            except OSError:  # it has just been renamed by the process that wrote it
                continue
        if other.name != key.entry:
            shutil.rmtree(other, ignore_errors=True)
