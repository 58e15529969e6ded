import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.config.pretraining_data import MaskingConfig
from distilray.pretraining_data import masking
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.tokenizer import Vocabulary

UNK, CLS, SEP, MASK = 1, 2, 3, 4
FIRST, SIZE = 10, 400  # ordinary ids; those from 300 on go on with a word
CONTINUATION = np.arange(SIZE) >= 300
VOCABULARY = Vocabulary(
    SIZE, 0, UNK, CLS, SEP, MASK, (0, 1, 2, 3, 4), np.arange(FIRST, SIZE, dtype=np.uint16), CONTINUATION
)
COUNTS = np.random.default_rng(2).integers(0, 5000, size=SIZE)
OPTIONS = [{}, {"whole_words": True}, {"rare_token_exponent": 0.7}, {"whole_words": True, "rare_token_exponent": 0.7}]
segment_lists = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=12)


def rows_of(segments, seed=1, low=FIRST):
    """Rows `[CLS] a [SEP] b [SEP]` with random tokens, from `low` on; ids, offsets, segment_b_start."""
    rng = np.random.default_rng(seed)
    rows = [
        np.concatenate([[CLS], rng.integers(low, SIZE, a), [SEP], rng.integers(low, SIZE, b), [SEP]])
        for a, b in segments
    ]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return np.concatenate(rows).astype(np.uint16), offsets, np.array([a + 2 for a, _ in segments])


def mask(data, example_ids=None, *, seed=7, epochs=0, **options):
    ids, offsets, starts = data
    example_ids = np.arange(len(offsets) - 1) if example_ids is None else np.asarray(example_ids)
    masker = Masker(VOCABULARY, MaskingConfig(**options), seed, COUNTS)
    return masker.mask(ids, offsets=offsets, segment_b_start=starts, example_ids=example_ids, epochs=epochs)


def flat_positions(offsets, found):
    return np.repeat(offsets[:-1], np.diff(found.mask_offsets)) + found.mask_positions


def positions_of(found, row):
    return found.mask_positions[found.mask_offsets[row] : found.mask_offsets[row + 1]].tolist()


MANY = rows_of([(int(a), int(b)) for a, b in np.random.default_rng(0).integers(1, 60, size=(2000, 2))])


# The rule in plain Python, one token at a time.

WORD = 2**64


def plain_hash(*parts):
    state = 0
    for number, part in enumerate(parts):
        state = ((part % WORD if number == 0 else state ^ part) + 0x9E3779B97F4A7C15) % WORD
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % WORD
        state = (state ^ state >> 27) * 0x94D049BB133111EB % WORD
        state ^= state >> 31
    return state


def plain_key(hashed, weight):
    if weight is None:
        return hashed >> 29
    exponential = -math.log1p(-((hashed >> 11) * 2.0**-53)) / weight
    return struct.unpack("<Q", struct.pack("<d", exponential))[0] >> 29


def plain_words(places, ids, whole_words):
    words = []
    for place in places:
        if whole_words and words and place == words[-1][-1] + 1 and CONTINUATION[ids[place]]:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def plain_mask(ids, second, example, epoch, seed, config):
    """Plain Python implementation of masking; returns the input ids and the masked positions."""
    seen, chosen = list(ids), []
    for inside in (range(second), range(second, len(ids))):
        places = [place for place in inside if ids[place] not in VOCABULARY.special]
        left = math.floor(config.mlm_probability * len(places) + 0.5)
        words = []
        for word in plain_words(places, ids, config.whole_words):
            weight = None
            if config.rare_token_exponent:
                weight = max(max(1, int(COUNTS[ids[place]])) ** -config.rare_token_exponent for place in word)
            words.append((plain_key(plain_hash(seed, epoch, example, word[0]), weight), word))
        for _, word in sorted(words):
            if len(word) <= left:
                chosen += word
                left -= len(word)
    for place in chosen:
        action = (plain_hash(seed, epoch, example, place, 0) >> 11) * 2.0**-53
        if action < config.mask_share:
            seen[place] = MASK
        elif action < config.mask_share + config.random_share:
            others = [token for token in range(FIRST, SIZE) if token != ids[place]]
            seen[place] = others[plain_hash(seed, epoch, example, place, 1) % len(others)]
    return seen, sorted(chosen)


