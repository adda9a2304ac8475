"""Images of faces without labels: what `faceexpr predict` reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from faceexpr.data.base import ImageFilesModule, Stage
from faceexpr.data.image_reading import FileNames
from faceexpr.data.loading import FaceSplit
from faceexpr.utils.crop import Crop
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import find_images


class FaceFiles(ImageFilesModule):
    """Image files of faces, in the order given; for predict only.

    A file that cannot be read does not end the run: it becomes a result of its own that says why.

    Args:
        paths: image files, and folders that are searched with their subfolders.
        box: the face in each image, as x0, y0, x1, y1 in pixels of the upright image (as a viewer shows it); by
            default the whole image. It is cut out as ``faceexpr analyze`` cuts out the faces that it finds.
    """

    new_crop = Crop()

    def __init__(self, paths: str | list[str], box: tuple[int, int, int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(augment=None, exclude=None, drop_last=False, global_batch_size=None, **kwargs)
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise FaceExprError(f"box is {list(box)}; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        self.paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not self.paths:
            raise FaceExprError("paths is empty; expected image files or folders")
        self.box = box

    def load_split(self, stage: Stage) -> FaceSplit:
        if stage != "predict":
            raise FaceExprError(
                f"FaceFiles holds images without labels, so there is no {stage} split; expected `faceexpr predict`, "
                "or FaceFolder for images in one folder a class"
            )
        return self.read(FileNames(str(file) for path in self.paths for file in find_images(Path(path))))
