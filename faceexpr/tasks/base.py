"""What every way of training has in common: hyper-parameters in plain values, and labels matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from faceexpr.utils.labels import index_map
from faceexpr.utils.specs import Described, class_path, describe

TaskType = TypeVar("TaskType", bound="Task")


class Task(Described, LightningModule):
    """A model that is trained; its checkpoint says how to build it again.

    Attributes:
        gives: what its steps return, and with it which evaluation measures it: ``probabilities`` or ``detections``.
        main_metric: the metric by which the best epoch is chosen, where the user names none.
    """

    gives: str
    main_metric: str

    def __init__(self) -> None:
        super().__init__()
        hyper_parameters = {name: describe(value, f"model.{name}") for name, value in self.init_args.items()}
        # With these two, `load_from_checkpoint` builds the nested classes from the path alone.
        hyper_parameters["_class_path"] = class_path(type(self))
        hyper_parameters["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
        self.save_hyperparameters(hyper_parameters, logger=False)

    def on_validation_epoch_start(self) -> None:
        """Let all processes measure the network that is saved.

        Each process keeps its own running statistics of batch normalisation until the next training step, and the
        first process writes the checkpoint. Theirs are therefore made equal to the first's. An average over the
        processes would change the first's too, and training would depend on how often it is interrupted for a
        validation. Lightning calls this after the callbacks, and so after averaged weights have been put in.
        """
        if torch.distributed.is_initialized():
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def __deepcopy__(self: TaskType, memo: dict[int, Any]) -> TaskType:
        """Copy everything but the factories that the task was given.

        Those of the command line hold on to its parser, and through it to the trainer, which would be copied with the
        model by Lightning's averaging of weights, or cannot be copied when it is distributed.
        """
        memo.update({id(value): value for value in self.init_args.values() if isinstance(value, partial)})
        copied: TaskType = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__(deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call, unused-ignore]
        return copied


class ExpressionTask(Task):
    """A classifier of faces with named classes.

    A subclass's steps return ``probabilities`` (B, C) and, for labelled data, ``target`` in the order of its own
    classes; `ClassificationEvaluation` and `PredictionWriter` do the rest.

    Args:
        class_names: names of the classes in index order.
    """

    gives = "probabilities"
    main_metric = "val/accuracy"

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self._label_map: Tensor | None = None

    def setup(self, stage: str) -> None:
        self._label_map = None
        datamodule = getattr(self.trainer, "datamodule", None)
        names = getattr(datamodule, "class_names", None)
        if names is not None and stage != "predict" and tuple(names) != self.class_names:
            # The data's indices mean what the data say; the model's outputs mean what they meant in its training.
            self._label_map = torch.tensor(index_map(names, self.class_names))
            if stage == "fit" and len(names) != len(self.class_names):
                rank_zero_info(f"the data hold {len(names)} of the model's {len(self.class_names)} classes")

    def own_target(self, target: Tensor) -> Tensor:
        """Return the data's labels in the order of this model's classes.

        Args:
            target: int64 (N,) class indices or float (N, K) distributions over the data's classes.
        """
        if self._label_map is None:
            return target
        label_map = self._label_map.to(target.device)
        if target.ndim == 1:
            return label_map[target]
        mapped = target.new_zeros(target.shape[0], len(self.class_names))
        mapped[:, label_map] = target
        return mapped
