"""What can be searched: the bank and the queries, checked and brought to one type that holds both without loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from faceexpr.utils.errors import FaceExprError

LARGEST = 1e100
"""Magnitude of a feature above which a sum of cubes could leave the range of float64."""

# Up to here float32 holds every integer, and (for the second) the products that its matrix product sums up.
_EXACT_INTEGERS = 2**24
_EXACT_RANGE = 1e15


def comparable(bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in uint8 where both are, else in float32 where that loses nothing, else in float64.

    Raises:
        FaceExprError: the bank is empty, the shapes do not fit, the devices differ, or a feature is not finite.
    """
    for name, features in (("bank", bank), ("queries", queries)):
        if features.ndim != 2:
            raise FaceExprError(f"the {name} has the shape {tuple(features.shape)}; expected (rows, features)")
    if len(bank) == 0:
        raise FaceExprError("the bank has no rows; expected one or more to search in")
    if bank.shape[1] != queries.shape[1] or bank.shape[1] == 0:
        raise FaceExprError(
            f"the bank has {bank.shape[1]} features a row and the queries have {queries.shape[1]}; expected the same "
            "number, 1 or more"
        )
    if bank.device != queries.device:
        raise FaceExprError(
            f"the bank is on {bank.device} and the queries are on {queries.device}; expected one device"
        )
    if bank.dtype == queries.dtype == torch.uint8:
        return bank, queries
    largest = max(_magnitude(bank, "bank"), _magnitude(queries, "queries"))
    if largest > LARGEST:
        raise FaceExprError(f"a feature has the magnitude {largest:g}; expected {LARGEST:g} at most")
    floats = bank.is_floating_point() or queries.is_floating_point()
    double = bank.dtype == torch.float64 or queries.dtype == torch.float64
    integers = not (bank.is_floating_point() and queries.is_floating_point())
    narrow = not double and largest <= _EXACT_RANGE and (not integers or largest <= _EXACT_INTEGERS)
    if not floats and largest <= 255 and min(_least(bank), _least(queries)) >= 0:
        return bank.to(torch.uint8), queries.to(torch.uint8)
    dtype = torch.float32 if narrow else torch.float64
    return bank.to(dtype), queries.to(dtype)


def _least(features: Tensor) -> float:
    return float(features.min()) if features.numel() else 0.0


def _magnitude(features: Tensor, name: str) -> float:
    """Return the largest magnitude; 0 without rows."""
    if not features.numel():
        return 0.0
    least, most = float(features.min()), float(features.max())  # NaN passes through both
    if not (math.isfinite(least) and math.isfinite(most)):
        row = int((~features.isfinite()).any(dim=1).nonzero()[0, 0])
        raise FaceExprError(f"row {row} of the {name} has a feature that is not finite; expected numbers only")
    return max(-least, most)
