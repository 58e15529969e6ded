import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.corpus.sentences import split_sentences

CASES = {
    "two sentences": ["It ended.", "They left."],
    "titles": ["Dr. Smith met Mrs. Jones.", "They talked."],
    "initials": ["J. R. R. Tolkien wrote it.", "He was born in 1892."],
    "a country": ["He lived in the U.S. on a farm.", "It burned."],
    "a country at the end": ["He lived in the U.S.", "The farm burned."],
    "decimals": ["It cost $3.5 million.", "That is 2.7 times more."],
    "a quote": ['He said "Go away."', "Then he left."],
    "a question in a quote": ['"What is it?" she asked.', "He knew."],
    "exclamation": ["It works!", "Really?", "Yes."],
    "latin": ["Many animals (e.g. Dogs) bark.", "Cats do not."],
    "a company": ["He works at Foo Inc. and Bar Ltd. in town.", "It pays."],
    "a rough number": ["Approx. 3 km of road were built.", "It took approx. 50 men."],
    "an army": ["The U.S. Army went home.", "The U.S. Navy stayed."],
    "a quote in a bracket": ["He left (it was late).", "They stayed."],
    "a sentence in brackets": ["(He left early.)", "She stayed."],
    "an abbreviation in brackets": ["Apples, pears (etc.) Dogs like."],
    "a curly quote": ["“Go away.”", "He left."],
    "an ellipsis": ["He went...", "Then he came."],
    "an ellipsis inside": ["The object ... is deterrence.", "It ends."],
    "for example": ["Some (e.g. Rex) bark, e.g. Fido.", "Cats, i.e. Tom, do not."],
    "that is to say": ["He met two, i.e. Tom and Ann.", "They talked."],
    "and others": ["Smith et al. found it.", "They wrote."],
    "a number": ["See No. 5 for it.", "He took no. 7 then."],
    "a work": ["Symphony No. 9, Op. 125, is long.", "It is loud."],
    "a volume": ["It stands in vol. 2 of it.", "See pp. 5 and fig. 3 there."],
    "about a year": ["He died c. 1900.", "It was built ca. 1300."],
    "a time of day": ["At 5 p.m. he left.", "It was dark."],
    "a degree": ["He has a Ph.D. in law.", "He works."],
    "a month": ["He was born on Jan. 5 there.", "He died."],
    "a species": ["The bug is E. coli there.", "It lives."],
    "a fort": ["He lived in Ft. Worth then.", "He left."],
    "a case": ["It followed Roe v. Wade closely.", "It ended."],
    "a king": ["He served King George V.", "Then he died."],
    "a question with a sign": ["Who did it?!", "He did."],
}


@pytest.mark.parametrize("case", CASES)
def test_text_splits_where_sentences_end(case: str) -> None:
    assert split_sentences(" ".join(CASES[case])) == CASES[case]


def test_no_sentence_goes_across_a_paragraph_break() -> None:
    assert split_sentences("He said\n\nthat it ended") == ["He said", "that it ended"]


def test_white_space_inside_a_sentence_is_one_space() -> None:
    assert split_sentences("It \t was\nover\u00a0now.  It is.") == ["It was over now.", "It is."]


def test_a_sentence_does_not_begin_in_lower_case() -> None:
    assert split_sentences("He asked why? and left.") == ["He asked why? and left."]


def test_a_closing_bracket_follows_its_sentence_without_a_space() -> None:
    assert split_sentences("(It gives tables (of time scales).) It is.") == [
        "(It gives tables (of time scales).)",
        "It is.",
    ]


def test_a_closing_bracket_stays_with_its_sentence() -> None:
    assert not [part for part in split_sentences("He left (she asked. Why? ). They met.") if part.startswith(")")]


@settings(deadline=None)
@given(st.text(alphabet="aB. \n?!\"'(1)\u00a0é"))
def test_no_word_is_lost_or_added(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())
