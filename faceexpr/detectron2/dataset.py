"""Our records as Detectron2's data: its catalogue's dictionaries, and the mapper that reads their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T  # noqa: N812
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from torch import Tensor

from faceexpr.data.annotations.records import AnnotatedImage
from faceexpr.data.face_boxes import FaceBoxes
from faceexpr.detectron2.options import BoxData
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import read_image

GREY = 128
"""What faces to be ignored are painted over with in training, so that nothing learns that they are no faces."""


def validates(data: BoxData) -> bool:
    """Tell whether there are pictures to validate on."""
    return data.val is not None or data.val_list is not None or data.val_fraction > 0


def read_splits(data: BoxData, *stages: Literal["train", "val", "test"]) -> list[list[AnnotatedImage]]:
    """Return the records of each of the stages; none for ``val`` where nothing validates.

    Raises:
        FaceExprError: a file is missing or not what it should be.
    """
    reader = FaceBoxes(
        train=data.train,
        images=data.images,
        # With validation pictures of its own, which nobody asks for, all others are left for training.
        val=data.val if validates(data) else data.train,
        val_images=data.val_images,
        test=data.test,
        test_images=data.test_images,
        val_list=data.val_list,
        test_list=data.test_list,
        val_fraction=data.val_fraction or 0.5,
        split_seed=data.split_seed,
    )
    return [reader.load_records(stage) if stage != "val" or validates(data) else [] for stage in stages]


def register(name: str, records: Sequence[AnnotatedImage]) -> None:
    """Put records into Detectron2's catalogue, in the place of what has had this name.

    Raises:
        FaceExprError: a box is not finite.
    """
    dicts = [_as_dict(record, index) for index, record in enumerate(records)]
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(thing_classes=["face"])


def _as_dict(record: AnnotatedImage, index: int) -> dict[str, Any]:
    broken = ~np.isfinite(record.boxes).all(axis=1)
    if broken.any():
        # Detectron2 would leave such a box out without a word.
        place = int(broken.argmax())
        raise FaceExprError(
            f"{record.path}: box {place + 1} is {record.boxes[place].tolist()}; expected four finite numbers"
        )
    width, height = record.size
    return {
        "file_name": str(record.path),
        "image_id": index,
        "width": width,
        "height": height,
        "annotations": [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": int(ignored)}
            for box, ignored in zip(record.boxes.tolist(), record.ignored.tolist(), strict=True)
        ],
    }


def as_input(pixels: NDArray[np.uint8], image_format: str) -> NDArray[np.uint8]:
    """Return an RGB picture in the order of channels that the network expects.

    Args:
        pixels: uint8 (H, W, 3), red first.
        image_format: ``BGR``, as in Detectron2's model zoo, or ``RGB``.
    """
    return pixels[:, :, ::-1] if image_format == "BGR" else pixels


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Return a picture (H, W, 3) as a tensor (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class FaceMapper(DatasetMapper):  # type: ignore[misc]  # Detectron2 has no types
    """Detectron2's mapper, with the product's image reader.

    Pictures are upright, whatever their EXIF says, and are read from every format and colour space that the product
    knows. Faces to be ignored are painted over in training.

    Args:
        cfg: of Detectron2.
        is_train: augment, and keep the boxes.
    """

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        super().__init__(cfg, is_train)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        sample = {**dataset_dict, "annotations": [{**face} for face in dataset_dict["annotations"]]}
        try:
            pixels = read_image(sample["file_name"]).pixels
        except FaceExprError as error:
            raise FaceExprError(str(error)) from None  # an error with more arguments would not leave a worker process
        if pixels.shape[:2] != (sample["height"], sample["width"]):
            raise FaceExprError(
                f"{sample['file_name']} has {pixels.shape[1]} x {pixels.shape[0]} pixels and its record "
                f"{sample['width']} x {sample['height']}; expected the size for which the boxes were drawn"
            )
        if self.is_train:
            pixels = _without_ignored(pixels, sample["annotations"])
        augmented = T.AugInput(as_input(pixels, self.image_format))
        transforms = self.augmentations(augmented)
        sample["image"] = as_tensor(augmented.image)
        if self.is_train:
            self._transform_annotations(sample, transforms, augmented.image.shape[:2])
        else:
            del sample["annotations"]
        return sample


def _without_ignored(pixels: NDArray[np.uint8], faces: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    ignored = [face["bbox"] for face in faces if face["iscrowd"]]
    if ignored:
        pixels = pixels.copy()
    for left, top, right, bottom in (map(round, box) for box in ignored):
        pixels[top:bottom, left:right] = GREY
    return pixels
