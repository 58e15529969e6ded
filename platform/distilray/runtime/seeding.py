"""Randomness as a pure function of integers, the same for every worker, batch and order of work."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

UInt64Array = NDArray[np.uint64]


def hash_integers(seed: int, *parts: NDArray[np.integer] | int) -> UInt64Array:
    """Well-mixed 64-bit values of (seed, parts), elementwise with broadcasting.

    Each part goes through a round of the SplitMix64 finaliser (Steele, Lea, Flood 2014), so that neighbouring inputs
    give unrelated outputs.
    """
    with np.errstate(over="ignore"):
        state = _finalise(np.asarray(seed % 2**64, dtype=np.uint64) + _GOLDEN)
    return extend_hash(state, *parts)


def extend_hash(hashed: UInt64Array, *parts: NDArray[np.integer] | int) -> UInt64Array:
    """`hash_integers` of what `hashed` was made from and more parts."""
    with np.errstate(over="ignore"):
        for part in parts:
            hashed = _finalise((hashed ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return hashed


def uniform(hashed: UInt64Array) -> NDArray[np.float64]:
    """Hashed values as numbers in [0, 1)."""
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(seed: int, *parts: int) -> np.random.Generator:
    """A numpy generator for (seed, parts)."""
    # Hashed with their number: numpy itself makes the same generator of [5], [5, 0] and of [5, 7], [5 + (7 << 32)].
    return np.random.default_rng(int(hash_integers(seed, len(parts), *parts)))


def _finalise(state: UInt64Array) -> UInt64Array:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return np.asarray(state ^ (state >> np.uint64(31)), dtype=np.uint64)
