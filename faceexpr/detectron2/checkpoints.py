"""Detectron2's checkpoints, written whole and read without running what is in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from faceexpr.utils.errors import FaceExprError

BEST, LAST = "best", "last"

HEAD = ("roi_heads.box_predictor.", "head.cls_score.")
"""Where the number of classes shows; weights of other classes are started anew there."""

ARRAYS = {
    ("collections", "OrderedDict"), ("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}  # fmt: skip
"""All that a file of the model zoo consists of."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of arrays, and refuses whatever could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def read_weights(path: Path) -> dict[str, Any]:
    """Return what a file of weights holds: a checkpoint of Detectron2 (``.pth``) or a file of its zoo (``.pkl``).

    Raises:
        FaceExprError: the file cannot be read, or holds more than tensors, arrays and plain values.
    """
    try:
        if path.suffix == ".pkl":
            found = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many types for a file that is not theirs
        raise FaceExprError(
            f"{path} cannot be loaded as weights ({type(error).__name__}): it is damaged, not a checkpoint, or holds "
            "objects that could run code; expected a .pth file of Detectron2 or a .pkl file of its model zoo"
        ) from error
    if not isinstance(found, dict) or not found:
        raise FaceExprError(f"{path} holds no weights; expected a .pth file of Detectron2 or a .pkl of its model zoo")
    return found


class FaceCheckpointer(DetectionCheckpointer):  # type: ignore[misc]  # Detectron2 has no types
    """Detectron2's checkpointer with two files, ``best.pth`` and ``last.pth``, replaced when the successor is whole.

    Args:
        model: whose weights they are.
        save_dir: folder of the run; the files lie in ``checkpoints`` in it.
        trainer: whose state goes into ``last.pth``.
    """

    def __init__(self, model: nn.Module, save_dir: str | Path = "", trainer: Any = None) -> None:
        folder = str(Path(save_dir) / "checkpoints") if save_dir else ""
        super().__init__(model, folder, **({} if trainer is None else {"trainer": trainer}))

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_to_disk:
            return
        broken = [key for key, value in self.model.state_dict().items() if not value.isfinite().all()]
        if broken:
            raise FaceExprError(
                f"training has diverged: {broken[0]} and {len(broken) - 1} further weights are not finite, and "
                f"{name}.pth is not written; expected a lower base_lr or a longer warm-up"
            )
        state = {} if name == BEST else {key: value.state_dict() for key, value in self.checkpointables.items()}
        target = Path(self.save_dir) / f"{name}.pth"
        temporary = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"model": self.model.state_dict(), **state, **kwargs}, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def has_checkpoint(self) -> bool:
        return Path(self.get_checkpoint_file()).is_file()

    def get_checkpoint_file(self) -> str:
        return str(Path(self.save_dir) / f"{LAST}.pth")

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            loaded: dict[str, Any] = super().load(path, *args, **kwargs)
        except OSError as error:
            raise FaceExprError(
                f"weights: {path} cannot be had ({error}); download it where there is a network and name the file with "
                "--weights FILE, or start from scratch with --weights none"
            ) from error
        return loaded

    def _load_file(self, filename: str) -> dict[str, Any]:
        self._file = filename
        found = read_weights(Path(filename))
        weights: dict[str, Any] = found.get("model", found.get("blobs", found))
        if Path(filename).suffix == ".pkl" and "__author__" not in found:
            # Caffe2's names, as of the ImageNet weights of the zoo.
            weights = {key: value for key, value in weights.items() if not key.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        return found if "model" in found else {"model": weights}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        backbone_only = checkpoint.get("matching_heuristics", False)
        try:
            incompatible = super()._load_model(checkpoint)
        except Exception as error:  # values that are no tensors
            raise FaceExprError(f"{self._file} holds no weights of a detector: {error}") from error
        reshaped = [key for key, *_ in incompatible.incorrect_shapes]
        other = [key for key in reshaped if not key.startswith(HEAD)]
        missing = [
            key
            for key in incompatible.missing_keys
            if key not in reshaped
            and not key.endswith("num_batches_tracked")
            and (not backbone_only or key.startswith("backbone.bottom_up"))
        ]
        if other or missing:
            example = (other or missing)[0]
            raise FaceExprError(
                f"{self._file} does not fit the model: {len(other)} weights have another shape and {len(missing)} are "
                f"missing, such as {example}; expected weights of the same configuration"
            )
        return incompatible


def require_network(checkpoint: dict[str, Any], network: nn.Module, path: Path) -> None:
    """Load all weights of a trained detector.

    Raises:
        FaceExprError: one is missing, left over, or has another shape.
    """
    weights = checkpoint.get("model")
    try:
        network.load_state_dict(weights or {})
    except (RuntimeError, TypeError, AttributeError) as error:
        first = str(error).splitlines()[-1].strip()
        raise FaceExprError(
            f"{path} does not fit the configuration of its run ({first}); expected a file that faceexpr detectron2 fit "
            "has written"
        ) from error
