"""Model files: the weights of one model and all that it takes to use them, as pure data.

A model file is a safetensors file. Its header has one entry of ours, a JSON document that says what the model is, how
its input is made and where it comes from; reading it runs no code, and needs none of this package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceexpr.utils.errors import FaceExprError

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".safetensors"
KEY = "faceexpr"
"""Of our entry in the header: one, since safetensors writes several in an order of its own each time."""

FORMAT = 1
"""Version of the entry; it grows when older readers would misunderstand a file."""

VERSION = re.compile(r"\d+\.\d+(\.\d+)*((a|b|rc|\.?dev|\.?post)\d+)*(\+[\w.]+)?$")
"""As far as Lightning, which asks for it, has had any."""

FOLDER = Path(__file__).parent
"""Of the trained models that come with the package, each a model file."""

DETECTOR, CLASSIFIER = "wider_light", "ferplus_compact_robust"
"""What is used where no other is named: files without their folder and their ending."""

WRITTEN = f"expected a {ENDING} file that faceexpr export has written"

TOLD = ("data", "licence", "command", "seed")
"""What a file says of its origin, in words."""


def is_model_file(path: Path | str) -> bool:
    """Tell by its ending whether a file is a model file."""
    return Path(path).suffix.lower() == ENDING


def shipped_models() -> dict[str, Path]:
    """Return the files of the models that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{ENDING}"))}


def packed(state: Mapping[str, Tensor], halved: Collection[str], header: Mapping[str, Any]) -> bytes:
    """Return the content of a model file.

    Args:
        state: all tensors by name.
        halved: names of those that are kept in half precision.
        header: plain values, to which the version of the format is added.
    """
    from safetensors.torch import save

    tensors = {
        # A copy: safetensors takes neither channels_last nor tensors that share their memory.
        name: (value.half() if name in halved else value).detach().cpu().clone().contiguous()
        for name, value in state.items()
    }
    return save(tensors, {KEY: json.dumps({"format": FORMAT, **header}, ensure_ascii=False)})


def read_model_file(path: Path) -> dict[str, Any]:
    """Return a model file as the checkpoint of a training, with all tensors in single precision.

    Raises:
        FaceExprError: it is no model file, it is damaged, or it is one of a later version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, (file.metadata() or {}).get(KEY))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    # The others: an empty file, one of a network that is gone, and types of numbers that torch does not have.
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise FaceExprError(
            f"{path} cannot be read as a model file ({' '.join(str(error).split())}): it is damaged or something else; "
            f"{WRITTEN}"
        ) from error
    # A copy also of what is in single precision: otherwise it would lie in the mapped file, which may change.
    single = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return {
        "state_dict": {name: value.clone() for name, value in single.items()},
        "hyper_parameters": header["hyper_parameters"],
        "datamodule_hyper_parameters": header["data_hyper_parameters"],
        "pytorch-lightning_version": header["lightning"],
        "crop": header.get("crop"),
        "epoch": 0,
        "global_step": 0,
        "told": {name: header[name] for name in TOLD if name in header},
    }


def _header(path: Path, text: str | None) -> dict[str, Any]:
    try:
        header = json.loads(text or "null")
    except (ValueError, RecursionError):
        header = None
    if isinstance(header, dict) and header.get("format") != FORMAT:
        raise FaceExprError(
            f"{path} is a model file of format {header.get('format')!r}, and this version of faceexpr reads format "
            f"{FORMAT}; expected a file of this version, or a newer faceexpr"
        )
    kinds = {"hyper_parameters": dict, "data_hyper_parameters": dict, "lightning": str}
    described = isinstance(header, dict) and all(isinstance(header.get(name), kind) for name, kind in kinds.items())
    if not described or not VERSION.match(header["lightning"]):
        raise FaceExprError(f"{path} has no header that describes a model; {WRITTEN}")
    return dict(header)
