from itertools import accumulate, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.pretraining_data.segment_pairs import front_cuts, plan_pairs, plan_windows, trimmed_lengths
from distilray.runtime.seeding import hash_integers

LENGTHS = [np.random.default_rng(row).integers(3, 30, size=12 + row % 9).tolist() for row in range(12)]
sentence_lengths = st.lists(st.integers(1, 80), min_size=1, max_size=20)


def pairs(lengths, seed=0, **changes):
    values = {"max_tokens": 61, "short_seq_prob": 0.1, "random_next_probability": 0.5}
    return list(plan_pairs(list(accumulate(lengths)), Random(seed), **{**values, **changes}))


def many_pairs(copies=1, **changes):
    return [
        plan
        for row, lengths in enumerate(LENGTHS)
        for copy in range(copies)
        for plan in pairs(lengths, 1000 * row + copy, **changes)
    ]


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_the_realised_share_of_random_segments_is_the_configured_one(probability):
    found = many_pairs(60, random_next_probability=probability)
    share = np.mean([plan.is_random_next for plan in found])
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / len(found))


@settings(max_examples=200, deadline=None)
@given(sentence_lengths, st.integers(4, 100), st.integers(0, 1000), st.floats(0, 1))
def test_both_segments_are_whole_sentences_and_b_follows_a(lengths, max_tokens, seed, probability):
    starts = [0, *accumulate(lengths)]
    for plan in pairs(lengths, seed, max_tokens=max_tokens, random_next_probability=probability):
        b_start = plan.start + plan.a_tokens
        assert {plan.start, b_start, b_start + plan.b_tokens} <= set(starts)
        assert plan.a_tokens > 0
        assert (plan.b_tokens > 0) == (len(lengths) > 1)


@settings(max_examples=200, deadline=None)
@given(sentence_lengths.filter(lambda lengths: len(lengths) > 1), st.integers(4, 100), st.integers(0, 1000))
def test_a_pair_is_as_short_as_its_room_allows(lengths, max_tokens, seed):
    for plan in pairs(lengths, seed, max_tokens=max_tokens):
        assert 2 <= plan.room <= max_tokens
        end = plan.start + plan.a_tokens + plan.b_tokens
        last = lengths[[*accumulate(lengths)].index(end)]
        assert end == sum(lengths) or end - plan.start >= plan.room
        assert end - plan.start - last < plan.room or plan.b_tokens == last


@settings(max_examples=200, deadline=None)
@given(sentence_lengths, st.integers(4, 100), st.integers(0, 1000), st.floats(0, 1))
def test_every_token_but_a_last_sentence_is_used_and_counted_again_where_it_is_reused(
    lengths, max_tokens, seed, probability
):
    found = pairs(lengths, seed, max_tokens=max_tokens, random_next_probability=probability)
    used = sum(plan.a_tokens + (0 if plan.is_random_next else plan.b_tokens) - plan.reused for plan in found)
    assert used in (sum(lengths), sum(lengths[:-1]) if found[-1].is_random_next else sum(lengths))


def test_the_kind_of_a_pair_does_not_depend_on_its_segments():
    found = many_pairs(300)
    kinds = np.array([plan.is_random_next for plan in found])
    for name in ("a_tokens", "b_tokens", "room", "start", "reused"):
        values = np.array([getattr(plan, name) for plan in found])
        assert abs(np.corrcoef(values, kinds)[0, 1]) < 4 / np.sqrt(len(found)), name


def test_the_b_that_a_random_pair_does_not_use_begins_the_next_pair():
    lengths = [10] * 12
    for before, after in pairwise(pairs(lengths, 3, random_next_probability=1.0, short_seq_prob=0.0)[:-1]):
        assert after.start == before.start + before.a_tokens


segment_lengths = st.lists(st.tuples(*[st.integers(1, 200)] * 2, st.integers(2, 150)), min_size=1, max_size=20)


def trimmed_one_by_one(a, b, room):
    while a + b > room:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    return a, b


@given(segment_lengths)
def test_tokens_are_trimmed_from_the_longer_segment(rows):
    found = trimmed_lengths(*np.array(rows).T)
    assert list(zip(*(values.tolist() for values in found), strict=True)) == [trimmed_one_by_one(*row) for row in rows]


@pytest.mark.parametrize("cut", [1, 63, 64, 65, 200])
def test_each_trimmed_token_is_removed_at_either_end_with_equal_probability(cut):
    rows = 4000
    found = front_cuts(hash_integers(1, np.arange(rows)), np.full(rows, cut))
    assert found.min() >= 0
    assert found.max() <= cut
    assert abs(found.mean() - cut / 2) < 4 * np.sqrt(cut / 4 / rows)
    assert abs(found.var() / (cut / 4) - 1) < 4 * np.sqrt(2 / rows)


def test_nothing_is_removed_at_the_front_of_a_segment_that_fits():
    assert front_cuts(hash_integers(1, np.arange(4)), np.array([0, 5, 0, 0]))[[0, 2, 3]].tolist() == [0, 0, 0]


def test_short_targets_have_their_share_and_every_length():
    rooms = [plan.room for plan in many_pairs(200, max_tokens=20, short_seq_prob=0.3)]
    assert set(rooms) == set(range(2, 21))
    short = np.mean([room < 20 for room in rooms])
    expected = 0.3 * 18 / 19  # one of the 19 drawn lengths is the full one
    assert abs(short - expected) < 4 * np.sqrt(expected / len(rooms))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_document_of_one_sentence_has_a_random_pair_only_and_says_so(probability):
    (plan,) = pairs([7], random_next_probability=probability)
    assert (plan.is_random_next, plan.is_single_sentence) == (True, True)


def test_a_last_sentence_alone_takes_the_one_before_it_again():
    found = pairs([30, 31, 9], 0, random_next_probability=0.0, short_seq_prob=0.0)
    assert [(plan.start, plan.a_tokens, plan.reused) for plan in found] == [(0, 30, 0), (30, 31, 31)]


def test_a_last_sentence_is_left_out_after_its_second_random_pair():
    found = pairs([30, 31], 0, random_next_probability=1.0)
    assert [(plan.start, plan.a_tokens, plan.reused) for plan in found] == [(0, 30, 0), (0, 30, 30)]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(4, 100), st.floats(0, 1), st.integers(0, 1000))
def test_windows_hold_every_token_once_and_in_order(tokens, max_tokens, short_seq_prob, seed):
    found = list(plan_windows(tokens, Random(seed), max_tokens=max_tokens, short_seq_prob=short_seq_prob))
    assert [plan.start for plan in found] == [0, *accumulate(plan.a_tokens for plan in found)][:-1]
    assert sum(plan.a_tokens for plan in found) == tokens
    assert all(0 < plan.a_tokens <= max_tokens and plan.b_tokens == 0 for plan in found)


def test_windows_are_full_but_for_the_last():
    found = list(plan_windows(100, Random(0), max_tokens=30, short_seq_prob=0.0))
    assert [plan.a_tokens for plan in found] == [30, 30, 30, 10]
