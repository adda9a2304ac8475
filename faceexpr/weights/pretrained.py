"""Weights that come from elsewhere: torchvision's, Detectron2's, or a local file; nothing in a file is trusted."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from faceexpr.utils.errors import FaceExprError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


ARRAYS = {
    ("collections", "OrderedDict"), ("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}  # fmt: skip
"""All that a pickled file of arrays consists of, such as those of Detectron2's model zoo."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries of arrays, and refuses whatever could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def load_tensors(path: Path, failure: str, expected: str) -> Any:
    """Load what ``torch.save`` has written, or arrays from a ``.pkl`` file, to the CPU; nothing in it is run.

    Args:
        path: of the file.
        failure: how the message begins where it cannot be read.
        expected: which file would do, for the message.

    Raises:
        FaceExprError: it cannot be read, or holds more than tensors, arrays, plain values and containers of these.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".pkl":
            return _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many types for a file that is not theirs
        raise FaceExprError(
            f"{failure} ({type(error).__name__}): it is damaged, something else, or holds objects other than tensors "
            f"and plain values, which are not loaded because they could run any code; expected {expected}"
        ) from error


@contextmanager
def downloading(written: str, library: str, spoken: str) -> Iterator[None]:
    """Say in one sentence why a library's weights of a network cannot be had, or do not fit it.

    ``written`` is what the option ``weights`` says, ``spoken`` the network's name.
    """
    try:
        yield
    # OSError: the network (URLError) or the disk; RuntimeError: what arrived has another checksum, or does not fit.
    except (OSError, RuntimeError) as error:
        failed = "could not download" if written in ("imagenet", "pretrained") else "could not use it as"
        said = " ".join(str(error).split())[:300]
        raise FaceExprError(
            f"weights is {written}, and {library} {failed} the {spoken} weights ({said}); give"
            " a local file instead, or train from scratch with none"
        ) from error


def download_weights(entry: WeightsEnum, written: str, spoken: str) -> dict[str, Tensor]:
    """Return weights that torchvision offers, downloaded once and checked.

    Args:
        entry: torchvision's.
        written: what the option ``weights`` says.
        spoken: the network's name, for the message.

    Raises:
        FaceExprError: they cannot be had.
    """
    with downloading(written, "torchvision", spoken):
        state: dict[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True)
    return state


def read_weights_file(path: Path, choices: str) -> Any:
    """Return what a file of weights holds: tensors, plain values and containers of these.

    Args:
        path: written with ``torch.save``.
        choices: what else the option ``weights`` may say, for the message.

    Raises:
        FaceExprError: there is no such file, or it cannot be loaded with ``weights_only=True``.
    """
    if not path.is_file():
        raise FaceExprError(f"weights: {path} is not a file; expected {choices} or a local file with weights")
    return load_tensors(path, f"weights: {path} cannot be loaded as weights", "a state dict saved with torch.save")


def read_detectron2_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint of Detectron2 (``.pth``) or a file of its zoo (``.pkl``); nothing in it is run.

    Returns:
        ``model``, the tensors by name, and what else the file holds. ``matching_heuristics`` is true where the names
        are those of another library, and ``__author__`` is then ``Caffe2`` where they are Caffe2's.

    Raises:
        FaceExprError: the file cannot be read, or holds more than tensors, arrays and plain values.
    """
    failure, expected = f"{path} cannot be loaded as weights", "a .pth file of Detectron2 or a .pkl file of its zoo"
    found = load_tensors(path, failure, expected)
    try:
        if path.suffix == ".pkl" and not {"model", "__author__"} <= found.keys():  # Detectron2 too takes it as Caffe2's
            arrays = {name: value for name, value in found.get("blobs", found).items() if name[-9:] != "_momentum"}
            found = {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
        found = found if "model" in found else {"model": found}
        return {**found, "model": {name: torch.as_tensor(value) for name, value in found["model"].items()}}
    except (AttributeError, TypeError, RuntimeError) as error:
        raise FaceExprError(f"{failure}: it holds no tensors by name; expected {expected}") from error


def require_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the content of a file as tensors by name.

    Raises:
        FaceExprError: it is something else.
    """
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise FaceExprError(f"weights: {path} is not a state dict; expected tensors by name")
    return dict(content)


def require_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], otherwise: str) -> None:
    """Refuse weights whose names or shapes are not the expected ones.

    Raises:
        FaceExprError: they differ; ``otherwise`` says in the message what the weights then are.
    """
    wrong = [name for name, value in expected.items() if name not in state or state[name].shape != value.shape]
    wrong += sorted(state.keys() - expected.keys())
    if wrong:
        raise FaceExprError(f"weights: {otherwise} ({wrong[0]} is missing, unknown or of another shape)")


def without(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with none of ``prefixes``, and without the counts of batches.

    Nothing reads the counts of batches, and files from before PyTorch 0.4.1 do not have them.
    """
    return {
        name: value
        for name, value in state.items()
        if not name.startswith(prefixes) and not name.endswith("num_batches_tracked")
    }
