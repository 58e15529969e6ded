from itertools import accumulate, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.pretraining_data.segment_pairs import plan_pairs, plan_windows

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
@given(sentence_lengths, st.integers(4, 100), st.integers(0, 1000))
def test_both_segments_fit_and_neither_is_empty(lengths, max_tokens, seed):
    for plan in pairs(lengths, seed, max_tokens=max_tokens):
        assert plan.a_tokens > 0
        assert 2 <= plan.room <= max_tokens
        if plan.is_random_next:
            assert plan.b_tokens == 0
            assert plan.a_tokens < plan.room  # something is left for a B of another document
        else:
            assert plan.b_tokens > 0
            assert plan.a_tokens + plan.b_tokens <= plan.room


@settings(max_examples=200, deadline=None)
@given(sentence_lengths, st.integers(4, 100), st.integers(0, 1000))
def test_segments_lie_in_the_document_and_b_after_a(lengths, max_tokens, seed):
    for plan in pairs(lengths, seed, max_tokens=max_tokens):
        assert plan.start >= 0
        assert plan.start + plan.tokens <= sum(lengths)
        assert plan.a_from >= 0
        assert plan.a_from + plan.a_tokens <= plan.b_from
        assert plan.b_from + plan.b_tokens <= plan.tokens
        assert plan.a_tokens + plan.b_tokens + (0 if plan.is_random_next else plan.trimmed) == plan.tokens


@settings(max_examples=200, deadline=None)
@given(sentence_lengths, st.integers(4, 100), st.integers(0, 1000))
def test_every_token_is_used_or_trimmed_and_counted_once_more_where_it_is_reused(lengths, max_tokens, seed):
    found = pairs(lengths, seed, max_tokens=max_tokens)
    assert sum(plan.a_tokens + plan.b_tokens + plan.trimmed - plan.reused for plan in found) == sum(lengths)


def test_untrimmed_segments_begin_and_end_with_sentences():
    found = 0
    for row, lengths in enumerate(LENGTHS):
        ends = {0, *accumulate(lengths)}
        for plan in pairs(lengths, row):
            if not plan.trimmed:
                found += 1
                assert {plan.start, plan.start + plan.a_tokens, plan.start + plan.tokens} <= ends
                assert (plan.a_from, plan.b_from) == (0, plan.a_tokens)
    assert found > 20


def test_what_a_random_b_leaves_unused_begins_the_next_pair():
    lengths = [10] * 12
    for before, after in pairwise(pairs(lengths, 3, random_next_probability=1.0, short_seq_prob=0.0)):
        assert after.start == before.start + before.a_tokens


def test_the_run_of_a_consecutive_pair_begins_with_a_sentence_even_when_a_is_trimmed():
    for row, lengths in enumerate(LENGTHS):
        for plan in pairs(lengths, row, random_next_probability=0.0):
            assert plan.start in {0, *accumulate(lengths)}


def test_the_longer_side_is_trimmed():
    for plan in pairs([90, 4, 90, 4], 1, max_tokens=40, random_next_probability=0.0, short_seq_prob=0.0):
        assert sorted([plan.a_tokens, plan.b_tokens]) == [4, 36]


def test_tokens_are_cut_at_both_ends():
    starts = {pairs([200, 20], seed, random_next_probability=0.0, short_seq_prob=0.0)[0].a_from for seed in range(50)}
    cut = 200 + 20 - 61
    assert all(cut / 4 < start < cut * 3 / 4 for start in starts)
    assert len(starts) > 10


def test_short_targets_have_their_share_and_every_length():
    rooms = [plan.room for plan in many_pairs(200, max_tokens=20, short_seq_prob=0.3)]
    assert set(rooms) == set(range(2, 21))
    short = np.mean([room < 20 for room in rooms])
    expected = 0.3 * 18 / 19  # one of the 19 drawn lengths is the full one
    assert abs(short - expected) < 4 * np.sqrt(expected / len(rooms))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_document_of_one_sentence_has_a_random_pair_only_and_says_so(probability):
    (plan,) = pairs([7], random_next_probability=probability)
    assert (plan.is_random_next, plan.is_alone) == (True, True)


def test_a_last_sentence_alone_takes_the_one_before_it_again():
    found = pairs([30, 31, 9], 0, random_next_probability=0.0, short_seq_prob=0.0)
    assert [(plan.start, plan.b_from, plan.reused) for plan in found] == [(0, 30, 0), (30, 31, 31)]


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
