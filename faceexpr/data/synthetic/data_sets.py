"""Drawn faces and drawn images of several people as data sets, for a first training without any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.base import ExpressionDataModule, Stage, require_at_least
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.loading import FaceSplit
from faceexpr.data.synthetic.drawing import STREAMS, draw_face, draw_scene
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
        self.sizes = _split_sizes(train_size, val_size, test_size)
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


class SyntheticScenes(DetectionDataModule):
    """Drawn images with a box around each face; they need no file and no network.

    An image depends on the seed, its split, its position there and the options of the drawing alone, so that a larger
    split begins with the images of a smaller one. All images are drawn at the start and kept in memory.

    Args:
        train_size: number of training images.
        val_size: number of validation images.
        test_size: number of test images; `predict` uses them too.
        width: of the images in pixels, 32 or more.
        height: of the images in pixels, 32 or more.
        min_faces: the fewest faces in an image; 0 for images without a face among them.
        max_faces: the most faces in an image; all numbers in between are equally frequent.
        data_seed: seed of the images, 0 or more; the seed of the training does not change them.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
    """

    def __init__(
        self,
        train_size: int = 400,
        val_size: int = 80,
        test_size: int = 80,
        width: int = 320,
        height: int = 240,
        min_faces: int = 0,
        max_faces: int = 4,
        data_seed: int = 0,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, memory_gib=float("inf"), **kwargs)
        self.sizes = _split_sizes(train_size, val_size, test_size)
        require_at_least(32, "width", width)
        require_at_least(32, "height", height)
        require_at_least(0, "min_faces", min_faces)
        require_at_least(0, "data_seed", data_seed)
        if max_faces < max(min_faces, 1):
            raise FaceExprError(f"max_faces is {max_faces}; expected 1 or more, and no less than min_faces")
        self.width = width
        self.height = height
        self.min_faces = min_faces
        self.max_faces = max_faces
        self.data_seed = data_seed
        self._drawn: dict[Path, NDArray[np.uint8]] = {}

    def load_records(self, stage: Stage) -> list[AnnotatedImage]:
        name = "test" if stage == "predict" else stage
        return [self._draw(stage, index, Path(f"synthetic {name} {index}")) for index in range(self.sizes[stage])]

    def read_pixels(self, record: AnnotatedImage) -> NDArray[np.uint8]:
        return self._drawn[record.path]

    def _draw(self, stage: Stage, index: int, path: Path) -> AnnotatedImage:
        rng = np.random.default_rng([self.data_seed, STREAMS[stage], index])
        faces = int(rng.integers(self.min_faces, self.max_faces + 1))
        try:
            pixels, boxes, _ = draw_scene(rng, self.width, self.height, faces)
        except FaceExprError as error:
            raise FaceExprError(f"max_faces is {self.max_faces}: {error}") from error
        # Laid out as the network takes it, so that the tensors of the split share this memory.
        self._drawn[path] = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
        return AnnotatedImage(path, (self.width, self.height), boxes, np.zeros(len(boxes), dtype=np.bool_))


def _split_sizes(train: int, val: int, test: int) -> dict[Stage, int]:
    sizes: dict[Stage, int] = {"train": train, "val": val, "test": test}
    for stage, size in sizes.items():
        require_at_least(1, f"{stage}_size", size)
    return {**sizes, "predict": test}
