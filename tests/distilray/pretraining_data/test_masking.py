import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distilray.config.pretraining_data import MaskingConfig
from distilray.pretraining_data.masking import mask_examples
from distilray.pretraining_data.tokenizer import Vocabulary

CLS, SEP = 2, 3
VOCABULARY = Vocabulary(400, 0, 1, CLS, SEP, 4, (0, 1, 2, 3, 4), np.arange(10, 400, dtype=np.uint16))


def rows_of(segments, seed=1):
    """Rows `[CLS] a [SEP] b [SEP]` with random tokens; returns ids, offsets, segment_b_start."""
    rng = np.random.default_rng(seed)
    rows = [
        np.concatenate([[CLS], rng.integers(10, 400, a), [SEP], rng.integers(10, 400, b), [SEP]]) for a, b in segments
    ]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return np.concatenate(rows).astype(np.uint16), offsets, np.array([a + 2 for a, _ in segments])


def mask(segments, example_ids=None, *, seed=7, epoch=0, data=None, **shares):
    ids, offsets, starts = data or rows_of(segments)
    example_ids = np.arange(len(offsets) - 1) if example_ids is None else np.asarray(example_ids)
    found = mask_examples(
        ids,
        offsets=offsets,
        segment_b_start=starts,
        example_ids=example_ids,
        vocabulary=VOCABULARY,
        masking=MaskingConfig(**shares),
        seed=seed,
        epoch=epoch,
    )
    return ids, offsets, starts, found


def flat_positions(offsets, found):
    return np.repeat(offsets[:-1], np.diff(found.mask_offsets)) + found.mask_positions


MANY = [(int(a), int(b)) for a, b in np.random.default_rng(0).integers(1, 60, size=(2000, 2))]


def test_labels_are_the_original_ids_and_all_else_is_untouched():
    ids, offsets, _, found = mask(MANY)
    where = flat_positions(offsets, found)
    assert np.array_equal(ids[where], found.mask_labels)
    untouched = np.ones(len(ids), dtype=bool)
    untouched[where] = False
    assert np.array_equal(ids[untouched], found.input_ids[untouched])


def test_special_tokens_are_never_masked():
    _, _, _, found = mask(MANY)
    assert not np.isin(found.mask_labels, VOCABULARY.special).any()


@settings(max_examples=60, deadline=None)
@given(segments=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=12))
def test_each_segment_has_round_15_percent_of_its_tokens_masked(segments):
    _, _, starts, found = mask(segments)
    for row, (a, b) in enumerate(segments):
        positions = found.mask_positions[found.mask_offsets[row] : found.mask_offsets[row + 1]]
        expected = [int(np.floor(0.15 * size + 0.5)) for size in (a, b)]
        assert [(positions < starts[row]).sum(), (positions >= starts[row]).sum()] == expected
        assert len(set(positions.tolist())) == len(positions)


def test_a_random_token_differs_from_the_original_and_is_drawable():
    ids, offsets, _, found = mask(MANY, mask_share=0.0, random_share=1.0, keep_share=0.0)
    where = flat_positions(offsets, found)
    assert (found.input_ids[where] != ids[where]).all()
    assert np.isin(found.input_ids[where], VOCABULARY.drawable).all()


def test_random_tokens_are_uniform_over_the_drawable_ones():
    _, offsets, _, found = mask(MANY * 6, mask_share=0.0, random_share=1.0, keep_share=0.0)
    counts = np.bincount(found.input_ids[flat_positions(offsets, found)], minlength=400)[10:]
    expected = counts.mean()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - len(counts)) < 5 * np.sqrt(2 * len(counts))


def test_the_shares_are_80_10_10_within_chance():
    ids, offsets, _, found = mask(MANY * 4)
    where = flat_positions(offsets, found)
    seen = found.input_ids[where]
    shares = [np.mean(seen == VOCABULARY.mask), np.mean((seen != VOCABULARY.mask) & (seen != ids[where]))]
    for share, expected in zip(shares, (0.8, 0.1), strict=True):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(where))


def test_every_place_of_a_segment_is_masked_equally_often():
    _, _, _, found = mask([(40, 3)] * 4000)
    counts = np.bincount(found.mask_positions[found.mask_positions < 41], minlength=41)[1:]
    assert abs(counts - 600).max() < 5 * np.sqrt(600 * 0.85)


def test_the_masks_of_an_example_do_not_depend_on_what_is_in_the_batch():
    data = rows_of(MANY)
    ids, offsets, starts, whole = mask(MANY, data=data)
    for row in (0, 17, 1999):
        part = slice(offsets[row], offsets[row + 1])
        alone = (ids[part], np.array([0, offsets[row + 1] - offsets[row]]), starts[row : row + 1])
        _, _, _, single = mask(None, [row], data=alone)
        assert np.array_equal(single.input_ids, whole.input_ids[part])


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 1}])
def test_another_seed_or_epoch_masks_other_places(change):
    *_, first = mask(MANY)
    *_, second = mask(MANY, **change)
    assert len(first.mask_positions) == len(second.mask_positions)
    assert np.mean(first.mask_positions == second.mask_positions) < 0.2


def test_shares_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValidationError, match="must be 1"):
        MaskingConfig(mask_share=0.8, random_share=0.1, keep_share=0.2)
