import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.config.evaluation import FillMaskDataConfig
from distilray.evaluation.fill_mask.examples import MaskedExample, fill_masks, mask_line, parse_example
from distilray.formats.bad_rows import BadRow

DATA = FillMaskDataConfig(path="unused")
FIRST = FillMaskDataConfig(path="unused", scored_masks="first")
LINE = "Paris is the capital of France, and it's an old city with a river."


@pytest.mark.parametrize(
    ("data", "text", "answers", "fragments", "expected"),
    [
        (DATA, "<mask> is in [MASK].", ["Paris", "France"], ("", " is in ", "."), ("Paris", "France")),
        (DATA, "a <mask>", "cat", ("a ", ""), ("cat",)),
        # Azure's format: the label is the answer of the first mask.
        (FIRST, "[MASK] and [MASK]", "Ann", ("", " and ", ""), ("Ann",)),
        (FIRST, "<mask> and <mask>", ["Ann", "Bob"], ("", " and ", ""), ("Ann",)),
    ],
)
def test_a_row_is_a_text_with_masks_and_their_answers(data, text, answers, fragments, expected):
    assert parse_example(3, text, answers, data) == MaskedExample(3, fragments, expected)


@pytest.mark.parametrize(
    ("data", "text", "answers", "reason"),
    [
        (DATA, "no mask here", ["a"], "no_mask"),
        (DATA, "<mask> <mask>", ["a"], "mask_count"),
        (DATA, "<mask>", ["a", "b"], "mask_count"),
        (DATA, "<mask>", [], "mask_count"),
        (DATA, "<mask>", [" "], "answer_empty"),
        (DATA, "<mask>", "", "answer_empty"),
        (FIRST, "[MASK]", "", "answer_empty"),
        (FIRST, "[MASK]", [], "answer_empty"),
        (DATA, None, ["a"], "text_missing"),
        (DATA, 7, ["a"], "text_missing"),
        (DATA, "<mask>", None, "answers_missing"),
        (DATA, "<mask>", [3], "answers_missing"),
        (DATA, "<mask> \ud800", ["a"], "not_utf8"),
        (DATA, "<mask>", ["\udfff"], "not_utf8"),
        (DATA, "[CLS] a <mask> [SEP] [CLS] b [SEP]", ["a"], "special_token"),
        (DATA, "a [PAD] <mask>", ["a"], "special_token"),
        (DATA, "[CLS] a [SEP]", ["a"], "no_mask"),
    ],
)
def test_a_bad_row_has_its_number_and_one_reason(data, text, answers, reason):
    bad = parse_example(9, text, answers, data)
    assert isinstance(bad, BadRow)
    assert (bad.row, bad.reason) == (9, reason)


@pytest.mark.parametrize(
    ("decoded", "text"),
    [
        ("[CLS] the [MASK] is. [SEP]", "the [MASK] is."),
        ("[CLS] the [MASK] is. [SEP] [PAD] [PAD]", "the [MASK] is."),
        ("[PAD] [PAD] [CLS] the [MASK] is. [SEP]", "the [MASK] is."),
        ("[CLS] the [MASK] is.", "the [MASK] is."),
        ("[CLS] the [MASK]? [SEP] yes. [SEP]", "the [MASK]? [SEP] yes."),
        ("<s>The <mask> is.</s><pad><pad>", "The <mask> is."),
        ("<s>The <mask>?</s></s>Yes.</s>", "The <mask>? [SEP] Yes."),
        ("<s><mask></s>", "<mask>"),
        ("  the <mask>  ", "  the <mask>  "),
        ("now <s>ten</s> <mask> for <s>20</s>", "now <s>ten</s> <mask> for <s>20</s>"),
    ],
)
def test_special_tokens_around_a_decoded_text_are_removed(decoded, text):
    mask = re.compile(r"\[MASK\]|<mask>")
    assert parse_example(1, decoded, ["a"], DATA) == MaskedExample(1, tuple(mask.split(text)), ("a",))
    masked = mask_line(1, mask.sub("cat", decoded), fraction=1.0, seed=1)
    assert fill_masks(masked.fragments, masked.answers) == mask.sub("cat", text)


def test_a_fraction_of_the_words_of_a_line_is_masked_depending_only_on_the_seed():
    masked = mask_line(1, LINE, fraction=0.3, seed=5)
    assert len(masked.answers) == round(0.3 * 14)
    assert fill_masks(masked.fragments, masked.answers) == LINE
    assert mask_line(400, LINE, fraction=0.3, seed=5).answers == masked.answers
    assert len({mask_line(1, LINE, fraction=0.15, seed=seed).answers for seed in range(20)}) > 10


@settings(max_examples=40)
@given(st.text(min_size=1), st.integers(0, 2**63 - 1), st.floats(0.01, 1.0))
def test_every_line_is_masked_at_whole_words_or_refused(line, seed, fraction):
    masked = mask_line(1, line, fraction=fraction, seed=seed)
    if not isinstance(masked, BadRow):
        assert fill_masks(masked.fragments, masked.answers) == line
        assert all(answer[0].isalnum() and answer[-1].isalnum() for answer in masked.answers)


def test_every_word_is_masked_equally_often():
    line = "one two three four five six seven eight"
    masked = [mask_line(1, line, fraction=0.125, seed=seed).answers for seed in range(800)]
    counts = Counter(word for words in masked for word in words)
    assert counts.total() == 800
    assert all(70 < counts[word] < 130 for word in line.split())


@pytest.mark.parametrize(
    ("line", "reason"),
    [("... --", "no_word"), ("a [MASK] b", "has_mask"), ("a \udcff", "not_utf8"), ("a [CLS] b", "special_token")],
)
def test_a_line_that_cannot_be_masked_is_a_bad_row(line, reason):
    assert mask_line(2, line, fraction=0.15, seed=1).reason == reason
