import math

import numpy as np
import pytest

from distilray.evaluation.intervals import Ratio, Sample, Scores, interval, without_nan

SCORES = Scores(
    {"mean": Ratio("value", "one"), "geometric": Ratio("log", "one", exponential=True)}, {"median": "value"}
)


def sample_of(texts, values):
    values = np.asarray(values, float)
    return Sample(np.asarray(texts), {"value": values, "one": np.ones(len(values)), "log": np.log(values)})


def drawn(sample, resamples=400, seed=3):
    return sample.resampled(SCORES, resamples=resamples, seed=seed)


def test_the_estimate_is_what_numpy_says():
    values = np.random.default_rng(1).integers(1, 50, 41)
    found = sample_of(np.arange(41) // 3, values).estimated(SCORES)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["median"] == np.median(values)
    assert found["geometric"] == pytest.approx(math.exp(np.log(values).mean()))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two(count):
    values = np.random.default_rng(count).integers(1, 9, count)
    assert sample_of(np.arange(count), values).estimated(SCORES)["median"] == np.median(values)


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
    low, high = interval(drawn(sample_of(np.arange(2000), hits), resamples=800)["mean"], 0.95)
    half = 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    assert (low, high) == pytest.approx((hits.mean() - half, hits.mean() + half), abs=0.2 * half)


def test_answers_of_one_text_make_the_interval_wider_than_independent_ones():
    hits = np.repeat(np.random.default_rng(2).random(100) < 0.3, 20) + 1e-9
    widths = [
        np.ptp(interval(drawn(sample_of(texts, hits))["mean"], 0.95))
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
    monkeypatch.setattr("distilray.evaluation.intervals._CELLS", 40 * 7)
    assert np.quantile(drawn(sample)["mean"], 0.5) == pytest.approx(np.quantile(whole, 0.5), abs=0.02)
    assert len(drawn(sample)["mean"]) == 400


def test_an_interval_leaves_out_what_is_no_number_and_is_none_without_any():
    assert interval(np.array([1.0, np.nan, 3.0]), 0.5) == [1.5, 2.5]
    assert interval(np.array([np.nan]), 0.95) == [None, None]
    assert without_nan({"a": math.nan, "b": 1.0}) == {"a": None, "b": 1.0}
