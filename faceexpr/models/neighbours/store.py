"""Keep neighbours that were found, so that several K need one search."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from faceexpr.models.neighbours.search import Neighbours, nearest
from faceexpr.utils.files import write_file

FOUND = 16
"""How many neighbours are looked for at least, so that a run with a larger K finds them here."""


class NeighbourStore:
    """A folder of neighbours by bank, queries and norm.

    Args:
        folder: made when it is needed; may be removed at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bank: tuple[int, str] | None = None

    def nearest(
        self, bank: Tensor, queries: Tensor, k: int, p: Literal[1, 2, 3], backend: Literal["auto", "fast", "sklearn"]
    ) -> Neighbours:
        """Return what `nearest` returns, or more neighbours than k, from the folder where they are known."""
        key = hashlib.sha256(f"{self._bank_key(bank)} {_digest(queries)} {p} {backend}".encode()).hexdigest()
        path = self.folder / f"{key}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as known:
                if known["indices"].shape[1] >= k:
                    return Neighbours(
                        torch.from_numpy(known["distances"]).to(bank.device),
                        torch.from_numpy(known["indices"]).to(bank.device),
                    )
        found = nearest(bank, queries, max(k, min(FOUND, len(bank))), p, backend)
        archive = io.BytesIO()
        np.savez(archive, distances=found.distances.cpu().numpy(), indices=found.indices.cpu().numpy())
        write_file(path, archive.getvalue())
        return found

    def _bank_key(self, bank: Tensor) -> str:
        # The bank stays the same for a whole pass, and reading it takes longer than a batch of queries.
        if self._bank is None or self._bank[0] != id(bank):
            self._bank = (id(bank), _digest(bank))
        return self._bank[1]


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(values.tobytes() + f"{values.dtype} {values.shape}".encode()).hexdigest()
