"""Distillation: a network learns from the probabilities that trained ones give the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from faceexpr.models.calibrator import Calibration, class_probabilities
from faceexpr.models.trained import TrainedClassifier, load_trained
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import canonical
from faceexpr.weights.checkpoints import find_checkpoint


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
        self.networks: list[TrainedClassifier] = []
        self.orders: list[list[int]] = []
        for name in names:
            trained = load_trained(find_checkpoint(name, Path("lightning_logs"), "teachers"))
            if not isinstance(trained, TrainedClassifier):
                raise FaceExprError(f"teachers has {name}; expected trained networks that tell expressions")
            own = trained.class_names
            meant = [canonical(each, own) for each in class_names]
            if {*meant} != {*own}:
                raise FaceExprError(
                    f"teachers has {name}, whose classes are {', '.join(own)}; expected {', '.join(class_names)}"
                )
            self.networks.append(trained.requires_grad_(False).eval())
            self.orders.append([own.index(str(each)) for each in meant])

    def to(self, device: torch.device) -> None:
        """Move the networks to the device that the images are on."""
        for network in self.networks:
            network.to(device)

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> Tensor:
        """Return what they say of images (N, 1 or 3, H, W) on average: float32 (N, C), in the order of the classes."""
        each = [
            class_probabilities(network.net, image, False, Calibration())[1][:, order]
            for network, order in zip(self.networks, self.orders, strict=True)
        ]
        return torch.stack(each).mean(dim=0)