@pytest.mark.parametrize("options", OPTIONS)
@settings(max_examples=60, deadline=None)
@given(segments=segment_lists, seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_masks_match_a_plain_python_implementation(options, segments, seed, epoch):
    data = rows_of(segments, seed=seed, low=1)  # some tokens are special ones inside the text
    ids, offsets, starts = data
    examples = [number << 32 | 5 for number in range(len(segments))]
    found = mask(data, examples, seed=seed, epochs=epoch, **options)
    for row, example in enumerate(examples):
        inside = slice(offsets[row], offsets[row + 1])
        expected, chosen = plain_mask(ids[inside].tolist(), starts[row], example, epoch, seed, MaskingConfig(**options))
        assert positions_of(found, row) == chosen
        assert found.input_ids[inside].tolist() == expected


@pytest.mark.parametrize("options", OPTIONS)
def test_labels_are_the_original_ids_and_all_else_is_untouched(options):
    ids, offsets, _ = MANY
    found = mask(MANY, **options)
    where = flat_positions(offsets, found)
    assert len(where) > 10_000
    assert np.array_equal(ids[where], found.mask_labels)
    restored = found.input_ids.copy()
    restored[where] = found.mask_labels
    assert np.array_equal(restored, ids)
    assert not np.isin(found.mask_labels, VOCABULARY.special).any()


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[2]])
@settings(max_examples=60, deadline=None)
@given(segments=segment_lists, probability=st.sampled_from([0.15, 0.4, 0.01, 0.99]))
def test_each_segment_has_its_rounded_share_of_tokens_masked(options, segments, probability):
    data = rows_of(segments)
    found = mask(data, mlm_probability=probability, **options)
    for row, sizes in enumerate(segments):
        positions = np.array(positions_of(found, row))
        expected = [math.floor(probability * size + 0.5) for size in sizes]
        assert [(positions < data[2][row]).sum(), (positions >= data[2][row]).sum()] == expected


@settings(max_examples=100, deadline=None)
@given(segments=segment_lists)
def test_whole_words_are_predicted_and_no_fitting_word_remains(segments):
    data = rows_of(segments)
    ids, offsets, starts = data
    found = mask(data, whole_words=True)
    for row, _ in enumerate(segments):
        chosen, text = set(positions_of(found, row)), ids[offsets[row] : offsets[row + 1]].tolist()
        for inside in (range(1, starts[row] - 1), range(starts[row], len(text) - 1)):
            words = plain_words(inside, text, True)
            assert all(chosen.issuperset(word) or chosen.isdisjoint(word) for word in words)
            left = math.floor(0.15 * len(inside) + 0.5) - len(chosen & set(inside))
            assert left >= 0
            assert all(len(word) > left for word in words if chosen.isdisjoint(word))


@pytest.mark.parametrize("options", OPTIONS)
@settings(max_examples=40, deadline=None)
@given(segments=segment_lists, epoch=st.integers(0, 3))
def test_the_count_is_that_of_the_masks(options, segments, epoch):
    ids, offsets, starts = rows_of(segments, low=1)
    examples = np.arange(len(segments))
    masker = Masker(VOCABULARY, MaskingConfig(**options), 7, COUNTS)
    given_rows = {"offsets": offsets, "segment_b_start": starts, "example_ids": examples, "epochs": epoch}
    assert masker.count(ids, **given_rows).tolist() == np.diff(masker.mask(ids, **given_rows).mask_offsets).tolist()


@pytest.mark.parametrize("options", OPTIONS)
@settings(max_examples=40, deadline=None)
@given(segments=segment_lists, order=st.randoms(use_true_random=False), chunk=st.sampled_from([1, 3, 1 << 16]))
def test_neither_batch_nor_order_changes_the_masks_of_an_example(options, segments, order, chunk):
    data = rows_of(segments)
    ids, offsets, starts = data
    whole = mask(data, **options)
    rows = list(range(len(segments)))
    order.shuffle(rows)
    mixed = (
        np.concatenate([ids[offsets[row] : offsets[row + 1]] for row in rows]),
        np.concatenate([[0], np.cumsum(np.diff(offsets)[rows])]),
        starts[rows],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "_CHUNK_ROWS", chunk)
        found = mask(mixed, rows, **options)
    for place, row in enumerate(rows):
        assert positions_of(found, place) == positions_of(whole, row)
        inside = slice(mixed[1][place], mixed[1][place + 1])
        assert found.input_ids[inside].tolist() == whole.input_ids[offsets[row] : offsets[row + 1]].tolist()


def test_a_batch_may_hold_two_epochs():
    epochs = np.arange(2000) % 2
    both, first, second = (mask(MANY, epochs=given_epochs) for given_epochs in (epochs, 0, 1))
    for row in range(50):
        assert positions_of(both, row) == positions_of((first, second)[row % 2], row)


