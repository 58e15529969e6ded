"""Means over answers, and their bootstrap intervals where whole texts are drawn.

Answers of one text are not independent, so texts are the units that are drawn with replacement (a cluster bootstrap;
Efron 1979, Cameron, Gelbach and Miller 2008). The intervals are the percentiles.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.runtime.seeding import generator

_USE = 300  # what a seed is used for
_CELLS = 4 << 20  # bounds the arrays of one chunk of resamples to some 100 MB
_HIGHEST_EXPONENT = 700.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A score that is the sum of one column over the sum of another, or the exponential of that."""

    numerator: str
    denominator: str
    exponential: bool = False


@dataclass(frozen=True)
class Scores:
    """What is computed of columns: ratios of sums, and medians of columns, by name."""

    ratios: Mapping[str, Ratio]
    medians: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.ratios, *self.medians]


class Sample:
    """Columns of numbers, one for each answer, and the text of each answer.

    Args:
        texts: (answers,) any number for each text, the same for all its answers.
        columns: by name, (answers,).
    """

    def __init__(self, texts: NDArray[np.integer], columns: Mapping[str, NDArray[np.generic]]) -> None:
        assert len(texts), "no answers, no scores"
        _, self.text_of = np.unique(texts, return_inverse=True)
        self.texts = int(self.text_of.max()) + 1
        self.columns = {name: np.asarray(column, np.float64) for name, column in columns.items()}

    def estimated(self, scores: Scores) -> dict[str, float]:
        """The scores of the sample; nan where there is nothing to divide by."""
        found = next(self._resampled(scores, iter([np.ones((1, self.texts), np.int64)])))
        return {name: float(values[0]) for name, values in found.items()}

    def resampled(self, scores: Scores, *, resamples: int, seed: int) -> dict[str, Floats]:
        """(resamples,) for each score. Samples of the same texts get the same draws, so differences are paired."""
        rng = generator(seed, _USE)
        chunk = max(1, _CELLS // max(self.texts, len(self.text_of)))
        sizes = (min(chunk, resamples - start) for start in range(0, resamples, chunk))
        chunks = list(self._resampled(scores, (_draw(rng, size, self.texts) for size in sizes)))
        return {name: np.concatenate([found[name] for found in chunks]) for name in scores.names}

    def _resampled(self, scores: Scores, draws: Iterator[NDArray[np.int64]]) -> Iterator[dict[str, Floats]]:
        """Scores by how often each text was drawn, (resamples, texts) at a time."""
        needed = {name for ratio in scores.ratios.values() for name in (ratio.numerator, ratio.denominator)}
        sums = {name: np.bincount(self.text_of, self.columns[name], self.texts) for name in sorted(needed)}
        orders = {column: np.argsort(self.columns[column], kind="stable") for column in scores.medians.values()}
        for times in draws:
            totals: dict[str, Floats] = {name: times.astype(np.float64) @ column for name, column in sums.items()}
            found = {name: _ratio(ratio, totals) for name, ratio in scores.ratios.items()}
            for name, column in scores.medians.items():
                order = orders[column]
                found[name] = _medians(self.columns[column][order], times[:, self.text_of[order]])
            yield found


def interval(values: Floats, level: float) -> list[float | None]:
    """The two percentiles that hold the middle `level` of the values; None where no value is a number."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return [None, None]
    bounds: list[float | None] = np.quantile(numbers, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return bounds


def without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values for JSON, which has no nan."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _draw(rng: np.random.Generator, resamples: int, texts: int) -> NDArray[np.int64]:
    """(resamples, texts) how often each text was drawn."""
    drawn = rng.integers(texts, size=(resamples, texts)) + np.arange(resamples)[:, None] * texts
    return np.bincount(drawn.ravel(), minlength=resamples * texts).reshape(resamples, texts)


def _ratio(ratio: Ratio, totals: Mapping[str, Floats]) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        found = totals[ratio.numerator] / totals[ratio.denominator]
    return np.exp(np.minimum(found, _HIGHEST_EXPONENT)) if ratio.exponential else found


def _medians(values: Floats, times: NDArray[np.int64]) -> Floats:
    """The median of ascending values (answers,), each as often as (resamples, answers) says."""
    below = times.cumsum(axis=1)
    total = below[:, -1:]
    lower = (2 * below < total).sum(axis=1)
    upper = (2 * below <= total).sum(axis=1)
    return (values[lower] + values[upper]) / 2
