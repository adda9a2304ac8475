"""What every way of training has in common: hyper-parameters in plain values, labels matched by name, and weights."""

from __future__ import annotations

import io
import math
import pkgutil
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from faceexpr.data.base import ExpressionDataModule
from faceexpr.data.loading import PADDING
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.labels import FER_NAMES, index_map, same_classes
from faceexpr.utils.redirects import redirect
from faceexpr.utils.specs import Described, class_path, describe
from faceexpr.utils.text import kind_of
from faceexpr.weights.checkpoints import class_of, crop_of, find_checkpoint, net_weights, read_checkpoint
from faceexpr.weights.model_file import shipped_models

if TYPE_CHECKING:
    from typing_extensions import Self

TaskType = TypeVar("TaskType", bound="Task")

TRAINING_ONLY = ("loss", "optimizer", "scheduler")
"""Options of tasks that are of no use without a training: where their classes are missing, a model does without."""


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
        hyper_parameters = {name: describe(value, name) for name, value in self.init_args.items()}
        # With these two, `load_from_checkpoint` builds the nested classes from the path alone.
        hyper_parameters["_class_path"] = class_path(type(self))
        hyper_parameters["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
        self.save_hyperparameters(hyper_parameters, logger=False)

    @property
    def is_fitting(self) -> bool:
        """Whether a trainer has this model, and trains it."""
        try:
            return self.trainer.state.fn == TrainerFn.FITTING
        except RuntimeError:  # what Lightning raises outside a Trainer, as in load_from_checkpoint
            return False

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a model, on the CPU unless ``map_location`` names another device.

        ``checkpoint_path`` is a checkpoint, a run folder (its best checkpoint), a model file, the name of a model that
        comes with the package, or an open file. Where there is none, or another model, it is a `FaceExprError`.
        """
        if hasattr(checkpoint_path, "read"):
            return super().load_from_checkpoint(checkpoint_path, map_location, **kwargs)
        path = find_checkpoint(checkpoint_path, Path("lightning_logs"), "checkpoint_path")
        return load_task(path, [cls], cls.__name__, "one", map_location=map_location, **kwargs)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        fits = getattr(data, "suits", self.gives) == self.gives
        wanted = (
            "a classifier, such as FaceFolder" if self.gives == "probabilities" else "a detector, such as FaceBoxes"
        )
        require(fits, "data", type(data).__name__, f"a data module for {wanted}")

    def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Refuse batches of other loaders."""
        fits = isinstance(batch, Mapping) and {"image", "index"} <= batch.keys()
        require(fits, "a batch", kind_of(batch), "those of a data module of faceexpr.data, such as FaceFolder")

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = on_train_batch_start

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

    Attributes:
        crop: how the faces were made that it was trained on, as the data of the training or its checkpoint say; the
            faces of every later use are made so. None before.

    Args:
        class_names: names of the classes in index order; on the command line they come from the data, or from the
            checkpoint where there is one.
    """

    gives = "probabilities"
    main_metric = "val/accuracy"

    def __init__(self, class_names: Sequence[str] = FER_NAMES) -> None:
        require(not isinstance(class_names, str | int), "class_names", repr(class_names), "a list of names")
        super().__init__()
        self.class_names = tuple(class_names)
        self.crop: Crop | None = None
        self._label_map: Tensor | None = None

    def use_crop(self, crop: Crop) -> None:
        """See faces that were made so, and make others so; checkpoints that are saved from now on say it."""
        self.crop = crop

    def _use_crop_of_data(self) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, ExpressionDataModule):
            self.use_crop(datamodule.crop)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.crop is not None:
            checkpoint["crop"] = asdict(self.crop)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.use_crop(crop_of(checkpoint))
        if self.is_fitting:  # where what the options of the data say comes first
            self._use_crop_of_data()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._use_crop_of_data()
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
        return target.new_zeros(len(target), len(self.class_names)).index_copy(1, label_map, target)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return ``probabilities`` (B, C) and, where the batch has them, ``index``, ``source`` and ``note`` of each.

        Those of an image that could not be read are no numbers; its note says why.
        """
        probabilities: Tensor = self(batch["image"])
        told: dict[str, Any] = {name: batch[name] for name in ("index", "source", "note") if name in batch}
        if "source" in told:
            unread = (told["index"] == PADDING).to(probabilities.device)
            probabilities = probabilities.masked_fill(unread[:, None], math.nan)
        return {"probabilities": probabilities, **told}


def find_missing(values: Any) -> str:
    """Return why the first class that plain values name cannot be imported here; empty where all can."""
    if isinstance(values, list | tuple):
        return next(filter(None, map(find_missing, values)), "")
    if not isinstance(values, Mapping):
        return ""
    for name in (values.get("_class_path"), values.get("class_path")):
        try:
            if isinstance(name, str) and not name.isidentifier():
                pkgutil.resolve_name(name)
        except Exception as error:  # a module may raise any
            return f"{name}, which cannot be imported here ({error}); expected its module in this folder or PYTHONPATH"
    return find_missing([*values.values()])


def without_missing(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's options without those of `TRAINING_ONLY` whose classes cannot be imported here."""
    return {name: value for name, value in options.items() if name not in TRAINING_ONLY or not find_missing(value)}


def load_task(path: Path, kinds: Sequence[type[TaskType]], role: str, wanted: str, **kwargs: Any) -> TaskType:
    """Return the model of a checkpoint or a model file, on the CPU.

    Args:
        path: the checkpoint file.
        kinds: the classes that it may hold, or classes derived from them.
        role: what it is loaded as, for the message.
        wanted: what it may hold, for the message.
        kwargs: other options of the model's, and of Lightning's ``load_from_checkpoint``.

    Raises:
        FaceExprError: the file is no checkpoint, it holds another model, a class of its network cannot be imported,
            or its weights do not fit its network.
    """
    checkpoint = read_checkpoint(path)
    name = class_of(checkpoint, path)
    checkpoint["hyper_parameters"] = without_missing(checkpoint["hyper_parameters"])
    # A network within, such as that of KNN's features, is described beside its weights.
    inner = [redirect(value) for name, value in checkpoint["state_dict"].items() if name.endswith("_extra_state")]
    if missing := find_missing([checkpoint["hyper_parameters"], [*map(without_missing, inner)]]):
        raise FaceExprError(f"{path} needs {missing}")
    kind = pkgutil.resolve_name(name)
    if not (isinstance(kind, type) and issubclass(kind, tuple(kinds))):
        held = name.rpartition(".")[2]
        said = path.stem if path in shipped_models().values() else path
        raise FaceExprError(f"{said} cannot be loaded as {role}: it holds {held}; expected the checkpoint of {wanted}")
    # Lightning cannot read a model file, nor class paths of 0.1: it gets what has been read.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    content.seek(0)
    try:
        return cast("type[TaskType]", kind).load_from_checkpoint(content, **kwargs)
    except (FaceExprError, ArgumentError, ValueError, TypeError, RuntimeError) as error:
        raise FaceExprError(
            f"{path} cannot be loaded as {role}: its weights do not fit what it says of its network and its classes; "
            "expected a file as faceexpr fit has written it"
        ) from error


def load_weights(net: nn.Module, described: Any, written: str, class_names: Sequence[str] | None = None) -> None:
    """Give a network the weights of another one of its kind.

    The last layer is taken over where both tell the same classes, in whichever order. Otherwise it stays as it is,
    which is said.

    Args:
        net: the network as configured.
        described: its description, for messages.
        written: a checkpoint, a run folder, a model file or the name of a model that comes with the package.
        class_names: of a classifier, in the order of its outputs.

    Raises:
        FaceExprError: there are no such weights, or they are those of another network.
    """
    checkpoint = read_checkpoint(find_checkpoint(written, Path("lightning_logs"), "weights"))
    hyper_parameters = checkpoint.get("hyper_parameters") or {}
    given = net_weights(checkpoint)
    names = hyper_parameters.get("class_names") or class_names or ()
    last: dict[str, Tensor] = {}
    rows: list[int] | None = None
    if class_names is not None and list(names) != list(class_names):
        last = _last_layer(net, len(class_names))
        if not last:
            raise FaceExprError(
                f"weights is {written}, whose classes are {', '.join(names)}, and these are {', '.join(class_names)}; "
                "expected the same for a network that does not end in a linear layer"
            )
        rows = same_classes(class_names, names)
        if rows is None:
            given |= last
    check_weights(f"weights is {written},", given, hyper_parameters.get("net"), described, net.state_dict())
    if rows is not None:
        given |= {name: given[name][rows] for name in last}
    net.load_state_dict(given)
    rank_zero_info(f"the training starts from the weights of {written}")
    if last and rows is None:
        rank_zero_info(
            f"its classes are others ({', '.join(names)}): the last layer, {' and '.join(last)}, starts from scratch"
        )


def _last_layer(net: nn.Module, outputs: int) -> dict[str, Tensor]:
    """Return the tensors of the linear layer that gives the outputs, by name; none where there is no such layer."""
    linear = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != outputs:
        return {}
    name, module = linear[-1]
    return {f"{name}.{part}": value.detach().clone() for part, value in module.state_dict().items()}


def check_weights(
    subject: str, given: Mapping[str, Tensor], held: Any, described: Any, own: Mapping[str, Tensor]
) -> None:
    """Refuse weights that are not those of this network or model, in one sentence.

    Args:
        subject: what holds them, as the beginning of the message.
        given: the weights.
        held: description of the network that they are of.
        described: description of the network as configured.
        own: the state dict that they are for.

    Raises:
        FaceExprError: names or shapes differ.
    """
    wrong = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    wrong += [name for name in given if name not in own]
    if wrong:
        raise FaceExprError(
            f"{subject} the weights of {_as_call(held)}, but the configuration asks for {_as_call(described)} "
            f"({len(wrong)} tensors are missing, unknown or of another shape, the first is {wrong[0]}); expected "
            "weights of the network that is configured"
        )


def _as_call(net: Any) -> str:
    """Return a network's description as a call of its class."""
    if not isinstance(net, Mapping) or "class_path" not in net:
        return "an unnamed network"
    arguments = ", ".join(f"{name}={value!r}" for name, value in (net.get("init_args") or {}).items())
    return f"{str(net['class_path']).rpartition('.')[2]}({arguments})"
