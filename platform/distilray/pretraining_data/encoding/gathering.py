"""Runs of one flat array, put one after the other."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


def gathered(values: NDArray[np.uint16], starts: Int64Array, lengths: Int64Array) -> NDArray[np.uint16]:
    """Runs of `values`, one after the other."""
    ends = np.cumsum(lengths)
    return values[np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)]


def lists(values: NDArray[np.uint16], lengths: Int64Array) -> pa.ListArray:
    """Values as a column of lists."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values)
