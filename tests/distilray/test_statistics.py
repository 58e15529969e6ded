import math

import numpy as np
import pytest
from scipy import stats

from distilray.statistics import (
    ClusteredSample,
    Ratio,
    ScoreDefinitions,
    bootstrap,
    is_above_chance,
    median_of_resampled_seeds,
    nan_to_none,
    percentile_interval,
    retained_share,
    share_interval,
    standard_error,
    wilson_interval,
)

SCORES = ScoreDefinitions(
    {"mean": Ratio("value", "one"), "geometric": Ratio("log", "one", exponential=True)}, {"median": "value"}
)


def sample_of(texts, values):
    values = np.asarray(values, float)
    return ClusteredSample(np.asarray(texts), {"value": values, "one": np.ones(len(values)), "log": np.log(values)})


def drawn(sample, resamples=400, seed=3):
    return sample.resample(SCORES, resamples=resamples, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11, 41])
def test_the_estimate_is_that_of_numpy(count):
    values = np.random.default_rng(count).integers(1, 50, count)
    estimate = sample_of(np.arange(count) // 3, values).estimate(SCORES)
    assert estimate["mean"] == pytest.approx(values.mean())
    assert estimate["median"] == np.median(values)
    assert estimate["geometric"] == pytest.approx(math.exp(np.log(values).mean()))


def test_the_texts_with_an_answer_in_a_column_are_counted():
    assert ClusteredSample(np.array([7, 7, 9, 3]), {"hits": np.array([1, 0, 0, 2])}).texts_with("hits") == 2


def test_a_resample_consists_of_whole_texts():
    # Two texts, three answers: the mean is that of 10s, that of 1s, or one of both texts.
    means = drawn(sample_of([7, 7, 9], [1.0, 1.0, 10.0]))["mean"]
    assert set(np.round(means, 9)) == {1.0, 10.0, 4.0}
    assert np.mean(means == 4.0) == pytest.approx(0.5, abs=0.1)


def test_resampled_scores_are_those_of_the_drawn_answers():
    rng = np.random.default_rng(5)
    values, texts = rng.integers(1, 100, 30).astype(float), rng.integers(0, 8, 30)
    sample = sample_of(texts, values)
    answers = [values[sample.text_of == text] for text in range(sample.texts)]
    picked = [
        np.concatenate([answers[text] for text in rng.integers(sample.texts, size=sample.texts)]) for _ in range(2000)
    ]
    scores = drawn(sample, resamples=4000)
    for name, statistic in (("mean", np.mean), ("median", np.median)):
        expected = np.quantile([statistic(each) for each in picked], [0.025, 0.5, 0.975])
        assert np.quantile(scores[name], [0.025, 0.5, 0.975]) == pytest.approx(expected, abs=3.0)


def test_the_interval_of_independent_texts_is_about_that_of_the_normal_distribution():
    hits = (np.random.default_rng(2).random(2000) < 0.3) + 1e-9
    low, high = percentile_interval(drawn(sample_of(np.arange(2000), hits), resamples=800)["mean"], 0.95)
    half = 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    assert (low, high) == pytest.approx((hits.mean() - half, hits.mean() + half), abs=0.2 * half)


def test_answers_of_one_text_make_the_interval_wider_than_independent_ones():
    hits = np.repeat(np.random.default_rng(2).random(100) < 0.3, 20) + 1e-9
    of_texts, independent = (
        np.ptp(percentile_interval(drawn(sample_of(texts, hits))["mean"]))
        for texts in (np.arange(2000) // 20, np.arange(2000))
    )
    assert of_texts > 3 * independent


def test_equal_seeds_draw_the_same_texts_and_other_seeds_others(monkeypatch):
    texts, values = np.arange(40) // 2, np.random.default_rng(4).random(40) + 1
    means = drawn(sample_of(texts, values))["mean"]
    assert drawn(sample_of(texts, values + 0.25))["mean"] - means == pytest.approx(np.full(400, 0.25))
    assert (drawn(sample_of(texts, values), seed=4)["mean"] != means).any()
    monkeypatch.setattr("distilray.statistics._CHUNK_CELLS", 40 * 7)
    in_chunks = drawn(sample_of(texts, values))["mean"]
    assert np.quantile(in_chunks, 0.5) == pytest.approx(np.quantile(means, 0.5), abs=0.02)
    assert len(in_chunks) == 400


def test_an_interval_ignores_nan_and_is_none_without_finite_values():
    assert percentile_interval(np.array([1.0, np.nan, 3.0, np.inf]), 0.5) == (1.5, 2.5)
    assert percentile_interval(np.array([np.nan]), 0.95) is None
    assert nan_to_none({"a": math.nan, "b": 1.0}) == {"a": None, "b": 1.0}


def first_column(means):
    return means[..., 0]


def interval_of(rows, statistic, *, resamples, seed=1):
    return percentile_interval(bootstrap(rows, statistic, resamples=resamples, rng=np.random.default_rng(seed)))


def test_the_interval_of_a_share_is_that_of_its_binomial_distribution():
    rows = np.repeat([[1.0], [0.0]], [300, 200], axis=0)
    expected = [stats.binom.ppf(q, 500, 0.6) / 500 for q in (0.025, 0.975)]
    assert interval_of(rows, first_column, resamples=20_000) == pytest.approx(expected, abs=0.003)


def test_the_interval_covers_the_true_share_about_as_often_as_its_level():
    samples = (np.random.default_rng(4).random((200, 200, 1)) < 0.6).astype(float)
    intervals = np.array([interval_of(rows, first_column, resamples=400) for rows in samples])
    assert 0.90 <= np.mean((intervals[:, 0] <= 0.6) & (intervals[:, 1] >= 0.6)) <= 0.99


def test_rows_are_drawn_whole_by_a_seeded_generator():
    column = np.random.default_rng(3).normal(size=50)
    rows = np.stack([column, column], axis=1)
    assert interval_of(rows, lambda means: means[..., 0] - means[..., 1], resamples=200) == (0.0, 0.0)
    first, again, other = (interval_of(rows, first_column, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_statistic_without_a_value_has_no_interval():
    assert interval_of(np.zeros((4, 2)), lambda means: means[..., 0] / means[..., 1], resamples=100) is None
    assert interval_of(np.zeros((0, 1)), first_column, resamples=100) is None


# Newcombe (1998), table I, score method: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_intervals_are_the_published_ones(successes, trials, expected):
    assert wilson_interval(successes / trials, trials) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("share", "level", "expected"), [(0.0, 0.95, (0.0, 0.1611)), (1.0, 0.95, (0.8389, 1.0)), (0.5, 0.9, (0.05, 0.95))]
)
def test_a_share_has_the_percentile_interval_unless_it_is_none_or_all(share, level, expected):
    values = np.full(101, share) if share in (0.0, 1.0) else np.linspace(0.0, 1.0, 101)
    assert share_interval(values, share, 20, level=level) == pytest.approx(expected, abs=5e-5)


def test_the_median_of_resampled_seeds_spreads_as_the_seeds_do():
    rng = np.random.default_rng(1)
    medians = median_of_resampled_seeds(np.tile([0.1, 0.2, 0.6], (9_000, 1)), rng)
    # Of 27 ordered draws of three the median is the lowest in 7, the middle in 13 and the highest in 7.
    shares = [np.mean(medians == value) for value in (0.1, 0.2, 0.6)]
    assert shares == pytest.approx([7 / 27, 13 / 27, 7 / 27], abs=0.02)
    one_seed = rng.random((50, 1))
    assert (median_of_resampled_seeds(one_seed, rng) == one_seed[:, 0]).all()


@pytest.mark.parametrize(
    ("metric", "value", "rows", "expected"),
    [
        ("accuracy", 0.5, 100, 0.05),
        ("accuracy", 0.8, 400, 0.02),
        ("f1", 0.8, 400, 0.02),
        ("matthews", 0.0, 400, 0.05),
        ("pearson", -0.6, 100, 0.08),
        ("spearman", 0.6, 100, 0.08),
        ("accuracy", 1.0, 100, 0.0),
    ],
)
def test_the_standard_error_follows_from_score_and_rows(metric, value, rows, expected):
    assert standard_error(metric, value, rows) == pytest.approx(expected)


def test_the_standard_error_of_matthews_is_its_spread_over_samples():
    rng = np.random.default_rng(5)
    labels = rng.random((1_000, 500)) < 0.5
    answers = labels ^ (rng.random(labels.shape) < 0.3)
    # Matthews' correlation of two binary variables
    values = [np.corrcoef(*pair)[0, 1] for pair in zip(labels, answers, strict=True)]
    assert standard_error("matthews", 0.4, 500) == pytest.approx(np.std(values), rel=0.1)


@pytest.mark.parametrize(
    ("score", "baseline", "error", "expected"),
    [
        (0.65, 0.5, 0.05, True),
        (0.6501, 0.5, 0.05, True),
        (0.6499, 0.5, 0.05, False),
        (0.5, 0.5, 0.05, False),
        (0.2, 0.5, 0.05, False),
        (0.5, 0.35, 0.05, True),  # in binary 3 * 0.05 is more than 0.5 - 0.35
        (1.0, 1.0, 0.0, False),
    ],
)
def test_a_score_is_above_chance_from_three_standard_errors(score, baseline, error, expected):
    assert is_above_chance(score, baseline, error) is expected


@pytest.mark.parametrize(
    ("student", "teacher", "baseline", "expected"),
    [
        (0.6, 0.8, 0.0, 0.75),
        (0.6, 0.8, 0.5, 1 / 3),
        (0.5, 0.8, 0.5, 0.0),
        (0.5, 0.0, 0.0, math.nan),
        (0.5, -0.1, 0.0, math.nan),
        (0.5, math.nan, 0.0, math.nan),
        (0.5, 0.5, 0.5, math.nan),
    ],
)
def test_the_retained_share_is_measured_from_the_baseline(student, teacher, baseline, expected):
    assert retained_share(student, teacher, baseline) == pytest.approx(expected, nan_ok=True)
    assert baseline or retained_share(student, teacher) == pytest.approx(expected, nan_ok=True)
