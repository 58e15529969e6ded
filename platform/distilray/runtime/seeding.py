"""Random numbers as a pure function of integers, independent of workers, batches and execution order."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

UInt64Array = NDArray[np.uint64]


def hash_integers(seed: int, *parts: NDArray[np.integer] | int) -> UInt64Array:
    """Return 64-bit hashes of (seed, *parts), elementwise with broadcasting.

    Each part is mixed in with a round of the SplitMix64 finalizer (Steele, Lea, Flood 2014), so that adjacent inputs
    have unrelated hashes.
    """
    with np.errstate(over="ignore"):
        state = _finalize(np.asarray(seed % 2**64, dtype=np.uint64) + _GOLDEN)
    return extend_hash(state, *parts)


def extend_hash(hashed: UInt64Array, *parts: NDArray[np.integer] | int) -> UInt64Array:
    """Extend hashes with more parts, as if all parts had been passed to `hash_integers` at once."""
    with np.errstate(over="ignore"):
        for part in parts:
            hashed = _finalize((hashed ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return hashed


def uniform(hashed: UInt64Array) -> NDArray[np.float64]:
    """Convert hashes to numbers in [0, 1)."""
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(seed: int, *parts: int) -> np.random.Generator:
    """Return a numpy generator for (seed, *parts)."""
    # Hash the number of parts too: numpy treats seeds [5] and [5, 0] alike, as it does [5, 7] and [5 + (7 << 32)].
    return np.random.default_rng(int(hash_integers(seed, len(parts), *parts)))


def _finalize(state: UInt64Array) -> UInt64Array:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return np.asarray(state ^ (state >> np.uint64(31)), dtype=np.uint64)
