import math
import struct
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.config.pretraining_data import MaskingConfig
from distilray.pretraining_data import masking
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.tokenizer import Vocabulary

UNK, CLS, SEP, MASK = 1, 2, 3, 4
FIRST, SIZE = 10, 400  # ordinary ids; those from 300 on continue a word
CONTINUATION = np.arange(SIZE) >= 300
REPLACEMENTS = np.arange(FIRST, SIZE, dtype=np.uint16)
VOCABULARY = Vocabulary(SIZE, 0, UNK, CLS, SEP, MASK, (0, 1, 2, 3, 4), REPLACEMENTS, CONTINUATION)
COUNTS = np.random.default_rng(2).integers(0, 5000, size=SIZE)
OPTIONS = {
    "uniform": {},
    "whole words": {"whole_words": True},
    "rare tokens": {"rare_token_exponent": 0.7},
    "rare whole words": {"whole_words": True, "rare_token_exponent": 0.7},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def rows_of(segments, seed=1, low=FIRST):
    """Return ids, offsets and starts of B of rows `[CLS] A [SEP] B [SEP]` with random tokens, from `low` on.

    Without a B, as in paper mode, a row is `[CLS] A [SEP]`, and B starts where it ends.
    """
    rng = np.random.default_rng(seed)
    rows = [
        [CLS, *rng.integers(low, SIZE, a), SEP, *([] if b is None else [*rng.integers(low, SIZE, b), SEP])]
        for a, b in segments
    ]
    offsets = np.cumsum([0, *map(len, rows)])
    return np.array([*chain(*rows)], np.uint16), offsets, np.array([a + 2 for a, _ in segments], np.int64)


# Masking in plain Python, one token at a time.

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


def plain_words(positions, ids, whole_words):
    words = []
    for position in positions:
        if whole_words and words and position == words[-1][-1] + 1 and CONTINUATION[ids[position]]:
            words[-1].append(position)
        else:
            words.append([position])
    return words


def plain_mask(ids, b_start, example, epoch, seed, config):
    """Return the input ids and the masked positions."""
    seen, chosen = list(ids), []
    for segment in (range(b_start), range(b_start, len(ids))):
        positions = [position for position in segment if ids[position] not in VOCABULARY.special]
        left = math.floor(config.mlm_probability * len(positions) + 0.5)
        words = []
        for word in plain_words(positions, ids, config.whole_words):
            weight = None
            if config.rare_token_exponent:
                weight = max(max(1, int(COUNTS[ids[position]])) ** -config.rare_token_exponent for position in word)
            words.append((plain_key(plain_hash(seed, epoch, example, word[0]), weight), word))
        for _, word in sorted(words):
            if len(word) <= left:
                chosen += word
                left -= len(word)
        assert left == 0 or config.whole_words
    for position in chosen:
        action = (plain_hash(seed, epoch, example, position, 0) >> 11) * 2.0**-53
        if action < config.mask_share:
            seen[position] = MASK
        elif action < config.mask_share + config.random_share:
            others = [token for token in range(FIRST, SIZE) if token != ids[position]]
            seen[position] = others[plain_hash(seed, epoch, example, position, 1) % len(others)]
    return seen, sorted(chosen)


@every_option
@pytest.mark.parametrize("probability", [0.15, 0.4, 0.01, 0.99])
@settings(max_examples=20)
@given(
    segments=st.lists(st.tuples(st.integers(0, 70), st.none() | st.integers(0, 70)), max_size=12),
    seed=st.integers(0, 2**40),
    chunk=st.sampled_from([1, 3, 1 << 16]),
)
def test_masks_and_their_counts_match_a_plain_python_implementation(options, probability, segments, seed, chunk):
    ids, offsets, starts = rows_of(segments, seed=seed, low=1)  # some tokens are special ones inside the text
    epochs, examples = np.arange(len(segments)) % 3, np.arange(len(segments)) << 32 | 5
    config = MaskingConfig(mlm_probability=probability, mask_share=0.5, random_share=0.3, keep_share=0.2, **options)
    masker = Masker(VOCABULARY, config, seed, COUNTS)
    arguments = {"offsets": offsets, "segment_b_start": starts, "example_ids": examples, "epochs": epochs}
    original = ids.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "_CHUNK_ROWS", chunk)
        masked = masker.mask(ids, **arguments)
        counts = masker.count(ids, **arguments)
    assert np.array_equal(ids, original)
    assert counts.tolist() == np.diff(masked.mask_offsets).tolist()
    assert len(masked.input_ids) == len(ids)
    for row, (example, epoch) in enumerate(zip(examples.tolist(), epochs.tolist(), strict=True)):
        tokens, inside = slice(*offsets[row : row + 2]), slice(*masked.mask_offsets[row : row + 2])
        text = ids[tokens].tolist()
        expected, positions = plain_mask(text, starts[row], example, epoch, seed, config)
        assert masked.mask_positions[inside].tolist() == positions
        assert masked.mask_labels[inside].tolist() == [text[position] for position in positions]
        assert masked.input_ids[tokens].tolist() == expected


