"""SIGTERM, with which schedulers ask a process to end: an exception, as Ctrl-C is, but never within a held block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(BaseException):
    """SIGTERM has come."""


class Termination:
    """While it is entered, SIGTERM raises `Terminated` in the main thread; a second one changes nothing."""

    def __init__(self) -> None:
        self._held = False
        self._came = False
        self._before: Any = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            return
        self._came = True
        if not self._held:
            raise Terminated

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block end first."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            raise Terminated
