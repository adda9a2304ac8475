"""Random numbers that belong to a sample, whichever process, batch or worker it is in."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# The increment and the multipliers of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
# generators", 2014; the multipliers are Stafford's variant 13).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_BITS = 24
"""As many as a float32 between 0.5 and 1 can tell apart, so that no number is rounded up to 1."""


def uniform(index: Tensor, columns: int, key: tuple[int, ...]) -> NDArray[np.float32]:
    """Return random numbers that depend on the key and on each sample's index, and on nothing else.

    A generator gives the n-th number to whoever asks n-th, so that a sample's numbers would depend on the batch that
    it is in. Here they are hashed: the numbers of a sample are those of a SplitMix64 generator whose seed is the hash
    of the key and the index. No state has to be kept.

    Args:
        index: int64 (N,), on the host.
        columns: numbers for each sample.
        key: what else they depend on, such as the seed and the epoch.

    Returns:
        float32 (N, columns), uniform in [0, 1).
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is what is wanted
        state = np.zeros(1, np.uint64)
        for part in key:
            state = _mixed(state + _GOLDEN + np.uint64(part % 2**64))
        state = _mixed(state + _GOLDEN + index.numpy().astype(np.uint64))
        counter = np.arange(1, columns + 1, dtype=np.uint64) * _GOLDEN
        bits = _mixed(state[:, None] + counter)
    return np.asarray((bits >> np.uint64(64 - _BITS)).astype(np.float32) / np.float32(2**_BITS))


def seed_of(*parts: int) -> int:
    """Return a seed of 63 bits that depends on all parts alike; sums of seeds would repeat from epoch to epoch."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's hash of each number."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return np.asarray(x ^ (x >> np.uint64(31)))
