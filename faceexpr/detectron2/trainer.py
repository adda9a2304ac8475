"""Detectron2's default trainer with the product's data, metrics, checkpoints and checks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter, get_event_storage
from torch import Tensor, nn
from torch.utils.data import DataLoader

from faceexpr.boxes.suppression import Suppression
from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.detectron2.checkpoints import BEST, LAST, FaceCheckpointer
from faceexpr.detectron2.config import VAL
from faceexpr.detectron2.dataset import FaceMapper
from faceexpr.detectron2.measuring import FaceEvaluator, Measured
from faceexpr.utils.errors import FaceExprError

MONITOR = "ap50"
"""The metric of the validation pictures that decides which checkpoint is the best."""

WRITE_EVERY = 20
"""Iterations between lines of the console and points of the curves, at most."""


class FaceTrainer(DefaultTrainer):  # type: ignore[misc]  # Detectron2 has no types
    """Detectron2's `DefaultTrainer` for faces.

    Args:
        cfg: of Detectron2; its data are registered.
        val: records of the validation pictures, as registered; empty where there are none.
        suppression: how candidates become detections.
    """

    def __init__(self, cfg: CfgNode, val: Sequence[AnnotatedImage], suppression: Suppression) -> None:
        self.val = val
        self.suppression = suppression
        self.best: tuple[int, Measured] | None = None
        super().__init__(cfg)
        self.checkpointer = FaceCheckpointer(self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self._guard = LossGuard(self.model.module if hasattr(self.model, "module") else self.model)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        try:
            model: nn.Module = build_model(cfg)
        except (AssertionError, KeyError, ValueError, RuntimeError) as error:  # how Detectron2 checks its keys
            raise FaceExprError(
                f"model and opts do not make a network: {error}; expected keys that go together"
            ) from error
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(cfg, mapper=FaceMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader[Any]:
        loader: DataLoader[Any] = build_detection_test_loader(cfg, dataset_name, mapper=FaceMapper(cfg, is_train=False))
        return loader

    def build_hooks(self) -> list[HookBase]:
        # Detectron2's own would write a file for every period and measure after an error too.
        replaced = (hooks.PeriodicCheckpointer, hooks.EvalHook, hooks.PeriodicWriter)
        kept = [hook for hook in super().build_hooks() if not isinstance(hook, replaced)]
        kept += [BestFaces(self.cfg.TEST.EVAL_PERIOD), LastState(self.cfg.SOLVER.CHECKPOINT_PERIOD)]
        if comm.is_main_process():
            # Of each metric the newest value is written, so that every measurement needs a writing of its own.
            every = min(WRITE_EVERY, self.cfg.TEST.EVAL_PERIOD or WRITE_EVERY)
            kept.append(hooks.PeriodicWriter(self.build_writers(), every))
        return kept

    def build_writers(self) -> list[EventWriter]:
        return [CommonMetricPrinter(self.max_iter), TensorboardXWriter(self.cfg.OUTPUT_DIR)]

    def run_step(self) -> None:
        try:
            super().run_step()
        except FloatingPointError as error:  # Detectron2's own checks, of the first stage's proposals above all
            raise self._guard.diverged(f"the first stage ({str(error).splitlines()[0]})") from error

    def measure(self) -> Measured | None:
        """Measure the network on the validation pictures; all processes have to ask, and the first gets the metrics."""
        loader = self.build_test_loader(self.cfg, VAL)
        measured = inference_on_dataset(self.model, loader, FaceEvaluator(self.val, self.suppression))
        return measured if isinstance(measured, Measured) else None


class BestFaces(HookBase):  # type: ignore[misc]  # Detectron2 has no types
    """Measure on the validation pictures, and keep the checkpoint with the highest AP50.

    Args:
        period: iterations between measurements; 0 measures after the last one only.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.best: float | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        due = done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0)
        if not self.trainer.val or not due:
            return
        measured = self.trainer.measure()
        if measured is not None:
            logged = {f"val/{name}": value for name, value in measured.scores.values.items() if value is not None}
            self.trainer.storage.put_scalars(**logged, smoothing_hint=False)
            self._keep(measured, done)
        comm.synchronize()

    def _keep(self, measured: Measured, done: int) -> None:
        scores, logger = measured.scores, logging.getLogger(__name__)
        value = scores.values[MONITOR]
        if value is None:
            logger.info(f"iteration {done}: val/{MONITOR} is not defined: {scores.undefined[MONITOR]}")
            return
        better = self.best is None or value > self.best
        logger.info(f"iteration {done}: val/{MONITOR} {value:.4f}{', the best so far' if better else ''}")
        if better:
            self.trainer.checkpointer.save(BEST, iteration=done, metrics=dict(scores.values))
            self.best, self.trainer.best = value, (done, measured)

    def state_dict(self) -> dict[str, float]:
        return {} if self.best is None else {"best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        self.best = state_dict["best"]


class LastState(HookBase):  # type: ignore[misc]  # Detectron2 has no types
    """Keep the newest state of the training, from which it can go on.

    Args:
        period: iterations between writings; it is written after the last iteration too.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self.trainer.checkpointer.save(LAST, iteration=done)


class LossGuard:
    """Ends a training at its first loss that is not finite, before the weights are changed by it.

    Args:
        network: the one that is trained.
    """

    def __init__(self, network: nn.Module) -> None:
        self._files: list[str] = []
        network.register_forward_pre_hook(self._remember)
        network.register_forward_hook(self._check)

    def diverged(self, part: str) -> FaceExprError:
        """Return the error that names the part of the loss, the iteration and the pictures."""
        return FaceExprError(
            f"training has diverged at iteration {get_event_storage().iter} (counted from 0): not finite is {part}, on "
            f"{', '.join(self._files)}; nothing of this iteration is kept; expected a lower base_lr, a longer warm-up "
            "or other boxes"
        )

    def _remember(self, network: nn.Module, args: tuple[list[dict[str, Any]]]) -> None:
        if network.training:
            self._files = [sample["file_name"] for sample in args[0]]

    def _check(self, network: nn.Module, args: tuple[Any], losses: dict[str, Tensor]) -> None:
        if not network.training:
            return
        finite = torch.stack([loss.detach().isfinite().all() for loss in losses.values()]).tolist()
        broken = [name for name, good in zip(losses, finite, strict=True) if not good]
        if broken:
            raise self.diverged(" and ".join(broken))
