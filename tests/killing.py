"""A callback that ends its own process, by SIGKILL or SIGTERM, at a point that the environment names."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

VARIABLE = "KILL"
"""Environment variable: the point as JSON; without it nothing is ended."""

MIDDLES = ("batch begins", "batch ends", "validation", "before fsync", "before rename", "after rename")


class Killer(Callback):
    """Send a signal to this process.

    The point is the n-th time that something happens, in one of several processes, or, for ``moment``, so many seconds
    after training has begun. Instead, a file may be written that takes all the room that is left on its disk.
    """

    def __init__(self) -> None:
        self.point: dict[str, Any] = json.loads(os.environ.get(VARIABLE, "{}"))
        self.seen = 0
        self.timer: threading.Thread | None = None

    def _now(self, where: str) -> None:
        if self.point.get("where") == where:
            self.seen += 1
            if self.seen != self.point["nth"] or os.environ.get("RANK", "0") != str(self.point.get("rank", 0)):
                return
            if "fill" in self.point:
                with contextlib.suppress(OSError), Path(self.point["fill"]).open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
            else:
                for number in self.point.get("signals", [signal.SIGKILL]):
                    os.kill(os.getpid(), number)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("fit")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fsync, replace = os.fsync, Path.replace

        def watched_fsync(handle: int) -> None:
            self._now("before fsync")
            fsync(handle)

        def watched_replace(path: Path, target: Path) -> Path:
            self._now("before rename")
            result = replace(path, target)
            self._now("after rename")
            return result

        self._now("start")
        if self.point:
            os.fsync, Path.replace = watched_fsync, watched_replace  # type: ignore[assignment]
        if self.point.get("where") == "moment":
            self.timer = threading.Thread(target=self._later)
            self.timer.start()

    def _later(self) -> None:
        time.sleep(self.point["seconds"])
        os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_start(self, *args: Any) -> None:
        self._now("batch begins")

    def on_train_batch_end(self, *args: Any) -> None:
        self._now("batch ends")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._now("validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.timer is not None:
            self.timer.join()


def random_point(rng: random.Random, seconds: float) -> dict[str, Any]:
    """Return a point: in a third of all cases a moment within so many seconds, or else the n-th of something."""
    if rng.random() < 1 / 3:
        return {"where": "moment", "seconds": rng.uniform(0, seconds)}
    where = rng.choice(MIDDLES)
    most = {"batch begins": 14, "batch ends": 14, "validation": 6}.get(where, 7)
    return {"where": where, "nth": rng.randint(1, most)}
