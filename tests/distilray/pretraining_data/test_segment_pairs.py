from itertools import accumulate, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.pretraining_data.segment_pairs import front_cuts, plan_pairs, plan_windows, trimmed_lengths
from distilray.runtime.seeding import hash_integers

LENGTHS = [np.random.default_rng(row).integers(3, 30, size=12 + row % 9).tolist() for row in range(12)]


def pairs(lengths, seed=0, **changes):
    values = {"max_tokens": 61, "short_seq_prob": 0.1, "random_next_probability": 0.5, **changes}
    return list(plan_pairs(list(accumulate(lengths)), Random(seed), **values))


def many_pairs(copies, **changes):
    return [
        plan
        for row, lengths in enumerate(LENGTHS)
        for copy in range(copies)
        for plan in pairs(lengths, 1000 * row + copy, **changes)
    ]


def assert_share(share, expected, count):
    assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / count)


@settings(max_examples=150)
@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=20),
    max_tokens=st.integers(4, 100),
    seed=st.integers(0, 1000),
    probability=st.floats(0, 1),
)
def test_pairs_are_consecutive_sentences_that_just_fill_their_room_and_use_every_token(
    lengths, max_tokens, seed, probability
):
    plans = pairs(lengths, seed, max_tokens=max_tokens, random_next_probability=probability)
    ends = [*accumulate(lengths)]
    for plan in plans:
        b_start, end = plan.start + plan.a_tokens, plan.start + plan.a_tokens + plan.b_tokens
        assert {plan.start, b_start, end} <= {0, *ends}
        assert plan.a_tokens > 0
        assert 2 <= plan.room <= max_tokens
        assert (plan.b_tokens > 0) == (len(lengths) > 1) != plan.is_single_sentence
        if len(lengths) > 1:
            last = lengths[ends.index(end)]
            assert end == ends[-1] or end - plan.start >= plan.room
            assert end - plan.start - last < plan.room or plan.b_tokens == last
    # A last sentence may be left out after a random pair.
    used = sum(plan.a_tokens + (0 if plan.is_random_next else plan.b_tokens) - plan.reused for plan in plans)
    assert used == ends[-1] or (plans[-1].is_random_next and used == ends[-1] - lengths[-1])


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_random_pairs_have_the_configured_share(probability):
    kinds = [plan.is_random_next for plan in many_pairs(60, random_next_probability=probability)]
    assert_share(np.mean(kinds), probability, len(kinds))


def test_the_kind_of_a_pair_does_not_depend_on_its_segments():
    plans = many_pairs(100)
    kinds = np.array([plan.is_random_next for plan in plans])
    for name in ("a_tokens", "b_tokens", "room", "start", "reused"):
        values = np.array([getattr(plan, name) for plan in plans])
        assert abs(np.corrcoef(values, kinds)[0, 1]) < 4 / np.sqrt(len(plans)), name


def test_short_targets_have_the_configured_share_and_every_length():
    rooms = np.array([plan.room for plan in many_pairs(100, max_tokens=20, short_seq_prob=0.3)])
    assert set(rooms.tolist()) == set(range(2, 21))
    assert_share((rooms < 20).mean(), 0.3 * 18 / 19, len(rooms))  # one of the 19 drawn lengths is the full one


def test_the_replaced_b_of_a_random_pair_starts_the_next_pair():
    for before, after in pairwise(pairs([10] * 12, 3, random_next_probability=1.0, short_seq_prob=0.0)[:-1]):
        assert after.start == before.start + before.a_tokens


@pytest.mark.parametrize(
    ("lengths", "probability", "expected"),
    [([30, 31, 9], 0.0, [(0, 30, 0), (30, 31, 31)]), ([30, 31], 1.0, [(0, 30, 0), (0, 30, 30)])],
    ids=["is paired with the previous one", "is left out after a second random pair"],
)
def test_a_remaining_last_sentence(lengths, probability, expected):
    plans = pairs(lengths, random_next_probability=probability, short_seq_prob=0.0)
    assert [(plan.start, plan.a_tokens, plan.reused) for plan in plans] == expected


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_document_with_one_sentence_has_a_single_random_pair(probability):
    (plan,) = pairs([7], random_next_probability=probability)
    assert (plan.is_random_next, plan.is_single_sentence) == (True, True)


def trim_one_by_one(a, b, room):
    while a + b > room:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    return [a, b]


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200), st.integers(2, 150)), min_size=1, max_size=20))
def test_tokens_are_trimmed_from_the_longer_segment(rows):
    trimmed = np.stack(trimmed_lengths(*np.array(rows).T), axis=1)
    assert trimmed.tolist() == [trim_one_by_one(*row) for row in rows]


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 65, 200])
def test_each_trimmed_token_is_removed_at_either_end_with_equal_probability(cut):
    rows = 4000
    removed = front_cuts(hash_integers(1, np.arange(rows)), np.full(rows, cut))
    assert removed.min() >= 0
    assert removed.max() <= cut
    assert abs(removed.mean() - cut / 2) <= 4 * np.sqrt(cut / 4 / rows)
    assert abs(removed.var() - cut / 4) <= cut * np.sqrt(2 / rows)
    mixed = front_cuts(hash_integers(1, np.arange(4)), np.array([0, cut, 0, 0]))
    assert mixed.tolist() == [0, removed[1], 0, 0]


@settings(max_examples=100)
@given(st.integers(1, 500), st.integers(4, 100), st.floats(0, 1), st.integers(0, 1000))
def test_windows_contain_every_token_once_and_in_order(tokens, max_tokens, short_seq_prob, seed):
    plans = list(plan_windows(tokens, Random(seed), max_tokens=max_tokens, short_seq_prob=short_seq_prob))
    assert [plan.start for plan in plans] == [0, *accumulate(plan.a_tokens for plan in plans)][:-1]
    assert sum(plan.a_tokens for plan in plans) == tokens
    assert all(0 < plan.a_tokens <= max_tokens and plan.b_tokens == 0 for plan in plans)


def test_all_windows_except_the_last_are_full():
    plans = plan_windows(100, Random(0), max_tokens=30, short_seq_prob=0.0)
    assert [(plan.a_tokens, plan.room) for plan in plans] == [(30, 30), (30, 30), (30, 30), (10, 30)]
