"""Exact nearest neighbours, one call for every kind of feature, norm and device, and what they say of the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from faceexpr.models.neighbours.features import comparable
from faceexpr.utils.errors import FaceExprError

Norm = Literal[1, 2, 3]
Backend = Literal["auto", "fast", "sklearn"]
Weights = Literal["uniform", "distance"]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The K nearest rows of a bank for each query, ascending by distance and, among equal distances, by index.

    Attributes:
        distances: float64, shape (Q, K).
        indices: int64, shape (Q, K), rows of the bank.
    """

    distances: Tensor
    indices: Tensor


def nearest(bank: Tensor, queries: Tensor, k: int, p: Norm, backend: Backend = "auto") -> Neighbours:
    """Return each query's K nearest rows of the bank; exact, whatever the backend.

    Distances of integers are compared as integers, others as float64. Where several rows are equally far, the lowest
    index wins; scikit-learn's choice among those that tie for the last place is arbitrary. A search that is given
    many queries at once is faster than one for each of its parts: every call goes over the whole bank.

    Args:
        bank: shape (N, D), uint8, other integers, or floating point; on a CUDA device the search runs there.
        queries: shape (Q, D), of any of these types, on the same device.
        k: neighbours of each query, 1 to N.
        p: the norm: the sum of absolute differences, the Euclidean distance, or the cube root of the sum of cubes.
        backend: ``sklearn`` for scikit-learn's brute force in float64, on the CPU; ``fast``, and ``auto``, for ours.

    Raises:
        FaceExprError: an empty bank, more neighbours than it has rows, rows of different lengths, a feature that is
            not finite, or an unknown norm.
    """
    if p not in (1, 2, 3):
        raise FaceExprError(f"the norm p is {p}; expected 1, 2 or 3")
    bank, queries = comparable(bank.detach(), queries.detach())
    if not 1 <= k <= len(bank):
        raise FaceExprError(f"k is {k}; expected 1 to {len(bank)}, the number of rows in the bank")
    if backend == "sklearn":
        from faceexpr.models.neighbours.reference import search
    elif bank.device.type == "cuda":
        from faceexpr.models.neighbours.tensors import search
    else:
        from faceexpr.models.neighbours.processors import search
    distances, indices = search(bank.contiguous(), queries.contiguous(), k, p)
    return Neighbours(distances, indices)


def class_probabilities(neighbours: Neighbours, labels: Tensor, num_classes: int, k: int, weights: Weights) -> Tensor:
    """Return the class probabilities that scikit-learn's ``KNeighborsClassifier.predict_proba`` defines.

    One search with the largest K serves every smaller one.

    Args:
        neighbours: what `nearest` found, with ``k`` neighbours or more.
        labels: classes of the bank's rows, int64, shape (N,).
        num_classes: C.
        k: how many of the neighbours vote.
        weights: ``uniform`` for one vote each; ``distance`` for votes of 1 / distance, where neighbours at distance
            zero, if there are any, have all the weight.

    Returns:
        float64, shape (Q, C), each row with the sum 1, on the neighbours' device.

    Raises:
        FaceExprError: ``k`` is more than were found, or a label is not a class.
    """
    found = neighbours.indices.shape[1]
    if not 1 <= k <= found:
        raise FaceExprError(f"k is {k}; expected 1 to {found}, the number of neighbours that were searched for")
    labels = labels.to(neighbours.indices.device)
    strangers = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(strangers):
        row = int(strangers[0, 0])
        raise FaceExprError(f"label {row} of the bank is {int(labels[row])}; expected 0 to {num_classes - 1}")
    votes = torch.ones_like(neighbours.distances[:, :k])
    if weights == "distance":
        votes = 1 / neighbours.distances[:, :k]
        unbounded = votes.isinf()
        votes = torch.where(unbounded.any(dim=1, keepdim=True), unbounded.to(votes.dtype), votes)
    sums = votes.new_zeros(len(votes), num_classes)
    sums.scatter_add_(1, labels[neighbours.indices[:, :k]], votes)
    return sums / votes.sum(dim=1, keepdim=True)
