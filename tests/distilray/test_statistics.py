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


def test_the_estimate_is_what_numpy_says():
    values = np.random.default_rng(1).integers(1, 50, 41)
    found = sample_of(np.arange(41) // 3, values).estimate(SCORES)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["median"] == np.median(values)
    assert found["geometric"] == pytest.approx(math.exp(np.log(values).mean()))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two(count):
    values = np.random.default_rng(count).integers(1, 9, count)
    assert sample_of(np.arange(count), values).estimate(SCORES)["median"] == np.median(values)


def test_a_resample_is_one_of_whole_texts():
    # Two texts, three answers: the mean is that of 10s, that of 1s, or one of both texts.
    found = drawn(sample_of([7, 7, 9], [1.0, 1.0, 10.0]))["mean"]
    assert set(np.round(found, 9)) == {1.0, 10.0, 4.0}
    assert np.mean(found == 4.0) == pytest.approx(0.5, abs=0.1)


def test_resampled_scores_are_those_of_the_drawn_answers():
    rng = np.random.default_rng(5)
    values, texts = rng.integers(1, 100, 30).astype(float), rng.integers(0, 8, 30)
    sample = sample_of(texts, values)
    plain = np.random.default_rng(0)
    means, medians = [], []
    for _ in range(4000):
        picked = np.concatenate(
            [values[sample.text_of == text] for text in plain.integers(sample.texts, size=sample.texts)]
        )
        means.append(picked.mean())
        medians.append(np.median(picked))
    found = drawn(sample, resamples=4000)
    for own, expected in ((found["mean"], means), (found["median"], medians)):
        assert np.quantile(own, [0.025, 0.5, 0.975]) == pytest.approx(
            np.quantile(expected, [0.025, 0.5, 0.975]), abs=3.0
        )


def test_the_interval_of_independent_texts_is_about_that_of_the_normal_distribution():
    hits = (np.random.default_rng(2).random(2000) < 0.3) + 1e-9
    low, high = percentile_interval(drawn(sample_of(np.arange(2000), hits), resamples=800)["mean"], 0.95)
    half = 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    assert (low, high) == pytest.approx((hits.mean() - half, hits.mean() + half), abs=0.2 * half)


def test_answers_of_one_text_make_the_interval_wider_than_independent_ones():
    hits = np.repeat(np.random.default_rng(2).random(100) < 0.3, 20) + 1e-9
    widths = [
        np.ptp(percentile_interval(drawn(sample_of(texts, hits))["mean"], 0.95))
        for texts in (np.arange(2000) // 20, np.arange(2000))
    ]
    assert widths[0] > 3 * widths[1]


def test_samples_of_the_same_texts_are_drawn_alike():
    texts, values = np.arange(50) // 2, np.random.default_rng(4).random(50) + 1
    first, second = drawn(sample_of(texts, values)), drawn(sample_of(texts, values + 0.25))
    assert second["mean"] - first["mean"] == pytest.approx(np.full(400, 0.25))


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    sample = sample_of(np.arange(40), np.random.default_rng(4).random(40))
    assert (drawn(sample)["mean"] == drawn(sample)["mean"]).all()
    assert (drawn(sample)["mean"] != drawn(sample, seed=4)["mean"]).any()


def test_resamples_in_small_chunks_are_as_many_and_of_the_same_kind(monkeypatch):
    sample = sample_of(np.arange(40) // 2, np.random.default_rng(4).random(40))
    whole = drawn(sample)["mean"]
    monkeypatch.setattr("distilray.statistics._CHUNK_CELLS", 40 * 7)
    assert np.quantile(drawn(sample)["mean"], 0.5) == pytest.approx(np.quantile(whole, 0.5), abs=0.02)
    assert len(drawn(sample)["mean"]) == 400


def test_an_interval_ignores_nan_and_is_none_without_finite_values():
    assert percentile_interval(np.array([1.0, np.nan, 3.0, np.inf]), 0.5) == (1.5, 2.5)
    assert percentile_interval(np.array([np.nan]), 0.95) is None
    assert nan_to_none({"a": math.nan, "b": 1.0}) == {"a": None, "b": 1.0}


def first_column(means):
    return means[..., 0]


def interval_of(rows, statistic, *, resamples, seed):
    return percentile_interval(bootstrap(rows, statistic, resamples=resamples, rng=np.random.default_rng(seed)))


def test_the_interval_of_a_share_is_that_of_its_binomial_distribution():
    rows = np.repeat([[1.0], [0.0]], [300, 200], axis=0)
    expected = [stats.binom.ppf(q, 500, 0.6) / 500 for q in (0.025, 0.975)]
    assert interval_of(rows, first_column, resamples=20_000, seed=1) == pytest.approx(expected, abs=0.003)


def test_the_interval_covers_the_true_share_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        low, high = interval_of((rng.random((200, 1)) < 0.6).astype(float), first_column, resamples=400, seed=1)
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_rows_are_drawn_whole_so_two_columns_stay_paired():
    column = np.random.default_rng(3).normal(size=50)
    rows = np.stack([column, column], axis=1)
    assert interval_of(rows, lambda means: means[..., 0] - means[..., 1], resamples=200, seed=1) == (0.0, 0.0)


def test_equal_generators_give_equal_intervals_and_others_do_not():
    rows = np.random.default_rng(3).normal(size=(50, 1))
    first, again, other = (interval_of(rows, first_column, resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_statistic_without_a_value_has_no_interval():
    assert interval_of(np.zeros((4, 2)), lambda means: means[..., 0] / means[..., 1], resamples=100, seed=1) is None
    assert interval_of(np.zeros((0, 1)), first_column, resamples=100, seed=1) is None


# Newcombe (1998), table I, score method: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_intervals_are_the_published_ones(successes, trials, expected):
    assert wilson_interval(successes / trials, trials) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("share", "expected"), [(0.0, (0.0, 0.1611)), (1.0, (1 - 0.1611, 1.0))])
def test_a_share_of_none_or_all_has_an_interval_with_a_width(share, expected):
    assert share_interval(np.full(100, share), share, 20) == pytest.approx(expected, abs=5e-5)


def test_a_share_in_between_has_the_percentile_interval():
    values = np.linspace(0.0, 1.0, 101)
    assert share_interval(values, 0.5, 20, level=0.9) == pytest.approx((0.05, 0.95))


def test_the_median_of_resampled_seeds_spreads_as_the_seeds_do():
    scores = np.tile([0.1, 0.2, 0.6], (9_000, 1))
    drawn = median_of_resampled_seeds(scores, np.random.default_rng(1))
    # Of 27 ordered draws of three the median is the lowest in 7, the middle in 13 and the highest in 7.
    assert [np.mean(drawn == value) for value in (0.1, 0.2, 0.6)] == pytest.approx([7 / 27, 13 / 27, 7 / 27], abs=0.02)


def test_one_seed_adds_nothing():
    scores = np.random.default_rng(2).random((50, 1))
    assert (median_of_resampled_seeds(scores, np.random.default_rng(1)) == scores[:, 0]).all()


@pytest.mark.parametrize(
    ("metric", "value", "rows", "expected"),
    [
        ("accuracy", 0.5, 100, 0.05),
        ("accuracy", 0.8, 400, 0.02),
        ("f1", 0.8, 400, 0.02),
        ("matthews", 0.0, 400, 0.05),
        ("pearson", -0.6, 100, 0.08),
        ("accuracy", 1.0, 100, 0.0),
    ],
)
def test_the_standard_error_follows_from_score_and_rows(metric, value, rows, expected):
    assert standard_error(metric, value, rows) == pytest.approx(expected)


def test_the_standard_error_of_matthews_is_its_spread_over_samples():
    rng = np.random.default_rng(5)
    values = []
    for _ in range(2_000):
        labels = rng.random(500) < 0.5
        answers = np.where(rng.random(500) < 0.7, labels, ~labels)
        values.append(np.corrcoef(labels, answers)[0, 1])  # Matthews' correlation of two binary variables
    assert standard_error("matthews", 0.4, 500) == pytest.approx(np.std(values), rel=0.1)


@pytest.mark.parametrize(
    ("score", "expected"), [(0.65, True), (0.6501, True), (0.6499, False), (0.5, False), (0.2, False)]
)
def test_a_score_is_above_chance_from_three_standard_errors(score, expected):
    assert is_above_chance(score, 0.5, 0.05 - 1e-12) is expected


def test_three_standard_errors_to_the_digit_are_enough():
    assert is_above_chance(0.5, 0.35, 0.05)  # in binary 3 * 0.05 is more than 0.5 - 0.35


def test_a_score_equal_to_the_baseline_is_not_above_chance_whatever_the_error():
    assert not is_above_chance(1.0, 1.0, 0.0)


def test_the_share_that_is_kept_is_measured_from_the_baseline():
    assert retained_share(0.6, 0.8) == pytest.approx(0.75)
    assert retained_share(0.6, 0.8, baseline=0.5) == pytest.approx(1 / 3)
    assert retained_share(0.5, 0.8, baseline=0.5) == 0.0


@pytest.mark.parametrize("teacher", [0.0, -0.1, math.nan, 0.5])
def test_of_a_teacher_that_is_not_above_the_baseline_no_share_is_kept(teacher):
    assert math.isnan(retained_share(0.5, teacher, baseline=max(0.0, teacher)))
