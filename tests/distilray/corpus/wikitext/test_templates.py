import pytest

from distilray.corpus.wikitext.arguments import HOLE, unknown_names
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.corpus.wikitext.sites import ENGLISH

ROAD = "The road meets {{jct|state=NY|I|90}} and heads west."


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("nothing", "The road meets and heads west."),
        ("drop sentence", f"The road meets {HOLE} and heads west."),
        ("{1}-{2}", "The road meets I-90 and heads west."),
        ("{road|state} {2}", "The road meets NY 90 and heads west."),
        ("{3}", "The road meets and heads west."),
        ("Route", "The road meets Route and heads west."),
    ],
)
def test_a_rule_of_the_user_sets_the_text_of_a_template(rule: str, expected: str) -> None:
    assert clean_wikitext(ROAD, ENGLISH, {"Jct": rule}) == expected


def test_a_rule_of_the_user_has_priority() -> None:
    assert clean_wikitext("It is {{Nowrap|a b}} here.", ENGLISH, {"nowrap": "x"}) == "It is x here."


@pytest.mark.parametrize(
    "name", ["Citation needed", "citation_needed", " Citation  needed ", "template:Citation needed"]
)
def test_names_differ_by_more_than_case_and_spaces(name: str) -> None:
    assert clean_wikitext(f"It is{{{{{name}|date=May}}}} here.") == "It is here."


def test_an_unknown_template_leaves_its_name() -> None:
    assert unknown_names(clean_wikitext(f"{ROAD} It is {{{{GS|U-47}}}} there.")) == ["jct", "GS"]


@pytest.mark.parametrize(
    "wikitext", ["{{x}}\n\nWords.", "{{x\n|a=b}}Words.", "Words.{{x}}", "Words. {{x}}", "* {{x}}\nWords."]
)
def test_an_unknown_template_beside_sentences_shows_nothing(wikitext: str) -> None:
    assert clean_wikitext(wikitext) == "Words."
