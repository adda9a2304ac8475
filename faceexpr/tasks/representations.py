"""What K nearest neighbours compare: pixels, histograms, or a trained network's features."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from faceexpr.models.base import ExpressionNet
from faceexpr.models.preprocess import LUMA
from faceexpr.tasks.base import net_weights
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import resize
from faceexpr.utils.specs import Described, class_path
from faceexpr.weights.checkpoints import class_of, find_checkpoint, read_checkpoint


class Representation(Described, nn.Module):
    """From face images to vectors of one length."""

    def load_pretrained(self) -> None:
        """Load what the arguments name; called when training starts, not when a checkpoint is loaded."""

    def forward(self, image: Tensor) -> Tensor:
        """Represent images.

        Args:
            image: uint8, shape (N, 1 or 3, H, W), any size.

        Returns:
            uint8 or float32, shape (N, D).
        """
        raise NotImplementedError


class RawPixels(Representation):
    """Grey values as they are: 2,304 numbers for 48 x 48 pixels (the paper's section 6.2.1).

    Args:
        size: side in pixels; images of another size are resized.
    """

    def __init__(self, size: int = 48) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        return _sized(_grey(image), self.size).flatten(1)


class Histogram(Representation):
    """How often each level occurs, wherever in the image (the paper's colour histogram; FER-2013 is grey).

    Args:
        bins: number of bins of equal width from 0 to 255; the paper's is 255.
        channels: 1 counts the brightness; 3 counts red, green and blue, each for itself.
        size: side in pixels; images of another size are resized, so that all have the same number of pixels.
    """

    def __init__(self, bins: int = 255, channels: Literal[1, 3] = 1, size: int = 48) -> None:
        super().__init__()
        if not 1 <= bins <= 256:
            raise FaceExprError(f"bins is {bins}; expected 1 to 256")
        self.bins = bins
        self.channels = channels
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        image = _sized(_grey(image) if self.channels == 1 else image.expand(-1, 3, -1, -1), self.size)
        level = image.flatten(2).long() * self.bins // 256
        counts = torch.zeros(*level.shape[:2], self.bins, dtype=torch.float32, device=level.device)
        return counts.scatter_add_(2, level, torch.ones_like(level, dtype=torch.float32)).flatten(1)


class NetworkFeatures(Representation):
    """What a trained network's last layer gets to see.

    Args:
        checkpoint: a checkpoint that ``faceexpr fit`` has written, its run folder, a model file, or the name of a model
            that comes with the package. Read when training starts; the KNN checkpoint then holds the network itself.
    """

    net: ExpressionNet | None

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.net = None
        self._hyper_parameters: dict[str, Any] = {}

    def load_pretrained(self) -> None:
        path = find_checkpoint(self.checkpoint, Path("lightning_logs"), "checkpoint")
        stored = read_checkpoint(path)
        if class_of(stored, path) != class_path(ExpressionClassifier):
            raise FaceExprError(f"{path} holds no ExpressionClassifier; expected a trained one")
        self._build(stored["hyper_parameters"]).load_state_dict(net_weights(stored))

    def _build(self, hyper_parameters: dict[str, Any]) -> ExpressionNet:
        from lightning.pytorch.cli import instantiate_module

        values = {name: value for name, value in hyper_parameters.items() if not name.startswith("_")}
        self._hyper_parameters = hyper_parameters
        self.net = instantiate_module(ExpressionClassifier, values).net.eval().requires_grad_(False)
        return self.net

    # The network travels in the state dict, and how to build it before its weights are loaded too.
    def get_extra_state(self) -> dict[str, Any]:
        return self._hyper_parameters

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state:
            self._build(state)

    def forward(self, image: Tensor) -> Tensor:
        if self.net is None:
            raise FaceExprError("NetworkFeatures has no network yet; call load_pretrained first")
        self.net.eval()  # the task's train mode must not reach dropout and batch normalisation
        last = [module for module in self.net.modules() if isinstance(module, nn.Linear)][-1]
        seen: list[Tensor] = []
        with last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
            self.net(image)
        return seen[0].float()


def _grey(image: Tensor) -> Tensor:
    """Return uint8 images of one channel; grey images come back as they are."""
    if image.shape[1] == 1:
        return image
    weights = torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1)
    return (image.float() * weights).sum(dim=1, keepdim=True).round().to(torch.uint8)


def _sized(image: Tensor, size: int) -> Tensor:
    """Return uint8 images (N, C, size, size); those of that size come back as they are."""
    if image.shape[-2:] == (size, size):
        return image
    return resize(image.float(), size).round().clamp(0, 255).to(torch.uint8)
