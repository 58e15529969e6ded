import pytest

from distilray.corpus.quality import count_holes, count_residue, per_thousand

CLEAN = 'The dog (Canis familiaris), a "hound", ran 3 km; it is 5.5 metres away, i.e. not far. A & B are [sic] fine.'


@pytest.mark.parametrize(
    "piece", ["[[", "]]", "{{", "}}", "''", "<ref", "</b", "{|", "== H", "__TOC__", "https://a", "&nbsp;"]
)
def test_markup_is_residue(piece: str) -> None:
    assert count_residue(f"The dog {piece} ran.") >= 1


@pytest.mark.parametrize(
    "piece", ["()", "( )", "(, a)", "[]", "(;)", " , ", "is  km long", "about miles away", "of the ."]
)
def test_a_gap_is_a_hole(piece: str) -> None:
    assert count_holes(f"The dog {piece} ran.") == 1


def test_clean_prose_has_neither() -> None:
    assert (count_residue(CLEAN), count_holes(CLEAN)) == (0, 0)


def test_a_rate_is_by_thousand_words() -> None:
    assert (per_thousand(3, 1500), per_thousand(0, 0)) == (2.0, 0.0)
