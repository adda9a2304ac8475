"""Detectron2's messages, on the console and in the run folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faceexpr.utils.errors import FaceExprError

LOGGERS = ("detectron2", "fvcore", "faceexpr.detectron2")
LOG = "log.txt"


@contextmanager
def logging_to(folder: Path, rank: int) -> Iterator[None]:
    """Show messages while the block runs: those of the first process, and each process's own in a file.

    Args:
        folder: of the run.
        rank: of this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / (LOG if rank == 0 else f"log.rank{rank}.txt"), encoding="utf-8")
    handlers: list[logging.Handler] = [file, *([logging.StreamHandler(sys.stdout)] if rank == 0 else [])]
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        handler.addFilter(_is_no_bad_input)
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers += handlers
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers = [handler for handler in logger.handlers if handler not in handlers]
        file.close()


def _is_no_bad_input(record: logging.LogRecord) -> bool:
    # Detectron2 logs every exception with its traceback; those that are meant for the user are one sentence.
    return not (record.exc_info and isinstance(record.exc_info[1], FaceExprError))
