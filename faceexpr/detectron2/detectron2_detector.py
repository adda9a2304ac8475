"""Use a trained Detectron2 network as a detector like any other, and read weights without running what is in them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from faceexpr.boxes.detections import Detections
from faceexpr.boxes.suppression import Suppression, suppress
from faceexpr.detectron2.detectron2_options import CONFIG, OPTIONS, find_weights, require_detectron2
from faceexpr.utils.errors import FaceExprError

ARRAYS = {
    ("collections", "OrderedDict"), ("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}  # fmt: skip
"""All that a file of the model zoo consists of."""


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
            raise FaceExprError(
                f"{folder / OPTIONS} does not say how candidates become detections ({error}); expected the options "
                "that faceexpr detectron2 fit has written"
            ) from error
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


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of arrays, and refuses whatever could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def read_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint of Detectron2 (``.pth``) or a file of its zoo (``.pkl``); nothing in it is run.

    Returns:
        ``model``, the tensors by name, and what else the file holds. ``matching_heuristics`` is true where the names
        are those of another library, and ``__author__`` is then ``Caffe2`` where they are Caffe2's.

    Raises:
        FaceExprError: the file cannot be read, or holds more than tensors, arrays and plain values.
    """
    try:
        if path.suffix == ".pkl":
            found = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
            if not ("model" in found and "__author__" in found):  # of Caffe2, as Detectron2 takes it
                arrays = {name: value for name, value in found.get("blobs", found).items() if name[-9:] != "_momentum"}
                found = {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
            return {**found, "model": {name: torch.as_tensor(value) for name, value in found["model"].items()}}
        found = torch.load(path, map_location="cpu", weights_only=True)
        return {**found, "model": {**found["model"]}} if "model" in found else {"model": {**found}}
    except Exception as error:  # torch and pickle raise many types for a file that is not theirs
        raise FaceExprError(
            f"{path} cannot be loaded as weights ({type(error).__name__}): it is damaged, not a checkpoint, or holds "
            "objects that could run code; expected a .pth file of Detectron2 or a .pkl file of its model zoo"
        ) from error


def load_trained(network: nn.Module, path: Path) -> dict[str, Any]:
    """Load all weights of a trained detector, and return what else its checkpoint holds.

    Raises:
        FaceExprError: one is missing, left over, or has another shape.
    """
    checkpoint = read_weights(path)
    try:
        network.load_state_dict(checkpoint.pop("model"))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise FaceExprError(
            f"{path} does not fit the configuration of its run ({str(error).splitlines()[-1].strip()}); expected a "
            "file that faceexpr detectron2 fit has written"
        ) from error
    return checkpoint
