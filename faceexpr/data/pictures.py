"""The pictures of a detection split: in memory where there is room, and which of them are broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import MethodType
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.data.broken_pictures import check_all
from faceexpr.data.module import FaceDataModule
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError

READERS = 4
LISTED = 10
"""Broken pictures that a message names."""

WHOLE = "expected whole pictures, or --data.reading.missing leave_out"


Function = TypeVar("Function", bound=Callable[..., Any])


class Pictures:
    """The pictures of a split.

    Attributes:
        kept: the decoded pictures where they are in memory.
        broken: reasons by position, for pictures that turned out to be unreadable when they were needed.

    Args:
        read: returns the pixels of a record, RGB uint8 (H, W, 3).
        check: raises an `ImageError` where it sees that a record's picture is broken; it need not decode it.
        records: one for each picture.
        leave_out_broken: go on without pictures that cannot be read.
    """

    def __init__(
        self,
        read: Callable[[AnnotatedImage], NDArray[np.uint8]],
        check: Callable[[AnnotatedImage], None],
        records: list[AnnotatedImage],
        leave_out_broken: bool = False,
    ) -> None:
        self._read = read
        self._check = check
        self._ready = False
        self.records = records
        self.leave_out_broken = leave_out_broken
        self.kept: list[Tensor] | None = None
        self.broken: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Processes that prepare batches get a copy where they are not forked.
        return {**self.__dict__, "_read": _without_run(self._read), "_check": _without_run(self._check)}

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a picture, RGB uint8 (H, W, 3)."""
        return self._read(self.records[index]) if self.kept is None else self.kept[index].permute(1, 2, 0).numpy()

    def tensor(self, index: int) -> Tensor:
        """Return a picture, uint8 (3, H, W)."""
        if self.kept is not None:
            return self.kept[index]
        return torch.from_numpy(self._read(self.records[index])).permute(2, 0, 1).contiguous()

    def boxes(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the boxes of a picture, float32 (F, 4), and which are to be ignored, bool (F,)."""
        record = self.records[index]
        return torch.from_numpy(record.boxes), torch.from_numpy(record.ignored)

    def prepare(self, memory_gib: float) -> None:
        """Find the broken pictures, once, and decode all where they need no more memory than this.

        Others are read when they are needed; of them, only what does not take decoding is found now.

        Raises:
            FaceExprError: pictures cannot be read; the message lists them.
        """
        if self._ready:
            return
        if sum(3 * record.size[0] * record.size[1] for record in self.records) <= memory_gib * 2**30:
            with ThreadPoolExecutor(READERS) as readers:
                outcomes = list(readers.map(self._outcome, range(len(self))))
            self._leave_out({place: one.reason for place, one in enumerate(outcomes) if isinstance(one, ImageError)})
            self.kept = [picture for picture in outcomes if isinstance(picture, Tensor)]
        else:
            self._leave_out(check_all(lambda place: self._check(self.records[place]), len(self)))
        self._ready = True

    def _outcome(self, index: int) -> Tensor | ImageError:
        try:
            return self.tensor(index)
        except ImageError as error:
            return error

    def _leave_out(self, reasons: dict[int, str]) -> None:
        if not reasons:
            return
        told = [f"{self.records[place].path}: {reason}" for place, reason in reasons.items()]
        account = f"{len(told)} of {len(self)} pictures cannot be read: {'; '.join(told[:LISTED])}"
        account += f" and {len(told) - LISTED} more" if len(told) > LISTED else ""
        if not self.leave_out_broken or len(told) == len(self):
            raise FaceExprError(f"{account}; {WHOLE}")
        rank_zero_warn(f"{account}; they are left out")
        self.records = [record for place, record in enumerate(self.records) if place not in reasons]

    def found_broken(self, reasons: dict[int, str]) -> None:
        """Take note of pictures that turned out to be broken.

        Args:
            reasons: by position.

        Raises:
            FaceExprError: there is one, and it is not to be left out.
        """
        for place, reason in reasons.items():
            if not self.leave_out_broken:
                raise FaceExprError(f"{self.records[place].path} cannot be read: {reason}; {WHOLE}")
            self.broken[place] = reason


def _without_run(function: Function) -> Function:
    """Return a method of a data module as one of a copy that belongs to no run, which could not be sent along."""
    module = getattr(function, "__self__", None)
    if not isinstance(module, FaceDataModule):
        return function
    alone = copy.copy(module)
    alone.trainer = None
    method: Any = MethodType(getattr(type(alone), function.__name__), alone)
    return method  # type: ignore[no-any-return]
