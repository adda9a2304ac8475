"""Training and evaluation of a network that gives one expression to each face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from faceexpr.data.loading import PADDING
from faceexpr.models.base import ExpressionNet
from faceexpr.models.calibrator import Calibration, class_probabilities
from faceexpr.models.simple_cnn import SimpleCNN
from faceexpr.models.trained import TrainedClassifier, load_trained
from faceexpr.tasks.base import ExpressionTask
from faceexpr.tasks.optimisation import Optimised, mean_over_processes
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.labels import same_classes
from faceexpr.utils.specs import Described, describe
from faceexpr.utils.text import kind_of
from faceexpr.weights.checkpoints import find_checkpoint


class ExpressionLoss(Described, nn.Module):
    """A loss of logits (N, C) and targets: int64 (N,) class indices or float (N, C) distributions.

    Args:
        class_weights: one weight a class, in the order of the class names.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        holds = weights is None or bool((weights >= 0).all() and weights.any())
        require(holds, "class_weights", list(class_weights or ()), "weights of 0 or more, not all 0")
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss over the batch."""
        raise NotImplementedError


class CrossEntropy(ExpressionLoss):
    """Cross-entropy, with label smoothing, class weights and logit adjustment.

    Args:
        label_smoothing: share of each target that is spread evenly over the classes, 0 to 1.
        prior: share of each class in the training data, whose logarithm is added to the logits in the loss (Menon et
            al., "Long-tail learning via logit adjustment", 2021): the network then learns what the classes look like
            and not how frequent they are, and its probabilities are those of data with as much of each.
    """

    prior: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, prior: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "0 to 1")
        shares = [1.0] if prior is None else [*prior]
        whole = min(shares, default=0) > 0 and abs(sum(shares) - 1) < 0.01
        require(whole, "prior", prior, "a share above 0 for each class, 1 in all")
        self.label_smoothing = label_smoothing
        self.register_buffer("prior", None if prior is None else torch.tensor(prior).log(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.prior is not None:
            logits = logits + self.prior
        return functional.cross_entropy(logits, target, weight=self.class_weights, label_smoothing=self.label_smoothing)


class Focal(ExpressionLoss):
    """Focal loss (Lin et al., "Focal loss for dense object detection", 2017): easy samples weigh less.

    Args:
        gamma: how much less; 0 is cross-entropy.
    """

    def __init__(self, gamma: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(gamma >= 0, "gamma", gamma, "0 or more")
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if target.ndim == 1:
            target = functional.one_hot(target, logits.shape[1]).to(logits.dtype)
        log_probabilities = logits.log_softmax(dim=1)
        if self.class_weights is not None:
            target = target * self.class_weights
        # At 0, where a sample is certain, the gradient of a power below 1 is infinite.
        focus = (1 - log_probabilities.exp()).clamp(min=torch.finfo(logits.dtype).eps).pow(self.gamma)
        total = -(target * focus * log_probabilities).sum()
        # Like cross_entropy, the mean is weighted: by the sum of the weights, not by the number of samples.
        return total / target.sum()


class Teachers:
    """Trained classifiers whose mean probabilities another one learns from.

    Hinton et al., "Distilling the knowledge in a neural network", 2015, at a temperature of 1. The probabilities are
    those of the networks themselves, without calibration and mirror images: what the learning one is to give.

    Args:
        names: a checkpoint, a run folder, a model file or the name of a model that comes with the package, each.
        class_names: of the network that learns; the teachers tell the same classes, in any order.

    Raises:
        FaceExprError: one is not there, is no network that tells expressions, or tells other classes.
    """

    def __init__(self, names: Sequence[str], class_names: Sequence[str]) -> None:
        self.networks: list[tuple[ExpressionNet, list[int]]] = []
        for name in names:
            trained = load_trained(find_checkpoint(name, Path("lightning_logs"), "teachers"))
            if not isinstance(trained, TrainedClassifier):
                raise FaceExprError(f"teachers has {name}; expected trained networks that tell expressions")
            own = trained.class_names
            order = same_classes(class_names, own)
            if order is None:
                raise FaceExprError(
                    f"teachers has {name}, whose classes are {', '.join(own)}; expected {', '.join(class_names)}"
                )
            self.networks.append((trained.net.eval(), order))

    def to(self, device: torch.device) -> None:
        """Move the networks to the device that the images are on."""
        for network, _ in self.networks:
            network.to(device)

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> Tensor:
        """Return what they say of images (N, 1 or 3, H, W) on average: float32 (N, C), in the order of the classes."""
        each = [network(image).float().softmax(dim=1)[:, order] for network, order in self.networks]
        return torch.stack(each).mean(dim=0)


class ExpressionClassifier(Optimised, ExpressionTask):
    """Train a network to tell the expression of a face.

    With several processes, a step learns from the mean loss over the images of all, however unevenly they are spread:
    as a step of one process with all the images would. Two things are a process's own: a loss with class weights is
    divided by the sum of the weights of its own images, and batch normalisation takes the statistics of its own
    images unless the trainer's ``sync_batchnorm`` is on.

    Args:
        net: the network: a class of `faceexpr.models`, or yours derived from ``ExpressionNet``. The number of classes
            is given by the data. In Python an object of such a class will do, which has the number.
        loss: cross-entropy unless another is named.
        mirror: give the mean of the probabilities of each image and of its mirror image, where they are measured or
            used; training does not. It takes twice as long and is a little more often right.
        calibration: what makes the probabilities mean what they say; ``faceexpr validate`` finds it and puts it into a
            checkpoint. A training drops it.
        teachers: trained classifiers of the same classes, whose mean probabilities of the same images training learns
            from beside the labels (distillation): names of models that come with the package, model files,
            checkpoints or run folders. Larger networks, or several.
        teachers_share: of the loss, from 0 to 1, that is the cross-entropy with the teachers' probabilities; the labels
            have the rest.
    """

    def __init__(
        self,
        net: Callable[[int], ExpressionNet] = SimpleCNN,
        loss: ExpressionLoss | None = None,
        mirror: bool = False,
        calibration: Calibration | None = None,
        teachers: Sequence[str] = (),
        teachers_share: float = 0.5,
        **kwargs: Any,
    ) -> None:
        built = net if isinstance(net, ExpressionNet) else None
        if built is not None:  # a checkpoint keeps how one is built
            options = {name: value for name, value in built.init_args.items() if name != "num_classes"}
            self.init_args["net"] = partial(type(built), **options)
        elif isinstance(net, nn.Module) or not callable(net):
            expected = "an ExpressionNet, or a class derived from it, such as SimpleCNN of faceexpr.models"
            raise FaceExprError(f"net is {kind_of(net)}; expected {expected}")
        fits = loss is None or isinstance(loss, ExpressionLoss)
        require(fits, "loss", kind_of(loss), "an ExpressionLoss, such as CrossEntropy() or Focal()")
        require(not isinstance(teachers, str), "teachers", repr(teachers), "a list of trained classifiers")
        require(0 <= teachers_share <= 1, "teachers_share", teachers_share, "0 to 1")
        super().__init__(**kwargs)
        classes = len(self.class_names)
        if built is not None:
            require(built.num_classes == classes, "net", f"of {built.num_classes} classes", f"{classes}, as the names")
        self.net: ExpressionNet = net(classes) if built is None else built
        self.prepare_network()
        self.loss = loss or CrossEntropy()
        self.mirror = mirror
        self.calibrate(calibration)
        self.teachers = tuple(teachers)
        self.teachers_share = teachers_share
        self._taught_by: Teachers | None = None
        size = self.net.preprocess.size
        # Lets Lightning's summary count operations and TensorBoard draw the graph.
        self.example_input_array = torch.zeros(1, 1, size, size, dtype=torch.uint8)
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()
        self.test_loss = MeanMetric()
        for name in ("class_weights", "prior"):
            values = getattr(self.loss, name, None)
            if values is not None:
                self._require_one_a_class(len(values), f"loss.{name}", "values")

    def use_crop(self, crop: Crop) -> None:
        super().use_crop(crop)
        self.net.preprocess.crop = crop

    def _require_one_a_class(self, number: int, name: str, what: str) -> None:
        if number != len(self.class_names):
            classes = ", ".join(self.class_names)
            raise FaceExprError(
                f"{name} has {number} {what}; expected {len(self.class_names)}, one for each of {classes}"
            )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.calibration is not None:
            self.calibrate(None)
            rank_zero_info("the calibration of these weights is dropped, since training changes them")
        if stage == "fit" and self.teachers:
            # No part of the module, whose weights are those that are trained and saved.
            self._taught_by = Teachers(self.teachers, self.class_names)
            rank_zero_info(f"{self.teachers_share:.0%} of the loss is from what {', '.join(self.teachers)} say")

    def on_train_start(self) -> None:
        super().on_train_start()
        if self._taught_by is not None:
            self._taught_by.to(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.is_fitting:
            return
        # It belongs to the weights: a configuration that was saved before these were calibrated has none, and one that
        # was saved with others has theirs.
        stored = checkpoint.get("hyper_parameters", {})
        kept = stored.get("calibration")
        found = Calibration(**kept) if isinstance(kept, dict) else kept
        if self.calibration not in (None, found):
            rank_zero_warn("calibration is not of these weights, and is not used; expected that of the checkpoint")
        if found is not None and stored.get("mirror", False) != self.mirror:
            rank_zero_warn(
                f"mirror is {self.mirror}, but the calibration was found with {not self.mirror}; expected that, "
                "or a new calibration by `faceexpr validate`"
            )
        self.calibrate(found)

    def calibrate(self, calibration: Calibration | None) -> None:
        """Take over a calibration, or none; checkpoints that are saved from now on hold it.

        Raises:
            FaceExprError: it is for another number of classes.
        """
        if calibration is not None and calibration.scales:
            self._require_one_a_class(len(calibration.scales), "calibration", "scales")
        self.calibration = calibration
        if "calibration" in self.hparams:  # which a class derived from this one need not take
            self.hparams["calibration"] = describe(calibration, "calibration")

    @property
    def effective_calibration(self) -> Calibration:
        """The calibration, or one that changes nothing."""
        return self.calibration or Calibration()

    def forward(self, image: Tensor) -> Tensor:
        """Return class probabilities, calibrated where there is a calibration.

        Args:
            image: uint8 in 0 to 255 or floating point in 0 to 1, shape (N, 1 or 3, H, W), any size.

        Returns:
            float32 (N, C); each row sums to 1.
        """
        return class_probabilities(self.net, image, self.mirror, self.effective_calibration)[1]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        target = self.own_target(batch["target"])
        logits: Tensor = self.net(batch["image"]).float()
        taught = None if self._taught_by is None else self._taught_by.probabilities(batch["image"])
        mean = self._mean_loss(logits, target, batch["index"], self.train_loss, taught)
        # The mean of this over all processes is the mean over the step's images.
        loss = mean * batch["share"]
        self.log("train/loss_step", mean_over_processes(loss), on_step=True, on_epoch=False)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return {"loss": loss, "probabilities": logits.detach().softmax(dim=1), "target": target}

    def _mean_loss(
        self, logits: Tensor, target: Tensor, index: Tensor, metric: MeanMetric, taught: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss of the batch without padding, and let the metric count it."""
        rows = (index != PADDING).nonzero().flatten()
        number = len(rows)
        if number < len(index):
            rows = rows.to(logits.device, non_blocking=True)
            logits, target = logits[rows], target[rows]
            taught = None if taught is None else taught[rows]
        # Every process takes part in the step, if only with gradients of 0.
        loss = self.loss(logits, target) if number else logits.sum() * 0
        if taught is not None and number:
            loss = (1 - self.teachers_share) * loss + self.teachers_share * functional.cross_entropy(logits, taught)
        metric.update(loss.detach(), weight=number)
        return loss

    def _evaluate(self, batch: dict[str, Tensor], stage: str, mean_loss: MeanMetric) -> dict[str, Tensor]:
        logits, probabilities = class_probabilities(self.net, batch["image"], self.mirror, self.effective_calibration)
        target = self.own_target(batch["target"])
        # The loss is that of training, which knows neither mirror nor temperature.
        self._mean_loss(logits, target, batch["index"], mean_loss)
        self.log(f"{stage}/loss", mean_loss, prog_bar=stage == "val")
        return {"probabilities": probabilities, "target": target}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val", self.val_loss)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test", self.test_loss)
