"""Drawn images of several people as a detection data set, for a first training without any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceexpr.data.annotations.reading import AnnotatedImage
from faceexpr.data.base import Stage, require_at_least
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.synthetic.drawing import STREAMS, draw_scene
from faceexpr.utils.errors import FaceExprError


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
        self.sizes: dict[Stage, int] = {"train": train_size, "val": val_size, "test": test_size, "predict": test_size}
        for stage in ("train", "val", "test"):
            require_at_least(1, f"{stage}_size", self.sizes[stage])
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
