import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.inference.encoding import InputTextError, length_sorted_batches, pad_batch

Lengths = st.lists(st.integers(1, 600))


@settings(max_examples=50)
@given(Lengths, st.integers(1, 40), st.integers(1, 5000))
def test_every_text_is_in_one_batch_which_exceeds_no_limit_unless_it_is_one_text(lengths, max_rows, max_tokens):
    batches = length_sorted_batches(lengths, max_rows=max_rows, max_tokens=max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens


@pytest.mark.parametrize(
    ("lengths", "max_rows", "max_tokens", "batches"),
    [
        ([3, 9, 1, 9, 5], 2, 100, [[1, 3], [4, 0], [2]]),
        ([4, 4, 4], 9, 8, [[0, 1], [2]]),
        ([9, 0], 9, 8, [[0], [1]]),
        ([], 9, 8, []),
    ],
)
def test_texts_of_similar_length_share_a_batch_as_large_as_the_limits_allow(lengths, max_rows, max_tokens, batches):
    assert length_sorted_batches(lengths, max_rows=max_rows, max_tokens=max_tokens) == batches


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=5), st.integers(0, 99))
def test_padding_is_after_the_tokens_and_masked(rows, pad_id):
    input_ids, attention_mask = pad_batch(rows, pad_id)
    assert input_ids.shape == attention_mask.shape == (len(rows), max(map(len, rows)))
    padded = [row + [pad_id] * (input_ids.shape[1] - len(row)) for row in rows]
    assert input_ids.tolist() == padded
    assert attention_mask.sum(axis=1).tolist() == list(map(len, rows))
    assert (attention_mask[:, :-1] >= attention_mask[:, 1:]).all()


def test_the_error_of_a_text_is_offset_in_a_longer_list_but_not_that_of_a_target():
    text, target = (InputTextError("too_long", 2, "shorten it", target=target) for target in (False, True))
    assert (text.offset_by(10).index, str(text.offset_by(10))) == (12, "text 12: shorten it")
    assert text.offset_by(10).kind == "too_long"
    assert str(target.offset_by(10)) == "targets[2]: shorten it"
