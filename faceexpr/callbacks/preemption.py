"""SIGTERM, by which a scheduler announces that it will end a training: save, and exit with a code that says so."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from faceexpr.callbacks.last_checkpoint import LastCheckpoint
from faceexpr.utils.errors import PREEMPTED


class Preemption(Callback):
    """Save ``last.ckpt`` after the step in which SIGTERM arrives, and end with exit code 75.

    A validation that is running is finished first. Of several processes it is enough that one gets the signal: they
    ask one another before each step. Lightning's own handler does this within the signal, where the processes may be
    at different points and wait for one another for ever, and saves nothing.

    Before training has begun nothing can be lost, and the signal ends the process as usual. A signal of SLURM by which
    Lightning puts a job back into the queue (SIGUSR1) stays Lightning's.
    """

    def __init__(self) -> None:
        self._asked = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def _listen(self, trainer: Trainer) -> None:
        # Lightning has put its handlers in by now. When it ends, it puts those back that were there before.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) != self._note:
            self._asked = trainer.received_sigterm  # while the data were made ready
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if not self._asked:  # it may come more than once: to the process, to its group, from torchrun
            self._asked = True
            # Not print, which may be at work already in the code that is interrupted.
            os.write(2, b"SIGTERM: saving the state before the next step\n")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return  # in the middle of a step, whose gradients so far would be lost
        asked = self._asked
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            self._leave(trainer, pl_module)

    def _leave(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = next((callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)), None)  # type: ignore[attr-defined]
        # A model that remembers its data has done nothing that could be kept before its epoch is over.
        if last is not None and not getattr(pl_module, "remembers", False):
            last.save(trainer, pl_module)
        kept = f"{last.path} is saved" if last is not None and last.path is not None else "nothing is kept"
        rank_zero_info(
            f"pre-empted at step {trainer.global_step} (epoch {trainer.current_epoch}): {kept}; go on with the same "
            "command and --ckpt_path last"
        )
        sys.exit(0 if _is_child(trainer) else PREEMPTED)


def _is_child(trainer: Trainer) -> bool:
    """Tell whether Lightning has started this process, and would kill the first one when it fails."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
