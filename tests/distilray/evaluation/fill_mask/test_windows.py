import numpy as np
import pyarrow as pa
import pytest

from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.windows import Windows, encode_examples
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from tests.tiny.models import write_tiny_model


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    return read_tokenizer(write_tiny_model(tmp_path_factory.mktemp("tokenizer"), "bert"))


def example(text, *answers, row=1):
    return MaskedExample(row, tuple(text.split("_")), answers)


def encoded(tokenizer_json, *examples, max_length=48, fill_all=False):
    return encode_examples(examples, tokenizer_json, max_length=max_length, fill_all=fill_all)


def tokens_of(tokenizer_json, windows):
    """Return the tokens of each window."""
    tokenizer = build_tokenizer(tokenizer_json)
    split = np.split(windows.ids, windows.offsets[1:-1])
    return [[tokenizer.id_to_token(token) for token in ids] for ids in split if len(ids)]


def shown(tokenizer_json, windows):
    return [" ".join(tokens) for tokens in tokens_of(tokenizer_json, windows)]


def test_an_answer_gets_a_mask_token_for_each_of_its_word_pieces(tokenizer_json):
    windows, kept, bad = encoded(tokenizer_json, example("the _ and _ in rome", "cats", "Paris Rome Walked"))
    # cat ##s; paris rome w ##a ##l ##k ##ed
    masks = " ".join(["[MASK]"] * 7)
    assert shown(tokenizer_json, windows) == [f"[CLS] the [MASK] [MASK] and {masks} in rome [SEP]"]
    assert (windows.start.tolist(), windows.pieces.tolist(), windows.window.tolist()) == ([2, 5], [2, 7], [0, 0])
    assert (len(kept), bad) == (1, [])


def test_the_tokens_of_a_text_are_those_of_the_whole_text_with_mask_tokens(tokenizer_json):
    texts = ["_ is old", "paris, _!", "it's _ and_the_", "[SEP] _ Zürich"]
    windows, _, _ = encoded(tokenizer_json, *(example(text, *["cat"] * text.count("_")) for text in texts))
    whole = [build_tokenizer(tokenizer_json).encode(text.replace("_", "[MASK]")).tokens for text in texts]
    assert tokens_of(tokenizer_json, windows) == whole


def test_the_true_ids_stand_at_the_masks_in_the_order_of_the_text(tokenizer_json):
    windows, _, _ = encoded(tokenizer_json, example("_ in _", "old cats", "rome"), example("a _", "dog", row=4))
    tokenizer = build_tokenizer(tokenizer_json)
    assert [tokenizer.id_to_token(token) for token in windows.labels] == ["old", "cat", "##s", "rome", "dog"]
    assert windows.bounds.tolist() == [0, 3, 4, 5]
    assert (windows.row.tolist(), windows.mask.tolist()) == ([1, 1, 4], [0, 1, 0])
    mask = vocabulary_of(tokenizer_json).mask
    for answer, count in enumerate(windows.pieces):
        begin = windows.offsets[windows.window[answer]] + windows.start[answer]
        assert (windows.ids[begin : begin + count] == mask).all()


@pytest.mark.parametrize("words", range(1, 40))
@pytest.mark.parametrize("answer", ["cat", "old cats"])
def test_a_long_text_is_cut_to_the_longest_window_with_the_mask_nearest_to_its_middle(tokenizer_json, words, answer):
    length, room, total = 12, 10, 40
    count = {"cat": 1, "old cats": 3}[answer]
    before = " ".join(["the"] * words)
    windows, _, _ = encoded(
        tokenizer_json, example(f"{before} _ {' '.join(['sun'] * (total - words))}", answer), max_length=length
    )
    (tokens,) = tokens_of(tokenizer_json, windows)
    assert (tokens[0], tokens[-1], len(tokens)) == ("[CLS]", "[SEP]", length)
    first = tokens.index("[MASK]")
    assert first == windows.start[0]
    left, right = first - 1, room - count - (first - 1)
    assert tokens == ["[CLS]", *["the"] * left, *["[MASK]"] * count, *["sun"] * right, "[SEP]"]
    ends = left == words or right == total - words
    assert ends or abs(left - right) <= 1


def test_each_mask_of_a_long_text_has_a_window_of_its_own_where_the_others_stay_masks(tokenizer_json):
    text = "the _ " * 10
    windows, _, _ = encoded(tokenizer_json, example(text, *["cat"] * 10), max_length=8)
    assert windows.window.tolist() == list(range(10))
    assert all(tokens.count("[MASK]") == 3 for tokens in tokens_of(tokenizer_json, windows))


@pytest.mark.parametrize("over", [0, 1])
def test_a_text_is_cut_exactly_when_it_is_longer_than_the_model_reads(tokenizer_json, over):
    windows, _, _ = encoded(tokenizer_json, example("_ _" + " sun" * (8 + over), "cat", "dog"), max_length=12)
    assert windows.lengths.tolist() == [12] * (1 + over)


def test_masks_without_an_answer_are_shown_and_asked_only_when_all_are_to_be_filled(tokenizer_json):
    masked = example("_ and _", "cat")
    scored, _, _ = encoded(tokenizer_json, masked)
    filled, _, _ = encoded(tokenizer_json, masked, fill_all=True)
    assert shown(tokenizer_json, scored) == shown(tokenizer_json, filled) == ["[CLS] [MASK] and [MASK] [SEP]"]
    assert (scored.scored.tolist(), filled.scored.tolist()) == ([1], [1, 0])
    assert filled.start.tolist() == [1, 3]


def test_windows_in_which_nothing_is_scored_are_left_out(tokenizer_json):
    masked = example("_ " + "sun " * 30 + "_", "cat")
    filled, _, _ = encoded(tokenizer_json, masked, example("a _", "dog", row=2), max_length=10, fill_all=True)
    scored, _, _ = encoded(tokenizer_json, masked, example("a _", "dog", row=2), max_length=10)
    assert (len(filled.lengths), len(scored.lengths)) == (3, 2)
    assert shown(tokenizer_json, scored)[1] == "[CLS] a [MASK] [SEP]"
    assert (scored.window.tolist(), scored.row.tolist()) == ([0, 1], [1, 2])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("日本", "answer_unknown"),
        ("paris 日本", "answer_unknown"),
        ("[SEP]", "answer_special"),
        ("\u200b", "answer_empty"),
        ("sun " * 11, "answer_too_long"),
    ],
)
def test_an_answer_that_no_mask_can_hold_is_a_bad_row(tokenizer_json, answer, reason):
    windows, kept, bad = encoded(
        tokenizer_json, example("a _ _", "cat", answer, row=7), example("_", "cat", row=8), max_length=12
    )
    assert [(row.row, row.reason) for row in bad] == [(7, reason)]
    assert [row.row for row in kept] == windows.row.tolist() == [8]


def test_windows_survive_arrow(tokenizer_json):
    windows, _, _ = encoded(tokenizer_json, example("the _ and _", "cats", "sun"))
    again = Windows.from_row(pa.table(windows.to_columns()))
    assert all((getattr(again, name) == value).all() for name, value in vars(windows).items())


def test_no_example_gives_no_window(tokenizer_json):
    windows, kept, bad = encoded(tokenizer_json)
    assert (len(windows.lengths), len(windows.labels), kept, bad) == (0, 0, [], [])
