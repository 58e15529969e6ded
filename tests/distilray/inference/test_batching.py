import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.inference.encoding import length_sorted_batches, pad_batch


@given(st.lists(st.integers(1, 600)), st.integers(1, 40), st.integers(1, 5000))
def test_every_text_is_in_exactly_one_batch(lengths, max_rows, max_tokens):
    batches = length_sorted_batches(lengths, max_rows=max_rows, max_tokens=max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 600)), st.integers(1, 40), st.integers(1, 5000))
def test_a_batch_keeps_both_budgets_unless_it_is_one_text(lengths, max_rows, max_tokens):
    for batch in length_sorted_batches(lengths, max_rows=max_rows, max_tokens=max_tokens):
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens


@pytest.mark.parametrize("lengths", [[3, 9, 1, 9, 5]])
def test_texts_of_like_length_share_a_batch(lengths):
    assert length_sorted_batches(lengths, max_rows=2, max_tokens=100) == [[1, 3], [4, 0], [2]]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=5))
def test_padding_keeps_every_token_in_its_place_and_masks_the_rest(rows):
    input_ids, attention_mask = pad_batch(rows, 0)
    assert input_ids.shape == attention_mask.shape == (len(rows), max(map(len, rows)))
    assert [ids[real == 1].tolist() for ids, real in zip(input_ids, attention_mask, strict=True)] == rows
    assert (input_ids[attention_mask == 0] == 0).all()