@pytest.mark.parametrize("change", [{"seed": 8}, {"epochs": 1}, {"example_ids": np.arange(2000) + 2000}])
def test_another_seed_epoch_or_example_has_other_masks(change):
    first, second = mask(MANY), mask(MANY, **change)
    assert len(first.mask_positions) == len(second.mask_positions)
    assert np.mean(first.mask_positions == second.mask_positions) < 0.2


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("segments", [[(0, 0)], [(1, 0), (0, 1)], [(3, 3)]])
def test_segments_that_are_too_short_have_no_mask(options, segments):
    found = mask(rows_of(segments), **options)
    assert len(found.mask_positions) == 0
    assert found.mask_offsets.tolist() == [0] * (len(segments) + 1)


def test_no_row_gives_no_mask():
    found = mask((np.empty(0, np.uint16), np.zeros(1, np.int64), np.empty(0, np.int64)))
    assert found.mask_offsets.tolist() == [0]


def test_without_a_segment_b_the_share_is_that_of_the_text():
    ids, offsets, _ = rows_of([(60, 0)] * 20)
    single = (ids, offsets, np.diff(offsets))  # segment B begins where the row ends
    assert np.diff(mask(single).mask_offsets).tolist() == [9] * 20


def chi_square(counts, expected):
    """Return the chi-square statistic in standard deviations above its mean."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_shares_are_80_10_10_within_chance(options):
    ids, offsets, _ = MANY
    found = mask(MANY, **options)
    where = flat_positions(offsets, found)
    seen = found.input_ids[where]
    is_mask, is_kept = seen == MASK, seen == ids[where]
    counts = [is_mask.sum(), (~is_mask & ~is_kept).sum(), is_kept.sum()]
    assert chi_square(counts, len(where) * np.array([0.8, 0.1, 0.1])) < 8  # p > 1e-4 with 2 degrees of freedom


def test_a_random_token_differs_from_the_original_and_is_uniform_over_the_others():
    data = rows_of([(60, 60)] * 4000)
    found = mask(data, mask_share=0.0, random_share=1.0, keep_share=0.0)
    where = flat_positions(data[1], found)
    seen = found.input_ids[where]
    assert (seen != data[0][where]).all()
    # Each id is drawn by all tokens but those that are the id itself.
    own = np.bincount(found.mask_labels, minlength=SIZE)[FIRST:]
    expected = (len(seen) - own) / (SIZE - FIRST - 1)
    assert abs(chi_square(np.bincount(seen, minlength=SIZE)[FIRST:], expected)) < 4


def test_every_position_is_masked_equally_often_and_independently():
    rows, size, wanted = 20_000, 40, 6
    found = mask(rows_of([(size, 3)] * rows))
    chosen = np.zeros((rows, size), dtype=bool)
    row = np.repeat(np.arange(rows), np.diff(found.mask_offsets))
    in_a = found.mask_positions < size + 1
    chosen[row[in_a], found.mask_positions[in_a] - 1] = True
    counts = chosen.sum(axis=0)
    deviation = (counts - rows * wanted / size) / math.sqrt(rows * wanted / size * (1 - wanted / size))
    assert abs((deviation**2).sum() - size) < 4 * math.sqrt(2 * size)
    pairs = (chosen[:, 1:] & chosen[:, :-1]).sum()
    expected = rows * (size - 1) * wanted * (wanted - 1) / (size * (size - 1))
    assert abs(pairs - expected) < 5 * math.sqrt(expected)


def test_rare_tokens_are_chosen_as_often_as_in_drawing_one_by_one():
    tokens = np.arange(FIRST, FIRST + 20)  # a segment of 20 tokens with other counts each, 3 of them predicted
    rows = 20_000
    ids = np.tile(np.concatenate([[CLS], tokens, [SEP], [SEP]]), rows).astype(np.uint16)
    data = (ids, np.arange(rows + 1) * 23, np.full(rows, 22))
    found = mask(data, rare_token_exponent=0.7)
    counts = np.bincount(found.mask_labels, minlength=SIZE)[tokens]
    weights = np.maximum(COUNTS[tokens], 1.0) ** -0.7
    rng = np.random.default_rng(5)
    drawn = np.zeros(20)
    for _ in range(rows):
        drawn[rng.choice(20, size=3, replace=False, p=weights / weights.sum())] += 1
    assert counts.sum() == drawn.sum() == 3 * rows
    deviation = (counts - drawn) / np.sqrt(counts + drawn + 1)
    assert abs(deviation).max() < 4.5
    assert np.corrcoef(counts, weights)[0, 1] > 0.5
