"""Drawn faces as an expression data set, for a first training without any file."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faceexpr.data.base import ExpressionDataModule, Stage, require_at_least
from faceexpr.data.loading import FaceSplit
from faceexpr.data.synthetic.drawing import STREAMS, draw_face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES


class SyntheticFaces(ExpressionDataModule):
    """Drawn faces with the seven expressions of FER-2013; they need no file and no network.

    Every class is as frequent as the others. An image depends on the seed, its split and its position there alone, so
    that a larger split begins with the images of a smaller one.

    Args:
        train_size: number of training images.
        val_size: number of validation images.
        test_size: number of test images; `predict` uses them too.
        image_size: side of the images in pixels, 16 or more.
        channels: 1 for grey images, 3 for RGB.
        data_seed: seed of the images, 0 or more; the seed of the training does not change them.
    """

    def __init__(
        self,
        train_size: int = 4000,
        val_size: int = 800,
        test_size: int = 800,
        image_size: int = 48,
        channels: Literal[1, 3] = 1,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes: dict[Stage, int] = {"train": train_size, "val": val_size, "test": test_size, "predict": test_size}
        for stage in ("train", "val", "test"):
            require_at_least(1, f"{stage}_size", self.sizes[stage])
        require_at_least(16, "image_size", image_size)
        require_at_least(0, "data_seed", data_seed)
        if channels not in (1, 3):
            raise FaceExprError(f"channels is {channels}; expected 1 (grey) or 3 (RGB)")
        self.image_size = image_size
        self.channels = channels
        self.data_seed = data_seed

    def load_split(self, stage: Stage) -> FaceSplit:
        size = self.sizes[stage]
        targets = torch.arange(size) % len(FER_NAMES)
        images = torch.empty(size, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        for index, target in enumerate(targets.tolist()):
            images[index] = self._draw(FER_NAMES[target], stage, index)
        name = "test" if stage == "predict" else stage
        return FaceSplit(images, targets, sources=[f"synthetic {name} {index}" for index in range(size)])

    def _draw(self, expression: str, stage: Stage, index: int) -> Tensor:
        rng = np.random.default_rng([self.data_seed, STREAMS[stage], index])
        face = draw_face(expression, rng, self.image_size)
        if self.channels == 1:
            return torch.from_numpy(np.array(Image.fromarray(face).convert("L")))[None]
        return torch.from_numpy(face).permute(2, 0, 1)
