"""Losses that take class indices as well as class distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.specs import Described


class ExpressionLoss(Described, nn.Module):
    """A loss of logits (N, C) and targets: int64 (N,) class indices or float (N, C) distributions.

    Args:
        class_weights: one weight a class, in the order of the class names.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if class_weights is None:
            weights = None
        elif any(value < 0 for value in class_weights) or not any(class_weights):
            raise FaceExprError(f"class_weights is {list(class_weights)}; expected weights of 0 or more, not all 0")
        else:
            weights = torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss over the batch."""
        raise NotImplementedError


class CrossEntropy(ExpressionLoss):
    """Cross-entropy, with label smoothing and class weights.

    Args:
        label_smoothing: share of each target that is spread evenly over the classes, 0 to 1.
        class_weights: one weight a class, in the order of the class names.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(class_weights)
        if not 0 <= label_smoothing < 1:
            raise FaceExprError(f"label_smoothing is {label_smoothing}; expected 0 to 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(logits, target, weight=self.class_weights, label_smoothing=self.label_smoothing)


class Focal(ExpressionLoss):
    """Focal loss (Lin et al., "Focal loss for dense object detection", 2017): easy samples weigh less.

    Args:
        gamma: how much less; 0 is cross-entropy.
        class_weights: one weight a class, in the order of the class names.
    """

    def __init__(self, gamma: float = 2.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(class_weights)
        if gamma < 0:
            raise FaceExprError(f"gamma is {gamma}; expected 0 or more")
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
