"""Where the weights of a Faster R-CNN come from, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d

from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.pretrained import download_weights, misfit, read_weights_file, require_state_dict, without

CLASSES = 2
"""The background and the face."""

COCO_CLASSES = 91
HEAD = "roi_heads.box_predictor."
BODY = "backbone.body."


def detector_weights(weights: str, backbone: str, detector: nn.Module) -> dict[str, Tensor]:
    """Return weights with the names of torchvision's detector: of the backbone, or of everything.

    Args:
        weights: ``imagenet``, ``coco`` or a local file.
        backbone: torchvision's name of the network below the pyramid.
        detector: torchvision's Faster R-CNN.

    Raises:
        FaceExprError: they cannot be had, or are not this network's.
    """
    state = _published(weights, backbone) if weights in ("imagenet", "coco") else _from_file(Path(weights))
    if any(name.startswith("roi_heads.") for name in state):
        return _whole(state, weights, detector)
    body = {f"{BODY}{name.removeprefix('features.')}": value for name, value in state.items()}
    body = without(body, f"{BODY}fc.", f"{BODY}classifier.")
    expected = {name: value for name, value in _tensors(detector).items() if name.startswith(BODY)}
    _require_fit(body, expected, f"{weights} does not hold the weights of torchvision's {backbone}, or of a detector")
    return body


def _published(weights: str, backbone: str) -> dict[str, Tensor]:
    if weights == "imagenet":
        return download_weights(get_model_weights(backbone).DEFAULT, weights, backbone)
    if backbone != "resnet50":
        raise FaceExprError(
            f"model.net.weights is coco and model.net.backbone is {backbone}: torchvision has a COCO detector with "
            "these levels for resnet50 only; use that backbone, or weights imagenet"
        )
    return download_weights(FasterRCNN_ResNet50_FPN_Weights.DEFAULT, weights, "Faster R-CNN ResNet-50")


def _from_file(path: Path) -> dict[str, Tensor]:
    content: Any = read_weights_file(path, "none, imagenet, coco")
    if not isinstance(content, Mapping) or "state_dict" not in content:
        state = require_state_dict(content, path)
        return {name.removeprefix("detector."): value for name, value in state.items()}
    state = require_state_dict(content["state_dict"], path)
    prefix = "net.detector."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not own:
        raise FaceExprError(
            f"model.net.weights: {path} is a checkpoint of another network; expected one of FasterRCNN, or a state dict"
        )
    return own


def _whole(state: dict[str, Tensor], weights: str, detector: nn.Module) -> dict[str, Tensor]:
    scores = state.get(f"{HEAD}cls_score.weight")
    classes = CLASSES if scores is None else len(scores)
    if classes == COCO_CLASSES:
        state = _with_eps(without(state, HEAD), detector)
    elif classes != CLASSES:
        raise FaceExprError(
            f"model.net.weights: the head in {weights} tells {classes} classes; expected {CLASSES}, the background "
            f"and the face, or COCO's {COCO_CLASSES}, which are replaced"
        )
    else:
        state = without(state)
    replaced = () if classes == CLASSES else (HEAD,)
    expected = without(_tensors(detector), *replaced)
    _require_fit(state, expected, f"{weights} holds a detector that differs in backbone, norm or number of anchors")
    return state


def _with_eps(state: dict[str, Tensor], detector: nn.Module) -> dict[str, Tensor]:
    """Return COCO's weights, which were trained without an epsilon in the normalisation, for layers that have one."""
    eps = {
        f"{name}.running_var": layer.eps
        for name, layer in detector.named_modules()
        if isinstance(layer, FrozenBatchNorm2d | nn.BatchNorm2d)
    }
    return {name: value - eps[name] if name in eps else value for name, value in state.items()}


def _tensors(detector: nn.Module) -> dict[str, Tensor]:
    return without(detector.state_dict())


def _require_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], otherwise: str) -> None:
    wrong = misfit(state, expected)
    if wrong is not None:
        raise FaceExprError(f"model.net.weights: {otherwise} ({wrong} is missing, unknown or of another shape)")
