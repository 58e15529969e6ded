"""Confidence intervals and standard errors of scores, and the share of a teacher's score that a student retains.

Bootstrap intervals are percentiles over resamples of independent units (Efron 1979): texts, sentence pairs, dev rows.
Functions take a random generator. Generators in the same state draw the same units, which makes comparisons paired.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
CHANCE_ERRORS = 3.0  # a score this many standard errors above the majority baseline is above chance
_CHUNK_CELLS = 4 << 20  # limits the arrays of a chunk of resamples to about 100 MB
_MAX_EXPONENT = 700.0
_CORRELATIONS = ("matthews", "pearson", "spearman")

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Interval = tuple[float, float]


def draw_counts(rng: np.random.Generator, multiplicity: Counts, resamples: int) -> Counts:
    """Return how often each unit is drawn with replacement, (resamples, units).

    Args:
        multiplicity: (units,) number of equal units that each represents. Merging equal units is much faster and does
            not change the distribution.
    """
    total = int(multiplicity.sum())
    return rng.multinomial(total, multiplicity / total, size=resamples)


def bootstrap(rows: Array, statistic: Callable[[Array], Array], *, resamples: int, rng: np.random.Generator) -> Array:
    """Return a statistic of the column means of each resample of rows, (resamples,); empty without rows.

    Args:
        rows: (units, columns).
        statistic: maps means (..., columns) to (...); nan where it is undefined.
    """
    if not len(rows):
        return np.empty(0)
    distinct, multiplicity = np.unique(rows, axis=0, return_counts=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return statistic(draw_counts(rng, multiplicity, resamples) @ distinct / len(rows))


def percentile_interval(values: Array, level: float = LEVEL) -> Interval | None:
    """Return the percentiles that enclose the central `level` of the values, or None if no value is finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(share: float, trials: float, level: float = LEVEL) -> Interval:
    """Return the Wilson score interval of a proportion (Wilson 1927), whose width is positive even at 0 and 1."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    center = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return min(share, max(0.0, center - half)), max(share, min(1.0, center + half))


def share_interval(values: Array, share: float, units: int, level: float = LEVEL) -> Interval | None:
    """Return the percentile interval of a share, or the Wilson interval if the share is 0 or 1 in all resamples.

    Args:
        values: (resamples,) the share in each resample.
        units: number of independent units that the share was measured on.
    """
    return wilson_interval(share, units, level) if share in (0.0, 1.0) else percentile_interval(values, level)


def median_of_resampled_seeds(scores: Array, rng: np.random.Generator) -> Array:
    """Return the median over seeds drawn with replacement, (resamples,), of scores (resamples, seeds)."""
    seeds = rng.integers(scores.shape[1], size=scores.shape)
    return np.median(np.take_along_axis(scores, seeds, axis=1), axis=1)


def standard_error(metric: str, value: float, rows: int) -> float:
    """Return the approximate standard error of a metric over independent rows.

    The error is binomial for accuracy, and approximated as such for F1. For a correlation r it is sqrt((1 - r^2) /
    rows), which is exact for Matthews' correlation with balanced classes and an upper bound for normal variables.
    """
    variance = 1 - value**2 if metric in _CORRELATIONS else value * (1 - value)
    return math.sqrt(max(0.0, variance) / rows)


def is_above_chance(score: float, baseline: float, error: float) -> bool:
    """Return whether a score is at least `CHANCE_ERRORS` standard errors above the majority baseline."""
    distance, threshold = score - baseline, CHANCE_ERRORS * error
    return distance > 0 and (distance > threshold or math.isclose(distance, threshold))


def retained_share(student: float, teacher: float, baseline: float = 0.0) -> float:
    """Return the share of the teacher's score above a baseline that the student retains.

    The share is nan if the teacher's score is missing or not above the baseline.
    """
    return (student - baseline) / (teacher - baseline) if teacher > baseline else math.nan


@dataclass(frozen=True)
class Ratio:
    """Definition of a score: the sum of one column divided by the sum of another.

    Attributes:
        exponential: the score is the exponential of that ratio.
        is_share: the score is a share of the units.
    """

    numerator: str
    denominator: str
    exponential: bool = False
    is_share: bool = False


@dataclass(frozen=True)
class ScoreDefinitions:
    """Definitions of scores by name: ratios of sums, and medians of columns."""

    ratios: Mapping[str, Ratio]
    medians: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        return [*self.ratios, *self.medians]


class ClusteredSample:
    """Columns of numbers with one entry per answer, for a bootstrap over texts.

    Whole texts are resampled because answers within a text are dependent: a cluster bootstrap (Cameron, Gelbach and
    Miller 2008).

    Args:
        texts: (answers,) a number that identifies the text of each answer.
        columns: (answers,) each, by name.
    """

    def __init__(self, texts: NDArray[np.integer], columns: Mapping[str, NDArray[np.generic]]) -> None:
        assert len(texts), "at least one answer is needed"
        _, self.text_of = np.unique(texts, return_inverse=True)
        self.texts = int(self.text_of.max()) + 1
        self.columns = {name: np.asarray(column, np.float64) for name, column in columns.items()}

    def estimate(self, scores: ScoreDefinitions) -> dict[str, float]:
        """Return the scores of the sample; nan where the denominator is 0."""
        estimates = next(self._score_draws(scores, iter([np.ones((1, self.texts), np.int64)])))
        return {name: float(values[0]) for name, values in estimates.items()}

    def texts_with(self, column: str) -> int:
        """Return the number of texts with a nonzero sum in a column."""
        return int(np.count_nonzero(np.bincount(self.text_of, self.columns[column], self.texts)))

    def resample(self, scores: ScoreDefinitions, *, resamples: int, rng: np.random.Generator) -> dict[str, Array]:
        """Return each score for each resample, (resamples,), by name."""
        chunk = max(1, _CHUNK_CELLS // max(self.texts, len(self.text_of)))
        sizes = (min(chunk, resamples - start) for start in range(0, resamples, chunk))
        ones = np.ones(self.texts, np.int64)
        chunks = list(self._score_draws(scores, (draw_counts(rng, ones, size) for size in sizes)))
        return {name: np.concatenate([values[name] for values in chunks]) for name in scores.names}

    def _score_draws(self, scores: ScoreDefinitions, draws: Iterator[Counts]) -> Iterator[dict[str, Array]]:
        """Yield the scores of chunks of resamples.

        Args:
            draws: (resamples, texts) each: how often each text was drawn.
        """
        columns = {name for ratio in scores.ratios.values() for name in (ratio.numerator, ratio.denominator)}
        sums = {name: np.bincount(self.text_of, self.columns[name], self.texts) for name in sorted(columns)}
        orders = {column: np.argsort(self.columns[column], kind="stable") for column in scores.medians.values()}
        for times in draws:
            totals: dict[str, Array] = {name: times.astype(np.float64) @ column for name, column in sums.items()}
            values = {name: _ratio(ratio, totals) for name, ratio in scores.ratios.items()}
            for name, column in scores.medians.items():
                order = orders[column]
                values[name] = _medians(self.columns[column][order], times[:, self.text_of[order]])
            yield values


def nan_to_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the values with nan replaced by None, because JSON has no nan."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _ratio(ratio: Ratio, totals: Mapping[str, Array]) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        values = totals[ratio.numerator] / totals[ratio.denominator]
    return np.exp(np.minimum(values, _MAX_EXPONENT)) if ratio.exponential else values


def _medians(values: Array, times: Counts) -> Array:
    """Return the medians of sorted values (answers,), each repeated `times` (resamples, answers)."""
    below = times.cumsum(axis=1)
    total = below[:, -1:]
    lower = (2 * below < total).sum(axis=1)
    upper = (2 * below <= total).sum(axis=1)
    return (values[lower] + values[upper]) / 2
