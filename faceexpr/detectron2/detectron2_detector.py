"""Use a trained Detectron2 network as a detector like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.detectron2.detectron2_options import CONFIG, OPTIONS, WRITTEN, find_weights, require_detectron2
from faceexpr.utils.errors import FaceExprError
from faceexpr.weights.pretrained import read_detectron2_weights


class Detectron2Detector:
    """Faces by a network that ``faceexpr detectron2 fit`` has trained.

    Args:
        source: the run folder (its best checkpoint, or the last where none was measured) or a ``.pth`` file in it.
        suppression: options of `Suppression` that differ from those of the run, such as ``{"min_score": 0.5}``.
        device: ``auto`` (the GPU where there is one), ``cpu``, ``cuda``, ...

    Raises:
        FaceExprError: Detectron2 is not installed, or the checkpoint is not one of such a run.
    """

    def __init__(self, source: str | Path, suppression: Mapping[str, Any] | None = None, device: str = "auto") -> None:
        require_detectron2()
        from detectron2.engine import DefaultPredictor

        from faceexpr.detectron2.detectron2_config import choose_device, read_config

        path, folder = find_weights(Path(source))
        cfg = read_config(folder / CONFIG)
        try:
            of_run = yaml.safe_load((folder / OPTIONS).read_text(encoding="utf-8"))["suppression"]
            self.suppression = Suppression(**{**of_run, **(suppression or {})})
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise FaceExprError(f"{folder / OPTIONS} has no options of a suppression ({error}); {WRITTEN}") from error
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = choose_device(device), ""  # which are loaded below, and all of them
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = self.suppression.min_score
        self.predictor = DefaultPredictor(cfg)
        load_trained(self.predictor.model, path)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find the faces.

        Args:
            images: RGB, uint8 (H, W, 3), of any sizes.

        Returns:
            For each image its faces, in its pixels, on the host.
        """
        # The predictor takes BGR, whatever its network wants.
        return [suppress(*candidates(self.predictor(image[:, :, ::-1])), self.suppression) for image in images]


def candidates(output: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return what a network takes for faces in an image: boxes (N, 4) in its pixels, and scores (N,), on the host."""
    instances = output["instances"]
    return instances.pred_boxes.tensor.float().cpu(), instances.scores.float().cpu()


def load_trained(network: nn.Module, path: Path) -> dict[str, Any]:
    """Load all weights of a trained detector, none of which may be left over, and return what else its file holds."""
    checkpoint = read_detectron2_weights(path)
    try:
        network.load_state_dict(checkpoint.pop("model"))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise FaceExprError(f"{path} does not fit the configuration of its run ({reason}); {WRITTEN}") from error
    return checkpoint
