"""Your pictures with boxes, in any of the formats that `faceexpr.data.annotations` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from faceexpr.data.annotations.reading import read_annotations
from faceexpr.data.annotations.records import AnnotatedImage, ReadOptions
from faceexpr.data.base import Stage
from faceexpr.data.box_augment import BoxAugmentation
from faceexpr.data.box_split import listed, seeded
from faceexpr.data.boxed_images import DetectionDataModule
from faceexpr.data.image_reading import check_image
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DEFAULT_MAX_PIXELS, read_image


class FaceBoxes(DetectionDataModule):
    """Photographs with a box around each face, annotated as Dataturks JSON, WIDER FACE text or COCO JSON.

    The format is told by the content. Where no validation file or list is given, a seeded part of the training
    pictures is set aside for it and announced.

    Args:
        train: annotation file of the training pictures.
        images: folder that their paths start from; by default where the format has them.
        val: annotation file of the validation pictures.
        val_images: folder that their paths start from.
        test: annotation file of the test pictures.
        test_images: folder that their paths start from.
        val_list: text file with the names, as in the annotations, of the pictures of ``train`` to validate on, one a
            line.
        test_list: likewise of those to test on.
        val_fraction: part of the training pictures to validate on where neither ``val`` nor ``val_list`` is given.
        split_seed: which pictures that part consists of; the seed of the training does not change it.
        face_free: train on pictures without a face as well; they are always validated and tested on.
        batch_size: pictures in a batch of one process.
        num_workers: processes that prepare batches, for each process that trains; 0 prepares them in that process. By
            default none where the pictures are in memory, and the CPU cores that training leaves, 16 at most, where
            they are not.
        augment: random crops and changes of the training pictures; without it they are taken whole.
        drop_last: leave an incomplete last batch out of each training epoch.
        global_batch_size: pictures in a training step of all processes together; each takes its part. By default
            batch_size times the number of processes.
        memory_gib: the decoded pictures of a split are kept in memory where they need no more than this. More are
            decoded anew each time they are needed, and only their headers are looked at before training.
        max_pixels: pictures with more pixels are refused.
        reading: which labels are faces, and what becomes of unlabelled and missing pictures and of tiny boxes.
    """

    def __init__(
        self,
        train: str | None = None,
        images: str | None = None,
        val: str | None = None,
        val_images: str | None = None,
        test: str | None = None,
        test_images: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        face_free: bool = True,
        batch_size: int = 16,
        num_workers: int | None = None,
        augment: BoxAugmentation | None = None,
        drop_last: bool = False,
        memory_gib: float = 4.0,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        reading: ReadOptions | None = None,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            batch_size, num_workers, augment, memory_gib, drop_last=drop_last, global_batch_size=global_batch_size
        )
        for option, beside in (("val", val_list), ("test", test_list)):
            if beside is not None and (val if option == "val" else test) is not None:
                raise FaceExprError(f"data.{option} and data.{option}_list are both given; expected one of them")
        if not 0 < val_fraction < 1:
            raise FaceExprError(f"data.val_fraction is {val_fraction}; expected more than 0 and less than 1")
        self.files = {"train": train, "val": val, "test": test}
        self.folders = {"train": images, "val": val_images, "test": test_images}
        self.lists = {"val": val_list, "test": test_list}
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.face_free = face_free
        self.max_pixels = max_pixels
        self.reading = reading
        self.leaves_out_broken = reading is not None and reading.missing != "refuse"
        self._divided: dict[str, list[AnnotatedImage]] = {}

    def load_records(self, stage: Stage) -> list[AnnotatedImage]:
        if stage == "predict":
            raise FaceExprError("FaceBoxes is for training and measuring; faces are found by `faceexpr analyze`")
        if stage != "train" and self.files[stage] is not None:
            return self._file(stage)
        parts = self._parts()
        if stage == "test" and "test" not in parts:
            raise FaceExprError(
                "FaceBoxes: there is no test split; expected data.test, an annotation file, or data.test_list"
            )
        records = parts[stage]
        return records if stage != "train" or self.face_free else [record for record in records if len(record.boxes)]

    def read_pixels(self, record: AnnotatedImage) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = read_image(record.path, max_pixels=self.max_pixels).pixels
        return pixels

    def check(self, record: AnnotatedImage) -> None:
        check_image(str(record.path), self.max_pixels)

    def _parts(self) -> dict[str, list[AnnotatedImage]]:
        """Return the splits that the training file is divided into, which is done once."""
        if self._divided:
            return self._divided
        rest, parts = self._file("train"), {}
        for stage, file in self.lists.items():
            if file is not None:
                parts[stage], rest = listed(rest, Path(file), f"data.{stage}_list")
        if "val" not in parts and self.files["val"] is None:
            parts["val"], rest = seeded(rest, self.val_fraction, self.split_seed)
            rank_zero_info(
                f"FaceBoxes: set aside for validation: {len(parts['val'])} of the training pictures "
                f"(data.val_fraction {self.val_fraction:g}, data.split_seed {self.split_seed})"
            )
        self._divided = {**parts, "train": rest}
        return self._divided

    def _file(self, stage: str) -> list[AnnotatedImage]:
        file, folder = self.files[stage], self.folders[stage]
        if file is None:
            raise FaceExprError(f"FaceBoxes: data.{stage} is not given; expected an annotation file")
        annotations = read_annotations(Path(file), Path(folder) if folder else None, options=self.reading)
        for note in annotations.notes:
            rank_zero_info(note)
        return annotations.images
