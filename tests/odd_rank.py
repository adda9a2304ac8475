"""A data set for tests, in which something happens to one process of several, or to all."""

import os
import signal
import time
from typing import Any

from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.utils.errors import FaceExprError


class OddFaces(SyntheticFaces):
    """Drawn faces. The variable ``ODD`` says when, what and to which process: "setup refuse 1, batch kill 0"."""

    def prepare_data(self) -> None:
        super().prepare_data()
        happen("prepare")

    def setup(self, stage: str) -> None:
        super().setup(stage)
        happen("setup")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        happen("batch")
        return super().on_after_batch_transfer(batch, dataloader_idx)


def happen(now: str) -> None:
    own = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    for event in os.environ.get("ODD", "").split(", "):
        moment, what, rank = event.split() if event else ("never", "nothing", "all")
        if moment == now and rank in ("all", own):
            do(what)


def do(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(60)
    if what == "refuse":
        raise FaceExprError("odd.png is no image; expected one")
    if what == "fail":
        raise TypeError("a defect")
