import numpy as np
import pytest
from scipy import stats

from distilray.evaluation.bias.intervals import bootstrap_interval


def share(means):
    return means[..., 0]


def test_the_interval_of_a_share_is_that_of_its_binomial_distribution():
    values = np.repeat([[1.0], [0.0]], [300, 200], axis=0)
    found = bootstrap_interval(values, share, samples=20_000, seed=1)
    assert found == pytest.approx([stats.binom.ppf(q, 500, 0.6) / 500 for q in (0.025, 0.975)], abs=0.003)


def test_the_interval_covers_the_true_share_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval((rng.random((200, 1)) < 0.6).astype(float), share, samples=400, seed=1)
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_units_are_drawn_whole_so_two_columns_stay_paired():
    column = np.random.default_rng(3).normal(size=50)
    values = np.stack([column, column], axis=1)
    assert bootstrap_interval(values, lambda means: means[..., 0] - means[..., 1], samples=200, seed=1) == (0.0, 0.0)


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    values = np.random.default_rng(3).normal(size=(50, 1))
    first, again, other = (bootstrap_interval(values, share, samples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_statistic_without_a_value_has_no_interval():
    assert (
        bootstrap_interval(np.zeros((4, 2)), lambda means: means[..., 0] / means[..., 1], samples=100, seed=1) is None
    )
    assert bootstrap_interval(np.zeros((0, 1)), share, samples=100, seed=1) is None
