"""Bootstrap intervals of statistics that are made of means."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from distilray.runtime.seeding import generator

LEVEL = 0.95
_USE = 301  # what a seed is used for

Array = NDArray[np.float64]


def bootstrap_interval(
    values: Array, statistic: Callable[[Array], Array], *, samples: int, seed: int
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a statistic (Efron 1979), or None where no resample has a value.

    Args:
        values: (units, columns): what was measured on each unit that is drawn, with replacement.
        statistic: of the mean of each column; (..., columns) -> (...). Not a number where it has no value.
        samples: resamples. Equal seeds draw the same units.
    """
    if not len(values):
        return None
    # Equal units are drawn together: so many of each kind as a multinomial draw says, which is the same and far faster.
    kinds, counts = np.unique(values, axis=0, return_counts=True)
    drawn = generator(seed, _USE).multinomial(len(values), counts / len(values), size=samples)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = statistic(drawn @ kinds / len(values))
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
