"""Training by gradients: optimizer, schedule and starting weights as the user names them, and as a run goes on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from faceexpr.data.base import FaceDataModule
from faceexpr.data.loading import BatchLoader
from faceexpr.models.base import Net
from faceexpr.tasks.base import Task, check_weights, load_weights
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.specs import callable_class
from faceexpr.utils.text import kind_of

LRScaling = Literal["none", "linear", "sqrt"]

PEAKS = ("max_lr", "base_lr")
FLOORS = ("eta_min", "min_lr")
"""Arguments of torch's schedulers that are learning rates, and not factors of the optimizer's: of a schedule that does
not ask the optimizer for its rate, and those that no schedule falls below."""

TRAINING_OPTIONS = ("optimizer", "scheduler", "scheduler_interval", "lr")

LR_FACTOR = "lr_factor"
"""Key of a checkpoint: what the written learning rates were multiplied by, for the number of samples in a step."""


class Optimised(Task):
    """A mixin for tasks whose network is trained by gradients.

    Where a run is resumed, what the user writes beats what the checkpoint remembers.

    Args:
        optimizer: any optimizer of torch; the paper's is Adam with a learning rate of 1e-3.
        scheduler: any learning-rate scheduler of torch, or none. A ``total_steps`` that is not given is the length of
            the training.
        scheduler_interval: whether the scheduler moves on after each ``epoch`` or each ``step``.
        monitor: metric that a ``ReduceLROnPlateau`` scheduler without a monitor of its own watches.
        lr: learning rate, in place of the optimizer's and of a schedule's ``max_lr``; the value that Lightning's
            ``LearningRateFinder`` sets.
        lr_scaling: what becomes of the learning rates, which are written for steps of the data's ``batch_size``
            samples, where all processes together take more (``global_batch_size`` times the trainer's
            ``accumulate_grad_batches``): they stay (``none``), grow as much (``linear``), or by the square root
            (``sqrt``).
        channels_last: memory format of images and weights; faster for convolutions on most devices.
        weights: what training starts with: the name of a model that comes with the package (``wider_light``,
            ``ferplus_compact_robust``, ``fer2013_compact``), a model file, a checkpoint or a run folder, of the same
            network; from scratch, or as the network's own options say, without it. A classifier's last layer is taken
            over where it tells the same classes.
        frozen: parts of the network that do not learn, by their names in it, such as ``[backbone]`` of a ResNet or
            ``[backbone.conv1, backbone.bn1, backbone.layer1]``, or single weights, such as ``fc.weight``; the batch
            normalisation and dropout of parts rest too.
    """

    net: Net

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val/accuracy",
        lr: float | None = None,
        lr_scaling: LRScaling = "none",
        channels_last: bool = True,
        weights: str | None = None,
        frozen: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        for name, given in (("optimizer", optimizer), ("scheduler", scheduler)):
            fits = given is None or callable(given)
            require(fits, name, kind_of(given), "a class of torch.optim, or a functools.partial of one")
        super().__init__(**kwargs)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.monitor = monitor
        self.lr = lr
        self.lr_scaling = lr_scaling
        self.channels_last = channels_last
        self.weights = weights
        self.frozen = frozen
        self._schedule_restarts = False
        self._scheduled_lr = lr

    def prepare_network(self) -> None:
        """Lay the network's weights out in memory, whose format convolutions take, and freeze parts of it."""
        if self.channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.net.freeze(*self.frozen)
        learns = any(weight.requires_grad for weight in self.net.parameters())
        require(learns or not self.frozen, "frozen", list(self.frozen), "parts that leave others to learn")

    def setup(self, stage: str) -> None:
        super().setup(stage)
        trainer: Any = self.trainer
        if stage == "fit" and trainer.ckpt_path is None:
            self.net.load_pretrained()
            if self.weights is not None:
                load_weights(self.net, self.hparams.get("net"), self.weights, getattr(self, "class_names", None))
        elif stage == "fit" and any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):
            # Looking for a rate, Lightning would forget how far the training has come.
            trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, LearningRateFinder)]
            rank_zero_info("the training goes on with its learning rate; LearningRateFinder is left out")

    @property
    def lr_factor(self) -> float:
        """What the written learning rates are multiplied by in this run.

        A rate is written for steps of the data's ``batch_size`` samples. With k times as many, an epoch has k times
        fewer steps: ``linear`` takes k times the rate (Goyal et al., "Accurate, large minibatch SGD", 2017), ``sqrt``
        its root, which keeps the noise of the steps (Hoffer et al., "Train longer, generalize better", 2017).

        Raises:
            FaceExprError: the data have no batch size of ours, or the rate is looked for by trial.
        """
        if self.lr_scaling == "none":
            return 1.0
        trainer: Any = self.trainer  # whose datamodule and callbacks Lightning sets at run time
        reason = ""
        if not isinstance(trainer.datamodule, FaceDataModule):
            reason = "the data are no data module of faceexpr; expected none, or data whose batch size is known"
        elif any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):
            reason = "LearningRateFinder finds the rate for the steps as they are; expected none"
        if reason:
            raise FaceExprError(f"lr_scaling is {self.lr_scaling}, but {reason}")
        ratio: float = trainer.datamodule.step_size * trainer.accumulate_grad_batches / trainer.datamodule.batch_size
        return ratio if self.lr_scaling == "linear" else math.sqrt(ratio)

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.build_optimizer()
        if scheduler is None:
            return optimizer
        config = {
            "scheduler": scheduler,
            "interval": self.scheduler_interval,
            "monitor": getattr(scheduler, "monitor", self.monitor),
            # At the end of an epoch this class moves it on, see `on_train_epoch_end`.
            "reduce_on_plateau": isinstance(scheduler, ReduceLROnPlateau) and self.scheduler_interval == "step",
        }
        return {"optimizer": optimizer, "lr_scheduler": config}

    def build_optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return the optimizer and its scheduler, or None, as configured.

        Raises:
            FaceExprError: the scheduler does not fit the length of the training.
        """
        optimizer = self.optimizer(self.parameters())
        self._scheduled_lr = self.lr
        for group in optimizer.param_groups:
            group["lr"] = (group["lr"] if self.lr is None else self.lr) * self.lr_factor
        if self.scheduler is None:
            return optimizer, None
        length = self._total_steps()
        try:
            return optimizer, self._build_scheduler(optimizer, **length)
        except ZeroDivisionError as error:  # torch's OneCycleLR, where a phase would last exactly one step
            raise FaceExprError(
                f"scheduler cannot be laid over {length.get('total_steps', 'so few')} steps; expected a longer "
                "training or another pct_start"
            ) from error

    def _build_scheduler(self, optimizer: torch.optim.Optimizer, **steps: int) -> Any:
        scheduler: Any = self.scheduler
        keywords = getattr(scheduler, "keywords", {})
        factors = dict.fromkeys(PEAKS + FLOORS, self.lr_factor)
        if self.lr is not None and (peak := keywords.get("max_lr")):
            ratio = self.lr / (max(peak) if isinstance(peak, list | tuple) else peak)
            factors |= {name: factors[name] * ratio for name in PEAKS}
        rates = {
            name: [rate * factor for rate in value] if isinstance(value, list | tuple) else value * factor
            for name, factor in factors.items()
            if (value := keywords.get(name))
        }
        return scheduler(optimizer, **steps, **rates)

    def _total_steps(self) -> dict[str, int]:
        """Return the length of the training for a scheduler that needs it and was not told."""
        scheduler_class = callable_class(self.scheduler)
        if scheduler_class is None or "total_steps" not in inspect.signature(scheduler_class).parameters:
            return {}
        given = getattr(self.scheduler, "keywords", {})
        if given.get("total_steps") is not None or given.get("epochs") is not None:
            return {}
        by_epoch = self.scheduler_interval == "epoch"
        if not by_epoch and self.trainer.ckpt_path is not None and self.trainer.train_dataloader is None:
            # Any will do until training starts. To ask now would set up the data, before Lightning knows where in the
            # epoch they go on.
            return {"total_steps": 1_000_000}
        total = float((self.trainer.max_epochs if by_epoch else self.trainer.estimated_stepping_batches) or 1)
        if not 0 < total < math.inf:
            raise FaceExprError(
                f"scheduler is {scheduler_class.__name__}, which has to know how long the training is; expected "
                f"max_epochs{'' if by_epoch else ' or max_steps'} of the trainer, or total_steps of the scheduler"
            )
        return {"total_steps": int(total)}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, ReduceLROnPlateau) and metric is None:
            return
        total = getattr(scheduler, "total_steps", None)
        if total is None or scheduler.last_epoch + 1 < total:
            super().lr_scheduler_step(scheduler, metric)
        elif not self._total_steps() and self.trainer.global_step < self.trainer.estimated_stepping_batches:
            # torch would raise, and the training so far would be lost.
            rank_zero_warn(
                f"{type(scheduler).__name__} ends after {total} steps, before the training does: the learning rate "
                "stays where it is"
            )

    def on_train_epoch_end(self) -> None:
        """Move a ``ReduceLROnPlateau`` on; Lightning would do so after the checkpoints of the epoch are saved."""
        for config in self.trainer.lr_scheduler_configs:
            metric = self.trainer.callback_metrics.get(str(config.monitor))
            plateau = isinstance(config.scheduler, ReduceLROnPlateau) and config.interval == "epoch"
            if plateau and metric is not None:
                super().lr_scheduler_step(config.scheduler, metric)

    # What is restored from a checkpoint, and what the user has changed.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.is_fitting:
            checkpoint[LR_FACTOR] = self.lr_factor

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        held = checkpoint.get("hyper_parameters", {}).get("net")
        weights = checkpoint.get("state_dict", {})
        check_weights("the checkpoint holds", weights, held, self.hparams.get("net"), self.state_dict())
        if not self.is_fitting:
            return
        if "optimizer_states" not in checkpoint:  # as of a model file that has been calibrated
            raise FaceExprError(
                f"{self.trainer.ckpt_path} holds the weights alone, and not how far their training has come; "
                "expected a checkpoint to go on from, or a new training that starts with these weights"
            )
        self._keep_written_options(checkpoint)

    def _keep_written_options(self, checkpoint: dict[str, Any]) -> None:
        """Let changed optimizer and scheduler options survive the restoration of a checkpoint.

        Resuming restores the whole state, learning rate included, so that a changed option would be ignored without a
        word. Where options differ from the checkpoint's, momentum buffers are kept, the options are those that are
        written, and the schedule starts again; another optimizer class starts afresh.
        """
        written, remembered = self.hparams, checkpoint.get("hyper_parameters", {})
        changed = [name for name in TRAINING_OPTIONS if written.get(name) != remembered.get(name)]
        if checkpoint.get(LR_FACTOR, 1.0) != self.lr_factor:
            changed.append("the samples in a step, for which the learning rate is scaled")
        self._schedule_restarts = bool(changed)
        if not changed:
            return
        checkpoint["lr_schedulers"] = []
        # A scheduler keeps its rates in the optimizer's groups, so both are built.
        fresh, _ = self.build_optimizer()
        own, other = ((options.get("optimizer") or {}).get("class_path") for options in (written, remembered))
        if own != other:
            checkpoint["optimizer_states"] = []
        for state in checkpoint["optimizer_states"]:
            for group, new in zip(state["param_groups"], fresh.param_groups, strict=True):
                group.update({name: value for name, value in new.items() if name != "params"})
        rank_zero_info(
            f"the configuration differs from the checkpoint in {', '.join(changed)}: the configuration's values are "
            "used, and the learning-rate schedule starts again"
        )

    def on_train_start(self) -> None:
        self._use_found_rate()
        if self.scheduler is not None and (length := self._total_steps()):
            self._fit_schedule(length["total_steps"])
        optimizer, factor = self.trainer.optimizers[0], self.lr_factor
        group, schedules = optimizer.param_groups[0], [config.scheduler for config in self.trainer.lr_scheduler_configs]
        # A schedule begins, or goes on, below its highest rate.
        rates = [group["lr"], group.get("initial_lr", 0), group.get("max_lr", 0)]
        rates += [getattr(schedule, "max_lrs", [0])[0] for schedule in schedules]
        rank_zero_info(
            f"{type(optimizer).__name__} with {'peak ' if schedules else ''}learning rate {max(rates):g}"
            + "".join(f" ({type(schedule).__name__})" for schedule in schedules)
            + ("" if factor == 1 else f", with rates {factor:g} times those written, {self.lr_scaling} scaling")
        )

    def _use_found_rate(self) -> None:
        """Lay the schedule, which was built before, over the rate that ``LearningRateFinder`` has found since."""
        if self.lr == self._scheduled_lr:
            return
        self._scheduled_lr = self.lr
        optimizer = self.trainer.optimizers[0]
        for group in optimizer.param_groups:
            group["lr"] = self.lr
            group.pop("initial_lr", None)  # of the schedule before
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler = self._build_scheduler(optimizer, **self._total_steps())

    def _fit_schedule(self, total: int) -> None:
        """Let a restored schedule end with the training, whose length may have changed.

        A schedule over the whole training, such as ``OneCycleLR``, comes back from the checkpoint with the length that
        the training had then: other epochs or another batch size would end it too early or never.
        """
        trainer = self.trainer
        config = trainer.lr_scheduler_configs[0]
        scheduler: Any = config.scheduler
        if getattr(scheduler, "total_steps", total) == total:  # the learning-rate finder has a scheduler of its own
            return
        if self._schedule_restarts:
            config.scheduler = self._build_scheduler(trainer.optimizers[0], total_steps=total)
            return
        left = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - trainer.current_epoch
        if config.interval == "step":
            batches, loader = 0, trainer.train_dataloader
            if isinstance(loader, BatchLoader) and loader.state_dict()["epoch"] == trainer.current_epoch:
                batches = loader.state_dict()["batches"]
            every = trainer.accumulate_grad_batches
            left = left * math.ceil(trainer.num_training_batches / every) - batches // every
            if trainer.max_steps > 0:
                left = min(left, trainer.max_steps - trainer.global_step)
        step = max(total - int(left), 0)
        rank_zero_info(
            f"the training is longer or shorter than when the checkpoint was written: "
            f"{type(scheduler).__name__} goes on at step {step} of {total}"
        )
        config.scheduler = self._build_scheduler(trainer.optimizers[0], total_steps=total, last_epoch=step - 1)


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a scalar over all processes.

    Lightning's ``sync_dist`` waits for all processes each time, on the host; this is queued on the device.
    """
    value = value.detach().clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value
