"""How far predicted probabilities are from what people voted: for targets that are distributions over the classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

DISTANCES: dict[str, str] = {
    "kl": "Kullback-Leibler, votes to prediction, nats",
    "js": "Jensen-Shannon, bits",
    "total_variation": "total variation",
}
"""Each distance and its name in print; all are 0 where prediction and votes are the same."""

_RESOLUTION = float(np.finfo(np.float32).eps)


def distances(probabilities: NDArray[np.float32], targets: NDArray[np.float32]) -> dict[str, float]:
    """Return the mean over the samples of each distance between votes and prediction.

    - ``kl``: Kullback-Leibler divergence of the prediction from the votes, in nats: what the cross-entropy (``nll``)
      has beyond the entropy of the votes, which no prediction can avoid. A probability of 0 counts as float32's
      resolution, as in ``nll``, and what that takes below 0 as 0.
    - ``js``: Jensen-Shannon divergence (Lin, "Divergence measures based on the Shannon entropy", 1991), in bits: 0
      to 1, the same from either side.
    - ``total_variation``: half the sum of the differences: the share of votes that would have to be moved, 0 to 1.

    Args:
        probabilities: (N, C), N >= 1; rows sum to 1.
        targets: shares of the votes, (N, C); rows sum to 1.
    """
    predicted, votes = probabilities.astype(np.float64).clip(0, 1), targets.astype(np.float64)
    middle = (predicted + votes) / 2
    jensen = (_divergence(votes, middle) + _divergence(predicted, middle)) / (2 * np.log(2))
    kullback = _divergence(votes, predicted.clip(_RESOLUTION, 1 - _RESOLUTION))
    return {
        "kl": float(kullback.clip(min=0).mean()),
        "js": float(jensen.clip(0, 1).mean()),
        "total_variation": float(np.abs(predicted - votes).sum(1).mean() / 2),
    }


def _divergence(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of each row, in nats; classes without a share in ``first`` add nothing."""
    from scipy.special import rel_entr  # half a second to import

    total: NDArray[np.float64] = rel_entr(first, second).sum(1)
    return total


def distance_lines(values: Mapping[str, float]) -> list[str]:
    """Return the distances for the console; nothing where the targets were single classes."""
    if not DISTANCES.keys() <= values.keys():
        return []
    return [
        "  mean distance to the votes:",
        *(f"    {label:<44} {values[name]:7.4f}" for name, label in DISTANCES.items()),
    ]
