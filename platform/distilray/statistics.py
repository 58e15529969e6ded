"""Confidence intervals and standard errors of scores, and the share of a teacher's score that a student keeps.

Bootstrap intervals are percentiles over resamples of independent units (Efron 1979): texts, sentence pairs, dev rows.
The random generator is an argument. Generators in the same state draw the same units, so differences are paired.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
CHANCE_ERRORS = 3.0  # standard errors above the majority baseline from which a score counts as above chance
_CELLS = 4 << 20  # bounds the arrays of one chunk of resamples to some 100 MB
_HIGHEST_EXPONENT = 700.0
_CORRELATIONS = ("matthews", "pearson", "spearman")

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Interval = tuple[float, float]


def draw_counts(rng: np.random.Generator, multiplicity: Counts, resamples: int) -> Counts:
    """Return how often each unit is drawn with replacement, (resamples, units).

    Args:
        multiplicity: (units,) number of equal units that each stands for. Merging equal units does not change the
            distribution, and is much faster.
    """
    total = int(multiplicity.sum())
    return rng.multinomial(total, multiplicity / total, size=resamples)


def bootstrap(rows: Array, statistic: Callable[[Array], Array], *, resamples: int, rng: np.random.Generator) -> Array:
    """Return a statistic of the column means of each resample of rows, (resamples,); none without rows.

    Args:
        rows: (units, columns).
        statistic: maps means (..., columns) to (...); nan where it has no value.
    """
    if not len(rows):
        return np.empty(0)
    distinct, multiplicity = np.unique(rows, axis=0, return_counts=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return statistic(draw_counts(rng, multiplicity, resamples) @ distinct / len(rows))


def percentile_interval(values: Array, level: float = LEVEL) -> Interval | None:
    """Return the two percentiles around the middle `level` of the values, or None if none is finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(share: float, trials: float, level: float = LEVEL) -> Interval:
    """Return the score interval of a binomial share (Wilson 1927), which has a width at 0 and 1 too."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    center = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return min(share, max(0.0, center - half)), max(share, min(1.0, center + half))


def share_interval(values: Array, share: float, units: int, level: float = LEVEL) -> Interval | None:
    """Return the percentile interval of a share, or Wilson's where the share is 0 or 1 and all resamples agree.

    Args:
        values: (resamples,) the share in each resample.
        units: independent units that the share was measured on.
    """
    return wilson_interval(share, units, level) if share in (0.0, 1.0) else percentile_interval(values, level)


def median_of_resampled_seeds(scores: Array, rng: np.random.Generator) -> Array:
    """Return the median over as many seeds drawn with replacement, (resamples,), of scores (resamples, seeds)."""
    drawn = rng.integers(scores.shape[1], size=scores.shape)
    return np.median(np.take_along_axis(scores, drawn, axis=1), axis=1)


def standard_error(metric: str, value: float, rows: int) -> float:
    """Return the approximate standard error of a metric over independent rows.

    Binomial for an accuracy, and for F1 as if it were one. sqrt((1 - r^2) / rows) for a correlation r, which is exact
    for Matthews' correlation of balanced classes and an upper bound for that of normal variables.
    """
    variance = 1 - value**2 if metric in _CORRELATIONS else value * (1 - value)
    return math.sqrt(max(0.0, variance) / rows)


def is_above_chance(score: float, baseline: float, error: float) -> bool:
    """Return whether a score is at least three of its standard errors above the majority baseline."""
    distance, needed = score - baseline, CHANCE_ERRORS * error
    return distance > 0 and (distance > needed or math.isclose(distance, needed))


def retained_share(student: float, teacher: float, baseline: float = 0.0) -> float:
    """Return the share of the teacher's score above a baseline that the student keeps.

    Returns:
        nan where the teacher is not above the baseline, or has no score.
    """
    return (student - baseline) / (teacher - baseline) if teacher > baseline else math.nan


@dataclass(frozen=True)
class Ratio:
    """A score that is the sum of one column over the sum of another, or the exponential of that.

    Attributes:
        is_share: the score is a share of the units.
    """

    numerator: str
    denominator: str
    exponential: bool = False
    is_share: bool = False


@dataclass(frozen=True)
class ScoreDefinitions:
    """Ratios of sums and medians of columns, by name."""

    ratios: Mapping[str, Ratio]
    medians: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Names of all scores."""
        return [*self.ratios, *self.medians]


class ClusteredSample:
    """Columns of numbers with one entry for each answer. Texts are resampled, since answers of one text are dependent.

    A cluster bootstrap (Cameron, Gelbach and Miller 2008).

    Args:
        texts: (answers,) a number for each text, the same for all its answers.
        columns: by name, (answers,).
    """

    def __init__(self, texts: NDArray[np.integer], columns: Mapping[str, NDArray[np.generic]]) -> None:
        assert len(texts), "no answers, no scores"
        _, self.text_of = np.unique(texts, return_inverse=True)
        self.texts = int(self.text_of.max()) + 1
        self.columns = {name: np.asarray(column, np.float64) for name, column in columns.items()}

    def estimate(self, scores: ScoreDefinitions) -> dict[str, float]:
        """Return the scores of the sample; nan where there is nothing to divide by."""
        estimates = next(self._resampled(scores, iter([np.ones((1, self.texts), np.int64)])))
        return {name: float(values[0]) for name, values in estimates.items()}

    def texts_with(self, column: str) -> int:
        """Return the number of texts that have something in a column."""
        return int(np.count_nonzero(np.bincount(self.text_of, self.columns[column], self.texts)))

    def resample(self, scores: ScoreDefinitions, *, resamples: int, rng: np.random.Generator) -> dict[str, Array]:
        """Return (resamples,) values of each score."""
        chunk = max(1, _CELLS // max(self.texts, len(self.text_of)))
        sizes = (min(chunk, resamples - start) for start in range(0, resamples, chunk))
        once = np.ones(self.texts, np.int64)
        chunks = list(self._resampled(scores, (draw_counts(rng, once, size) for size in sizes)))
        return {name: np.concatenate([values[name] for values in chunks]) for name in scores.names}

    def _resampled(self, scores: ScoreDefinitions, draws: Iterator[Counts]) -> Iterator[dict[str, Array]]:
        """Yield the scores of chunks of resamples, from how often each text was drawn, (resamples, texts)."""
        needed = {name for ratio in scores.ratios.values() for name in (ratio.numerator, ratio.denominator)}
        sums = {name: np.bincount(self.text_of, self.columns[name], self.texts) for name in sorted(needed)}
        orders = {column: np.argsort(self.columns[column], kind="stable") for column in scores.medians.values()}
        for times in draws:
            totals: dict[str, Array] = {name: times.astype(np.float64) @ column for name, column in sums.items()}
            values = {name: _ratio(ratio, totals) for name, ratio in scores.ratios.items()}
            for name, column in scores.medians.items():
                order = orders[column]
                values[name] = _medians(self.columns[column][order], times[:, self.text_of[order]])
            yield values


def without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the values with None in place of nan, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _ratio(ratio: Ratio, totals: Mapping[str, Array]) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        values = totals[ratio.numerator] / totals[ratio.denominator]
    return np.exp(np.minimum(values, _HIGHEST_EXPONENT)) if ratio.exponential else values


def _medians(values: Array, times: Counts) -> Array:
    """Return the medians of ascending values (answers,), each repeated as `times` (resamples, answers) says."""
    below = times.cumsum(axis=1)
    total = below[:, -1:]
    lower = (2 * below < total).sum(axis=1)
    upper = (2 * below <= total).sum(axis=1)
    return (values[lower] + values[upper]) / 2
