"""The reference: scikit-learn's brute force, which the paper used."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor


def search(bank: Tensor, queries: Tensor, k: int, p: int) -> tuple[Tensor, Tensor]:
    """Return distances (float64) and indices (int64), both (Q, K), on the device of the bank.

    Which of the rows that tie for the last place is among the K is scikit-learn's choice; the K are then in the order
    of distance and index.
    """
    rows, wanted = bank.double().cpu().numpy(), queries.double().cpu().numpy()
    if not len(wanted):
        return torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.int64)
    finder = NearestNeighbors(n_neighbors=k, algorithm="brute", p=p).fit(rows)
    distances, indices = finder.kneighbors(wanted)
    order = np.lexsort((indices, distances))
    return (
        torch.from_numpy(np.take_along_axis(distances, order, 1)).to(bank.device),
        torch.from_numpy(np.take_along_axis(indices, order, 1)).to(bank.device),
    )
