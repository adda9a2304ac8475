"""Build what a checkpoint was trained to, in plain torch: to use a network takes nothing of Lightning."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceexpr.models.base import ExpressionNet
from faceexpr.models.calibrator import Calibration, class_probabilities
from faceexpr.models.detector import DetectionNet
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.labels import FER_NAMES
from faceexpr.weights.checkpoints import class_of, crop_of, net_weights, read_checkpoint

NETS: dict[str, Any] = {
    "faceexpr.tasks.classify.ExpressionClassifier": Callable[[int], ExpressionNet],
    "faceexpr.tasks.detect.FaceDetector": DetectionNet,
}
"""Type of the option ``net`` of the tasks that are their network and nothing more, once it is trained."""


class TrainedClassifier(nn.Module):
    """A network that tells expressions, as an `ExpressionClassifier` was when it was saved.

    Args:
        net: the network.
        class_names: of its outputs, in their order.
        crop: how the faces were made that it was trained on, and all others are; None leaves them as they come.
        mirror: give the mean of the probabilities of each image and of its mirror image.
        calibration: what makes the probabilities mean what they say.
    """

    def __init__(
        self,
        net: ExpressionNet,
        class_names: Sequence[str],
        crop: Crop | None,
        mirror: bool = False,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        scales = len(calibration.scales) if calibration else 0
        require(scales in (0, len(class_names)), "calibration", f"of {scales} classes", f"{len(class_names)}")
        self.net, self.class_names = net, tuple(class_names)
        self.crop = self.net.preprocess.crop = crop
        self.mirror = mirror
        self.calibration = calibration

    def forward(self, image: Tensor) -> Tensor:
        """Return class probabilities, float32 (N, C), of images as an `ExpressionNet` takes them."""
        return class_probabilities(self.net, image, self.mirror, self.calibration or Calibration())[1]


def load_trained(path: Path) -> TrainedClassifier | DetectionNet | None:
    """Return the classifier or the detector of a checkpoint or a model file, on the CPU.

    None where that takes the task itself, which `faceexpr.tasks.base.load_task` builds: it is another one than those of
    `NETS`, or something is wrong with the file, which that says.

    Raises:
        FaceExprError: it is no checkpoint, or does not say what model it holds.
    """
    checkpoint = read_checkpoint(path)
    task, options = class_of(checkpoint, path), checkpoint["hyper_parameters"]
    if task not in NETS or not isinstance(options.get("net"), Mapping):
        return None
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("net", type=NETS[task])
    names = options.get("class_names", FER_NAMES)
    try:
        built = parser.instantiate_classes(parser.parse_object({"net": options["net"]})).net
        net: Any = built if isinstance(built, DetectionNet) else built(len(names))
        net.load_state_dict(net_weights(checkpoint))
        if options.get("channels_last", True):
            net.to(memory_format=torch.channels_last)
        if isinstance(net, DetectionNet):
            return net
        kept = options.get("calibration")
        calibration = Calibration(**kept) if isinstance(kept, Mapping) else None
        return TrainedClassifier(net, names, crop_of(checkpoint), options.get("mirror", False), calibration)
    except (FaceExprError, ArgumentError, ValueError, TypeError, RuntimeError):
        return None
