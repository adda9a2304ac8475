"""A trained Detectron2 network as a detector like any other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.detectron2.installed import require_detectron2
from faceexpr.detectron2.runs import CONFIG, checkpoint_file, run_folder_of
from faceexpr.utils.errors import FaceExprError


class Detectron2Detector:
    """Faces by a network that ``faceexpr detectron2 fit`` has trained.

    Args:
        source: the run folder (its best checkpoint, or the last where none was measured) or a ``.pth`` file in it.
        suppression: how candidates become detections; by default as in the run.
        device: ``auto`` (the GPU where there is one), ``cpu``, ``cuda``, ...
        batch_size: neighbouring pictures of one size that go through the network at once.

    Raises:
        FaceExprError: Detectron2 is not installed, or the checkpoint is not one of such a run.
    """

    def __init__(
        self,
        source: str | Path,
        suppression: Suppression | None = None,
        device: str = "auto",
        batch_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise FaceExprError(f"batch_size is {batch_size}; expected 1 or more")
        require_detectron2()
        from detectron2.data import transforms as T  # noqa: N812
        from detectron2.modeling import build_model

        from faceexpr.detectron2.checkpoints import read_weights, require_network
        from faceexpr.detectron2.config import device as chosen
        from faceexpr.detectron2.config import read_config
        from faceexpr.detectron2.runs import read_suppression

        path = checkpoint_file(Path(source))
        folder = run_folder_of(path)
        cfg = read_config(folder / CONFIG)
        self.suppression = suppression or read_suppression(folder)
        cfg.MODEL.DEVICE = chosen(device)
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = self.suppression.min_score
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = self.suppression.min_score
        self.network = build_model(cfg).eval()
        require_network(read_weights(path), self.network, path)
        self.batch_size = batch_size
        self._format = cfg.INPUT.FORMAT
        self._resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find the faces.

        Args:
            images: RGB, uint8 (H, W, 3), of any sizes.

        Returns:
            For each image its faces, in its pixels, on the host.
        """
        from faceexpr.detectron2.dataset import as_input, as_tensor
        from faceexpr.detectron2.measuring import candidates

        inputs = []
        for image in images:
            pixels = as_input(image, self._format)
            resized = self._resize.get_transform(pixels).apply_image(pixels)
            inputs.append({"image": as_tensor(resized), "height": image.shape[0], "width": image.shape[1]})
        found: list[Detections] = []
        # Pictures of other sizes are padded in a batch, and what is found would depend on what stands beside them.
        for _, alike in groupby(inputs, key=lambda given: given["image"].shape):
            same = list(alike)
            for start in range(0, len(same), self.batch_size):
                outputs = self.network(same[start : start + self.batch_size])
                found += [suppress(*candidates(output["instances"]), self.suppression) for output in outputs]
        return found
