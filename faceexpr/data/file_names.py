"""The names of very many files, small enough for every worker process to have them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import overload

import numpy as np


class FileNames(Sequence[str]):
    """Paths in one run of bytes and one array of offsets.

    A name takes its bytes and 8 more, where a list of strings takes some 60 more. What matters as much: a forked
    process that reads strings counts references to them, and so comes to own a copy of every page that holds one.

    Args:
        names: the paths; bytes that are no text have come through `os.fsdecode`, as those of `os.listdir` have.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._bytes = b"".join(encoded)
        self._ends = np.fromiter(accumulate(map(len, encoded), initial=0), np.int64, count=len(encoded) + 1)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FileNames: ...
    def __getitem__(self, index: int | slice) -> str | FileNames:
        if isinstance(index, slice):
            return self.picked(range(*index.indices(len(self))))
        index = range(len(self))[index]
        return os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list

    @property
    def digest(self) -> str:
        """A short text that is another for other names."""
        return hashlib.sha256(self._ends.tobytes() + self._bytes).hexdigest()

    def picked(self, indices: Iterable[int]) -> FileNames:
        """Return the names at these places, in their order."""
        return FileNames(self[index] for index in indices)
