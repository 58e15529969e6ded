# ruff: noqa: RUF001 - dashes and signs of running text are the subject here

import pytest

from distilray.corpus.cleaning import HOLE, clean_wikitext
from distilray.corpus.wikitext.templates import RULES, superscript
from distilray.corpus.wikitext.units import quantity

TEMPLATES = {
    "{{convert|1300|mi|km}}": "1,300 miles",
    "{{convert|1|mi|km|abbr=on}}": "1 mile",
    "{{convert|10|mi|km|adj=on}} run": "10-mile run",
    "{{convert|10|to|20|km|mi|0}}": "10 to 20 kilometres",
    "{{convert|10|-|20|C}}": "10–20 °C",
    "{{convert|5|ft|11|in|m}}": "5 feet 11 inches",
    "{{convert|2.5|parsec}}": "2.5 parsec",
    "{{convert|-5.5|C|F}}": "-5.5 °C",
    "{{cvt|52419|sqmi}}": "52,419 square miles",
    "{{lang|fr|''l'eau''}}": "l'eau",
    "{{lang-de|Hund}}": "Hund",
    "{{Nihongo|'''Aikido'''|合気道|Aikidō|lead=yes}}": "Aikido",
    "{{transl|ar|ALA|Allāh}}": "Allāh",
    "{{formatnum:1234567}}": "1,234,567",
    "{{formatnum: 30}}": "30",
    "{{start date|1990|5|12}}": "May 12, 1990",
    "{{birth date|df=yes|1990|05|02}}": "2 May 1990",
    "{{As of|2010|4}}": "As of April 2010",
    "{{as of|2014|lc=y}}": "as of 2014",
    "{{as of|2014|alt=in 2014}}": "in 2014",
    "{{nowrap|a [[b|c]]}}": "a c",
    "{{small|{{nowrap|a}}}}": "a",
    "{{circa|1200}}": "c. 1200",
    "{{frac|3|4}}": "3/4",
    "{{frac|1|3|4}}": "1 3/4",
    "{{frac|2}}": "1/2",
    "{{val|6.241|e=18|u=C}}": "6.241×10¹⁸ C",
    "{{chem|H|2|O}}": "H2O",
    "{{HMS|Ajax|22|6}}": "HMS Ajax",
    "{{sclass|Essex|carrier}}": "Essex-class carrier",
    "{{ill|Hund|de}}": "Hund",
    "{{US$|5 million}}": "$5 million",
    "Bach{{'s}}": "Bach's",
    "a{{snd}}b": "a – b",
    "{{color|red|a}}": "a",
    "{{math|x}}": HOLE,
    "{{unknown template|a|b}}": "",
    "{{cite book|title=A}}": "",
    "{{#if:a|b|c}}": "",
}


@pytest.mark.parametrize("wikitext", TEMPLATES)
def test_a_template_shows_its_words(wikitext: str) -> None:
    shown = clean_wikitext(f"Words {wikitext} here")
    expected = f"Words {TEMPLATES[wikitext]} here".replace("  ", " ")
    assert shown == expected


def test_a_quotation_is_a_paragraph_of_its_own() -> None:
    assert clean_wikitext("He said: {{quote|Go away.|Author}} Then he left.") == "He said:\n\nGo away.\n\nThen he left."


def test_every_rule_bears_a_template_without_arguments() -> None:
    for name in RULES:
        clean_wikitext(f"a {{{{{name}}}}} b {{{{{name}|}}}} c")


@pytest.mark.parametrize("arguments", [[], [""], ["x"], ["5"], ["5", "to"], ["5", "to", "km"], ["1/2", "in"]])
def test_a_quantity_bears_odd_arguments(arguments: list[str]) -> None:
    assert isinstance(quantity(arguments, adjective=True), str)


def test_a_superscript_is_raised_whole_or_not_at_all() -> None:
    assert [superscript(text) for text in ("-12", "th", "2x")] == ["⁻¹²", "th", "2x"]
