"""Drawn pictures of several people as a detection data set, for a first training without any file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.data.base import Stage
from faceexpr.data.box_augment import BoxAugmentation
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.utils.errors import FaceExprError

_STREAMS: dict[Stage, int] = {"train": 0, "val": 1, "test": 2, "predict": 2}
"""Each split draws from numbers of its own; what is predicted are the test pictures."""


class SyntheticScenes(DetectionDataModule):
    """Drawn pictures with a box around each face; they need no file and no network.

    A picture depends on the seed, its split, its position there and the options of the drawing alone, so that a larger
    split begins with the pictures of a smaller one. All pictures are drawn at the start and kept in memory.

    Args:
        train_size: number of training pictures.
        val_size: number of validation pictures.
        test_size: number of test pictures; `predict` uses them too.
        width: of the pictures in pixels, 32 or more.
        height: of the pictures in pixels, 32 or more.
        min_faces: the fewest faces in a picture; 0 for pictures without a face among them.
        max_faces: the most faces in a picture; all numbers in between are equally frequent.
        data_seed: seed of the pictures, 0 or more; the seed of the training does not change them.
        batch_size: pictures in a batch of one process.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
        augment: random crops and changes of the training pictures; without it they are taken whole.
        drop_last: leave an incomplete last batch out of each training epoch.
        global_batch_size: pictures in a training step of all processes together; each takes its part. By default
            batch_size times the number of processes.
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
        batch_size: int = 16,
        num_workers: int = 0,
        augment: BoxAugmentation | None = None,
        drop_last: bool = False,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            num_workers,
            augment,
            memory_gib=float("inf"),
            drop_last=drop_last,
            global_batch_size=global_batch_size,
        )
        self.sizes: dict[Stage, int] = {"train": train_size, "val": val_size, "test": test_size, "predict": test_size}
        for option, value, least in (
            ("train_size", train_size, 1),
            ("val_size", val_size, 1),
            ("test_size", test_size, 1),
            ("width", width, 32),
            ("height", height, 32),
            ("min_faces", min_faces, 0),
            ("data_seed", data_seed, 0),
        ):
            if value < least:
                raise FaceExprError(f"data.{option} is {value}; expected {least} or more")
        if max_faces < max(min_faces, 1):
            raise FaceExprError(f"data.max_faces is {max_faces}; expected 1 or more, and no less than data.min_faces")
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
        rng = np.random.default_rng([self.data_seed, _STREAMS[stage], index])
        faces = int(rng.integers(self.min_faces, self.max_faces + 1))
        try:
            pixels, boxes, _ = draw_scene(rng, self.width, self.height, faces)
        except FaceExprError as error:
            raise FaceExprError(f"data.max_faces is {self.max_faces}: {error}") from error
        # Laid out as the network takes it, so that the tensors of the split share this memory.
        self._drawn[path] = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
        return AnnotatedImage(path, (self.width, self.height), boxes, np.zeros(len(boxes), dtype=np.bool_))
