# ruff: noqa: RUF001 - punctuation of Chinese is the subject here

import pytest

from distilray.corpus.quality import count_holes, count_residue, per_thousand


@pytest.mark.parametrize(
    "piece",
    ["[[", "]]", "{{", "}}", "''", "<ref", "</b", "{|", "== H", "__TOC__", "https://a",
     "&nbsp;", "&#160;", "&#xA0;", "|", "-->",
     "formula_12", "codice_3", "__अनुक्रम_नहीं__", "__目次__"],
)  # fmt: skip
def test_markup_is_residue(piece: str) -> None:
    assert count_residue(f"The dog {piece} ran.") >= 1


@pytest.mark.parametrize(
    "piece",
    ["()", "( )", "(, a)", "[]", "(;)", " , ", "is  km long", "about miles away", "of the .",
     "and the, it", "(a, )", "( a)",
     "etwa km lang", "около км",
     "a ; b", "a,, b", '"" a', "from to 1990", "between and", "the height of of it", "the \ufffc"],
)  # fmt: skip
def test_missing_words_are_a_hole(piece: str) -> None:
    assert count_holes(f"The dog {piece} ran.") == 1


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "狗（）跑"),
        ("ja", "犬（、猫）"),
        ("ja", "「」と言う"),
        ("ar", "كلب، ،قط"),
        ("fr", "le mot « » dit"),
        ("es", "la casa de de la"),
    ],
)
def test_missing_words_in_another_language_are_a_hole(language: str, text: str) -> None:
    assert count_holes(text, language) == 1


@pytest.mark.parametrize(
    "text",
    [
        'The dog (Canis familiaris), a "hound", ran 3 km; it is 5.5 metres away, i.e. not far. A & B are [sic] fine.',
        "The main() function fills a[] with zeros.",
        "call __init__ and __FILE",
        "hundreds of miles",
        "the .NET way ... and so",
        '"weak," "odd" and',
        "E.g. A; b, c: (d) [e]",
        "{a, b}",
        "R&D",
        "a < b",
    ],
)
def test_good_prose_has_no_residue_and_no_hole(text: str) -> None:
    assert (count_residue(text), count_holes(text)) == (0, 0)


def test_french_puts_a_space_before_a_semicolon() -> None:
    assert count_holes("Il vint ; elle partit.", "fr") == 0


def test_a_rate_is_by_thousand_words() -> None:
    assert (per_thousand(3, 1500), per_thousand(0, 0)) == (2.0, 0.0)
