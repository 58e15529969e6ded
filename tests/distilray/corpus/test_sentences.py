from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.sentences import split_sentences

# Sentences by language, one per line; a blank line separates texts.
GOLDEN = Path(__file__).parent / "golden_sentences"


@pytest.mark.parametrize("language", sorted(file.stem for file in GOLDEN.iterdir()))
def test_text_splits_by_the_rules_of_its_language(language: str) -> None:
    space = "" if language in ("ja", "zh") else " "
    for text in (GOLDEN / f"{language}.txt").read_text(encoding="utf-8").split("\n\n"):
        sentences = text.rstrip("\n").split("\n")
        assert split_sentences(space.join(sentences), language) == sentences


CLAUSE = "ท่าเรือแห่งนี้สร้างขึ้นเมื่อต้นศตวรรษที่ยี่สิบ"
# Name, language, text and its sentences.
OTHER_CASES = [
    ("a language with a region", "de-CH", "Am 3. Mai kam er.", ["Am 3. Mai kam er."]),
    ("an initial at the start", "it", "G. Verdi compose.", ["G. Verdi compose."]),
    ("a full stop in Thai", "th", "ดร. สมชาย มาที่นี่", ["ดร. สมชาย มาที่นี่"]),
    ("long clauses of Thai", "th", f"{CLAUSE} มาก {CLAUSE} 1990 {CLAUSE}", [CLAUSE, f"มาก {CLAUSE} 1990 {CLAUSE}"]),
    ("a line break in Chinese", "zh", "这个港口很\n大。它很古老。", ["这个港口很大。", "它很古老。"]),
    ("a paragraph break", "en", "He said\n\nthat it ended", ["He said", "that it ended"]),
    ("white space", "en", "It \t was\nover\u00a0now.  It is.", ["It was over now.", "It is."]),
    ("lower case", "en", "He asked why? and left.", ["He asked why? and left."]),
    ("a bracket", "en", "(It gives tables (of scales).) It is.", ["(It gives tables (of scales).)", "It is."]),
]


@pytest.mark.parametrize(
    ("language", "text", "expected"), [pytest.param(*case, id=name) for name, *case in OTHER_CASES]
)
def test_text_splits_at_paragraphs_and_not_at_spaces(language: str, text: str, expected: list[str]) -> None:
    assert split_sentences(text, language) == expected


def test_a_closing_bracket_stays_with_its_sentence() -> None:
    assert not [part for part in split_sentences("He left (she asked. Why? ). They met.") if part.startswith(")")]


@given(
    st.text(alphabet="aB. \n?!\"'(1)\u00a0é。」と说กข1z"),
    st.sampled_from(["en", "de", "ja", "zh", "th", "ru", "km"]),
)
def test_no_word_is_lost_or_added(text: str, language: str) -> None:
    assert "".join("".join(split_sentences(text, language)).split()) == "".join(text.split())
