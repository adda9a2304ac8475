"""Images of an evaluation split that are also in the training split."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from faceexpr.data.loading import FaceSplit


def leaked(split: FaceSplit, training: FaceSplit) -> npt.NDArray[np.bool_]:
    """Tell which images of a split are pixel-equal to a training image.

    Args:
        split: N images to be measured on.
        training: to be trained on; images of the same size and channels.

    Returns:
        bool (N,).
    """
    known = {image.tobytes() for image in training.tensor.numpy()}
    return np.fromiter((image.tobytes() in known for image in split.tensor.numpy()), dtype=np.bool_, count=len(split))


def without_leaks(split: FaceSplit, training: FaceSplit) -> FaceSplit:
    """Return a split without the images that are pixel-equal to a training image.

    Args:
        split: to be measured on.
        training: to be trained on; images of the same size and channels.
    """
    kept = np.flatnonzero(~leaked(split, training)).tolist()
    rows = torch.tensor(kept, dtype=torch.int64)
    return dataclasses.replace(
        split,
        images=split.images[rows],
        targets=None if split.targets is None else split.targets[rows],
        sources=[split.sources[index] for index in kept],
        notes={new: split.notes[old] for new, old in enumerate(kept) if old in split.notes},
    )
