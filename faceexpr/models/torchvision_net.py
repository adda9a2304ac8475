"""Every classifier of torchvision, by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torchvision.models
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from faceexpr.models.base import ExpressionNet, require_listed, require_usable_size
from faceexpr.models.preprocess import Preprocess
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.pretrained import download_weights, read_weights_file, require_state_dict

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Classifiers of GoogLeNet and Inception that only their first training needed."""


class TorchvisionNet(ExpressionNet):
    """A classifier of torchvision with a last layer for our classes; RGB, normalised as torchvision does it.

    Args:
        num_classes: number of logits.
        name: torchvision's, such as ``mobilenet_v3_small`` or ``swin_t``.
        weights: start of all but the last layer: ``none`` (from scratch), ``pretrained`` (the best that torchvision
            has, downloaded), or a local file: a state dict with torchvision's names. Loaded when training starts; a
            checkpoint brings its own.
        input_size: side in pixels to which images are resized; by default that of torchvision's weights, mostly 224.
    """

    def __init__(
        self,
        num_classes: int,
        name: str = "mobilenet_v3_small",
        weights: str = "none",
        input_size: int | None = None,
    ) -> None:
        require_listed(name, list_models(module=torchvision.models), "torchvision")
        made = get_model_weights(name).DEFAULT.transforms()
        size = input_size if input_size is not None else made.crop_size[0]
        super().__init__(num_classes, Preprocess(3, size, made.mean, made.std))
        self.name, self.weights = name, weights
        options: dict[str, Any] = {"num_classes": num_classes}
        if name in ("googlenet", "inception_v3"):
            # They were trained on -1 to 1, and turn torchvision's normalisation into that.
            options |= {"aux_logits": False, "transform_input": True, "init_weights": True}
        elif name.startswith("vit_"):
            options["image_size"] = size
        elif name.startswith("maxvit_"):
            options["input_size"] = (size, size)
        try:
            self.backbone = get_model(name, weights=None, **options)
        except (AssertionError, ValueError) as error:
            raise FaceExprError(f"input_size is {size}; expected one that {name} can use ({error})") from error
        if input_size is not None:
            require_usable_size(self.backbone, name, size)

    def load_pretrained(self) -> None:
        if self.weights == "none":
            return
        state: Any
        if self.weights == "pretrained":
            state = download_weights(get_model_weights(self.name).DEFAULT, self.weights, self.name)
        else:
            state = read_weights_file(Path(self.weights), "none, pretrained")
            require_state_dict(state, Path(self.weights))
        layers = [name for name, one in self.backbone.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]
        head = {f"{layers[-1]}.weight", f"{layers[-1]}.bias"}
        # In place, as torch's metadata say how old the names are. DenseNet's are renamed by its loader alone.
        for key in list(state):
            value = state.pop(key)
            if key not in head and not key.startswith(_AUXILIARY):
                state[re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)] = value
        try:
            found = self.backbone.load_state_dict(state, strict=False)
            wrong = [*({*found.missing_keys} - head), *found.unexpected_keys]
            problem = f"{sorted(wrong)[0]} is missing or unknown" if wrong else ""
        except (RuntimeError, ValueError) as error:
            problem = " ".join(str(error).split())[:200]
        if problem:
            raise FaceExprError(
                f"weights: {self.weights} does not hold the weights of torchvision's {self.name} ({problem})"
            )

    def classify(self, image: Tensor) -> Tensor:
        logits: Tensor = self.backbone(image)
        return logits
