import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.config.evaluation import FillMaskDataConfig
from distilray.evaluation.fill_mask.examples import MaskedExample, fill_masks, mask_line, parse_example
from distilray.formats.bad_rows import BadRow

DATA = FillMaskDataConfig(path="unused")
FIRST = FillMaskDataConfig(path="unused", scored_masks="first")
LINE = "Paris is the capital of France, and it's an old city with a river."


def test_both_ways_to_write_a_mask_are_understood():
    found = parse_example(3, "<mask> is in [MASK].", ["Paris", "France"], DATA)
    assert found == MaskedExample(3, ("", " is in ", "."), ("Paris", "France"))


def test_a_string_is_the_answer_of_a_single_mask():
    assert parse_example(1, "a <mask>", "cat", DATA) == parse_example(1, "a <mask>", ["cat"], DATA)


def test_the_label_of_azures_form_is_the_answer_of_the_first_mask():
    assert parse_example(1, "[MASK] and [MASK]", "Ann", FIRST) == MaskedExample(1, ("", " and ", ""), ("Ann",))
    assert parse_example(1, "<mask> and <mask>", ["Ann", "Bob"], FIRST) == MaskedExample(1, ("", " and ", ""), ("Ann",))


@pytest.mark.parametrize(
    ("text", "answers", "reason"),
    [
        ("no mask here", ["a"], "no_mask"),
        ("<mask> <mask>", ["a"], "mask_count"),
        ("<mask>", ["a", "b"], "mask_count"),
        ("<mask>", [], "mask_count"),
        ("<mask>", [" "], "answer_empty"),
        ("<mask>", "", "answer_empty"),
        (None, ["a"], "text_missing"),
        (7, ["a"], "text_missing"),
        ("<mask>", None, "answers_missing"),
        ("<mask>", [3], "answers_missing"),
        ("<mask> \ud800", ["a"], "not_utf8"),
        ("<mask>", ["\udfff"], "not_utf8"),
        ("[CLS] a <mask> [SEP] [CLS] b [SEP]", ["a"], "special_token"),
        ("a [PAD] <mask>", ["a"], "special_token"),
        ("[CLS] a [SEP]", ["a"], "no_mask"),
    ],
)
def test_a_bad_row_has_its_number_and_one_reason(text, answers, reason):
    found = parse_example(9, text, answers, DATA)
    assert isinstance(found, BadRow)
    assert (found.row, found.reason) == (9, reason)


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
def test_the_special_tokens_of_a_decoded_text_are_not_doubled(decoded, text):
    answers = ["a"] * (text.count("[MASK]") + text.count("<mask>"))
    assert parse_example(1, decoded, answers, DATA) == MaskedExample(
        1, tuple(re.split(r"\[MASK\]|<mask>", text)), ("a",)
    )
    plain = decoded.replace("[MASK]", "cat").replace("<mask>", "cat")
    masked = mask_line(1, plain, fraction=1.0, seed=1)
    assert fill_masks(masked.fragments, masked.answers) == text.replace("[MASK]", "cat").replace("<mask>", "cat")


def test_an_empty_label_of_azures_form_is_a_bad_row():
    assert parse_example(1, "[MASK]", "", FIRST).reason == "answer_empty"
    assert parse_example(1, "[MASK]", [], FIRST).reason == "answer_empty"


def test_a_masked_line_filled_with_its_answers_is_the_line():
    found = mask_line(1, LINE, fraction=0.3, seed=5)
    assert len(found.answers) == round(0.3 * 14)
    assert fill_masks(found.fragments, found.answers) == LINE


@given(st.text(min_size=1), st.integers(0, 2**63 - 1), st.floats(0.01, 1.0))
def test_every_line_is_masked_at_whole_words_or_refused(line, seed, fraction):
    found = mask_line(1, line, fraction=fraction, seed=seed)
    if isinstance(found, BadRow):
        return
    assert fill_masks(found.fragments, found.answers) == line
    assert all(answer[0].isalnum() and answer[-1].isalnum() for answer in found.answers)


def test_the_masks_of_a_line_are_those_of_its_seed_wherever_it_stands():
    first = mask_line(1, LINE, fraction=0.15, seed=5)
    assert mask_line(400, LINE, fraction=0.15, seed=5).answers == first.answers
    assert len({mask_line(1, LINE, fraction=0.15, seed=seed).answers for seed in range(20)}) > 10


def test_each_word_is_masked_as_often_as_any_other():
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    counts = dict.fromkeys(words, 0)
    for seed in range(800):
        (answer,) = mask_line(1, " ".join(words), fraction=0.125, seed=seed).answers
        counts[answer] += 1
    assert all(70 < count < 130 for count in counts.values())


@pytest.mark.parametrize(
    ("line", "reason"), [("... --", "no_word"), ("a [MASK] b", "has_mask"), ("a \udcff", "not_utf8")]
)
def test_a_line_that_cannot_be_masked_is_a_bad_row(line, reason):
    assert mask_line(2, line, fraction=0.15, seed=1).reason == reason
