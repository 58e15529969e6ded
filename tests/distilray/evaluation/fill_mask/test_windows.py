import numpy as np
import pyarrow as pa
import pytest

from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.windows import Windows, encode_examples
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer


@pytest.fixture(scope="module")
def tokenizer_json(tokenizer_dir):
    return read_tokenizer(tokenizer_dir)


@pytest.fixture(scope="module")
def encode(tokenizer_json):
    """Encode examples; return the windows, their tokens, the encoded examples and the bad rows."""

    def encode(*examples, max_length=48, fill_all=False):
        windows, kept, bad = encode_examples(examples, tokenizer_json, max_length=max_length, fill_all=fill_all)
        tokens = [build_tokenizer(tokenizer_json).id_to_token(token) for token in windows.ids]
        split = [tokens[start:end] for start, end in zip(windows.offsets, windows.offsets[1:], strict=False)]
        return windows, split, kept, bad

    return encode


def example(text, *answers, row=1):
    return MaskedExample(row, tuple(text.split("_")), answers)


def test_an_answer_has_a_mask_token_for_each_of_its_word_pieces(encode, tokenizer_json):
    windows, tokens, kept, bad = encode(
        example("the _ and _ in rome", "cats", "Paris Rome Walked"), example("a _", "dog", row=4)
    )
    # cat ##s; paris rome w ##a ##l ##k ##ed
    masks = " ".join(["[MASK]"] * 7)
    first = f"[CLS] the [MASK] [MASK] and {masks} in rome [SEP]"
    assert [" ".join(each) for each in tokens] == [first, "[CLS] a [MASK] [SEP]"]
    assert (windows.start.tolist(), windows.pieces.tolist(), windows.window.tolist()) == (
        [2, 5, 2],
        [2, 7, 1],
        [0, 0, 1],
    )
    assert (windows.row.tolist(), windows.mask.tolist()) == ([1, 1, 4], [0, 1, 0])
    assert windows.bounds.tolist() == [0, 2, 9, 10]
    labels = [build_tokenizer(tokenizer_json).id_to_token(token) for token in windows.labels]
    assert labels == ["cat", "##s", "paris", "rome", "w", "##a", "##l", "##k", "##ed", "dog"]
    assert (len(kept), bad) == (2, [])
    copy = Windows.from_row(pa.table(windows.to_columns()))
    assert all((getattr(copy, name) == value).all() for name, value in vars(windows).items())


def test_a_text_is_tokenized_as_a_whole(encode, tokenizer_json):
    texts = ["_ is old", "paris, _!", "it's _ and_the_", "[SEP] _ Zürich"]
    _, tokens, _, _ = encode(*(example(text, *["cat"] * text.count("_")) for text in texts))
    assert tokens == [build_tokenizer(tokenizer_json).encode(text.replace("_", "[MASK]")).tokens for text in texts]


@pytest.mark.parametrize("words", range(1, 40))
@pytest.mark.parametrize(("answer", "pieces"), [("cat", 1), ("old cats", 3)])
def test_a_long_text_is_cut_to_the_longest_window_around_the_mask(encode, words, answer, pieces):
    text = f"{' '.join(['the'] * words)} _ {' '.join(['sun'] * (40 - words))}"
    windows, (tokens,), _, _ = encode(example(text, answer), max_length=12)
    left = tokens.index("[MASK]") - 1
    right = 10 - pieces - left
    assert windows.start.tolist() == [left + 1]
    assert tokens == ["[CLS]", *["the"] * left, *["[MASK]"] * pieces, *["sun"] * right, "[SEP]"]
    is_at_an_end = left == words or right == 40 - words
    assert is_at_an_end or abs(left - right) <= 1


def test_each_mask_of_a_long_text_has_its_own_window(encode):
    windows, tokens, _, _ = encode(example("the _ " * 10, *["cat"] * 10), max_length=8)
    assert windows.window.tolist() == list(range(10))
    assert all(each.count("[MASK]") == 3 for each in tokens)  # other answers remain masked


@pytest.mark.parametrize(("words", "lengths"), [(8, [12]), (9, [12, 12])])
def test_a_text_is_cut_only_if_it_is_longer_than_the_model_reads(encode, words, lengths):
    windows, *_ = encode(example("_ _" + " sun" * words, "cat", "dog"), max_length=12)
    assert windows.lengths.tolist() == lengths


@pytest.mark.parametrize(("fill_all", "scored", "starts", "number"), [(False, [1], [1], 2), (True, [1, 0], [1, 3], 3)])
def test_masks_without_an_answer_are_predicted_only_to_fill_all(encode, fill_all, scored, starts, number):
    windows, tokens, _, _ = encode(example("_ and _", "cat"), fill_all=fill_all)
    assert tokens == [["[CLS]", "[MASK]", "and", "[MASK]", "[SEP]"]]
    assert (windows.scored.tolist(), windows.start.tolist()) == (scored, starts)
    distant = example("_ " + "sun " * 30 + "_", "cat")
    windows, tokens, _, _ = encode(distant, example("a _", "dog", row=2), max_length=10, fill_all=fill_all)
    assert len(windows.lengths) == number
    assert tokens[-1] == ["[CLS]", "a", "[MASK]", "[SEP]"]
    assert windows.row[windows.scored == 1].tolist() == [1, 2]
    assert windows.window[windows.scored == 1].tolist() == [0, number - 1]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("日本", "answer_unknown"),
        ("paris 日本", "answer_unknown"),
        ("[SEP]", "answer_special"),
        ("\u200b", "answer_empty"),
        ("sun " * 11, "answer_too_long"),
        ("sun " * 10, None),
    ],
)
def test_an_answer_that_no_mask_can_hold_is_a_bad_row(encode, answer, reason):
    windows, _, kept, bad = encode(example("a _ _", "cat", answer, row=7), example("_", "cat", row=8), max_length=12)
    assert [(row.row, row.reason) for row in bad] == ([(7, reason)] if reason else [])
    assert [row.row for row in kept] == np.unique(windows.row).tolist() == ([8] if reason else [7, 8])


def test_no_example_gives_no_window(encode):
    windows, _, kept, bad = encode()
    assert (len(windows.lengths), len(windows.labels), kept, bad) == (0, 0, [], [])