def chi_square(counts, expected):
    """Return the chi-square statistic in standard deviations above its mean."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def seen_and_labels(data, **options):
    """Return the tokens that the model sees at the masked positions, and the original ones."""
    ids, offsets, starts = data
    masker = Masker(VOCABULARY, MaskingConfig(**options), 7, COUNTS)
    masked = masker.mask(ids, offsets=offsets, segment_b_start=starts, example_ids=np.arange(len(starts)))
    return masked.input_ids[np.repeat(offsets[:-1], np.diff(masked.mask_offsets)) + masked.mask_positions], (
        masked.mask_labels
    )


@every_option
def test_by_default_80_percent_are_masked_10_percent_replaced_and_10_percent_kept(options):
    sizes = np.random.default_rng(0).integers(1, 60, size=(2000, 2)).tolist()
    seen, labels = seen_and_labels(rows_of(sizes), **options)
    is_mask, is_kept = seen == MASK, seen == labels
    assert len(seen) > 10_000
    counts = [is_mask.sum(), (~is_mask & ~is_kept).sum(), is_kept.sum()]
    assert chi_square(counts, len(seen) * np.array([0.8, 0.1, 0.1])) < 8  # p > 1e-4 with 2 degrees of freedom


def test_a_replacement_differs_from_the_original_and_is_uniform_over_the_others():
    data = rows_of([(60, 60)] * 4000)
    seen, labels = seen_and_labels(data, mask_share=0.0, random_share=1.0, keep_share=0.0)
    assert (seen != labels).all()
    # Each id is drawn by all tokens but those that are the id itself.
    expected = (len(seen) - np.bincount(labels, minlength=SIZE)[FIRST:]) / (SIZE - FIRST - 1)
    assert abs(chi_square(np.bincount(seen, minlength=SIZE)[FIRST:], expected)) < 4


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_tokens_are_chosen_as_often_as_by_sequential_draws_with_their_weights(exponent):
    tokens, rows = np.arange(FIRST, FIRST + 20), 4000  # a segment of 20 tokens with different counts, 3 of them masked
    ids = np.tile(np.array([CLS, *tokens, SEP, SEP], np.uint16), rows)
    _, labels = seen_and_labels((ids, np.arange(rows + 1) * 23, np.full(rows, 22)), rare_token_exponent=exponent)
    counts = np.bincount(labels, minlength=SIZE)[tokens]
    weights = np.maximum(COUNTS[tokens], 1.0) ** -exponent
    rng, drawn = np.random.default_rng(5), np.zeros(20)
    for _ in range(rows):
        drawn[rng.choice(20, size=3, replace=False, p=weights / weights.sum())] += 1
    assert counts.sum() == drawn.sum() == 3 * rows
    assert (abs(counts - drawn) / np.sqrt(counts + drawn + 1)).max() < 4.5
    assert exponent == 0 or np.corrcoef(counts, weights)[0, 1] > 0.5
