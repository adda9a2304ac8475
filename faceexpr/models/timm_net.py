"""Every classifier of timm, by its name (extra ``[timm]``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from faceexpr.models.base import ExpressionNet, require_listed, require_usable_size
from faceexpr.models.preprocess import Preprocess
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.pretrained import downloading, read_weights_file, require_state_dict


class TimmNet(ExpressionNet):
    """A classifier of timm (PyTorch Image Models) with a last layer for our classes; RGB, normalised as timm does it.

    Args:
        num_classes: number of logits.
        name: timm's, such as ``mobilenetv3_small_100`` or ``vit_tiny_patch16_224``, with or without the name of weights
            after a dot.
        weights: start of all but the last layer: ``none`` (from scratch), ``pretrained`` (those that timm has for the
            name, downloaded), or a local file: a state dict with timm's names and number of classes. Loaded when
            training starts; a checkpoint brings its own.
        input_size: side in pixels to which images are resized; by default that of timm's weights, mostly 224.
    """

    def __init__(
        self,
        num_classes: int,
        name: str = "mobilenetv3_small_100",
        weights: str = "none",
        input_size: int | None = None,
    ) -> None:
        try:
            import timm
            from timm.data import resolve_model_data_config
        except ImportError as error:
            raise FaceExprError(
                "TimmNet needs timm, which is not installed; expected: pip install 'faceexpr[timm]'"
            ) from error
        require_listed(name, [*timm.list_models(), *timm.list_pretrained()], "timm")
        options: dict[str, Any] = {"num_classes": num_classes}
        backbone = timm.create_model(name, **options)
        made = resolve_model_data_config(backbone)
        size = made["input_size"][-1] if input_size is None else input_size
        if size != made["input_size"][-1] and backbone.pretrained_cfg.get("fixed_input_size"):
            options["img_size"] = size
            try:
                backbone = timm.create_model(name, **options)
            except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
                raise FaceExprError(f"input_size is {size}; expected one that {name} can use ({error})") from error
        super().__init__(num_classes, Preprocess(3, size, made["mean"], made["std"]))
        self.name, self.weights, self.options = name, weights, options
        self.backbone = backbone
        if input_size is not None:
            require_usable_size(backbone, name, size)

    def load_pretrained(self) -> None:
        if self.weights == "none":
            return
        import timm

        overlay: dict[str, Any] = {}
        if self.weights != "pretrained":
            path = Path(self.weights)
            overlay["state_dict"] = require_state_dict(read_weights_file(path, "none, pretrained"), path)
        # With all classes of the weights, as timm lets pass whatever is missing where it leaves out the last layer.
        options = {name: value for name, value in self.options.items() if name != "num_classes"}
        with downloading(self.weights, "timm", self.name):
            made = timm.create_model(self.name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        own, theirs = self.backbone.state_dict(), made.state_dict()
        kept = {name: value for name, value in theirs.items() if name in own and value.shape == own[name].shape}
        self.backbone.load_state_dict(kept, strict=False)

    def classify(self, image: Tensor) -> Tensor:
        logits: Tensor = self.backbone(image)
        return logits
