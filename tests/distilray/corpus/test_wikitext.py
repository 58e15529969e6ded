# ruff: noqa: RUF001 - dashes and signs of running text are the subject here

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.wikitext.arguments import GAP, HOLE
from distilray.corpus.wikitext.cleaning import clean_wikitext, remove_back_matter
from distilray.corpus.wikitext.extensions import remove_extension_tags, restore_markup
from distilray.corpus.wikitext.number_templates import quantity_text, superscript
from distilray.corpus.wikitext.templates import RULES

TEMPLATES = {
    "{{convert|1300|mi|km}}": "1,300 miles",
    "{{convert|1|mi|km|abbr=on}}": "1 mile",
    "{{convert|10|mi|km|adj=on}} run": "10-mile run",
    "{{convert|10|to|20|km|mi|0}}": "10 to 20 kilometres",
    "{{convert|10|-|20|C}}": "10–20 °C",
    "{{convert|5|ft|11|in|m}}": "5 feet 11 inches",
    "{{convert|2.5|parsec}}": "2.5 parsecs",
    "{{convert|3|x|4|m}}": "3 by 4 metres",
    "{{convert|3|to|4|mi|adj=on}} walk": "3-to-4-mile walk",
    "{{convert|6|ftin|m}}": "6 feet",
    "{{convert|one|mi}}": HOLE,
    "{{convert|3|oddunit}}": HOLE,
    "{{nihongo3|Tokyo Tower|東京|Tōkyō tawā}}": "Tōkyō tawā",
    "{{sic|wie|rd}}": "wierd",
    "{{bibleverse|2|Kings|1:1|KJV}}": "2 Kings 1:1",
    "{{bibleverse||Mark|3:25|9}}": "Mark 3:25",
    "{{bibleverse|Mark|3:25|9}}": "Mark 3:25",
    "{{USS|Enterprise|CVN-65|3}}": "Enterprise",
    "{{flagcountry|FRA}}": HOLE,
    "{{née|Smith}}": "née Smith",
    "{{val|5|u=m|up=s}}": "5 m/s",
    "{{val|12.5|(9)}}": "12.5(9)",
    "{{formatnum:12345.67}}": "12,345.67",
    "{{as of|2015|5|3|df=US}}": "As of May 3, 2015",
    "{{convert|5|ft|10|in|cm|adj=on}} man": "5-foot-10-inch man",
    "{{convert|2|liter|sp=us}}": "2 liters",
    "{{convert|1/2|mi}}": "1/2 mile",
    "{{convert|5+1/2|in}}": "5 1/2 inches",
    "{{convert|21|acre|spell=In}}": "Twenty-one acres",
    "{{convert|210|acre|spell=in}}": HOLE,
    "{{convert|3|mi|adj=pre|short}}": HOLE,
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
    "{{convert|22|e6acre}}": "22 million acres",
    "{{convert|1|Moilbbl}}": "1 million barrels",
    "{{convert|3|by|4|m}}": "3 by 4 metres",
    "{{convert|12|km3/s}}": "12 km3/s",
    "{{circa|1200|1250}}": "c. 1200–1250",
    "{{b.|1200}}": "b. 1200",
    "{{mya|70|65}}": "70–65 million years ago",
    "{{val|5|0.1|u=kg}}": "5±0.1 kg",
    "{{val|5|0.1|0.2}}": HOLE,
    "{{ordinal|2}}": "2nd",
    "{{ordinal|112}}": "112th",
    "{{height|ft=6|in=2}}": "6 ft 2 in",
    "{{10^|6}}": "10⁶",
    "{{GBP|5}}": "£5",
    "{{EUR|5}}": "€5",
    "{{A$|5}}": "A$5",
    "a{{nbsp}}b": "a b",
    "{{abbr|NGO|an organisation}}": "NGO",
    "{{vr|a}}": "⟨a⟩",
    "{{IPA|/a/}}": "/a/",
    "{{IPA|fr|a}}": "",
    "{{IPAc-en|a}}": "",
    "{{IPAslink|a}}": "/a/",
    "{{wikt-lang|en|dog}}": "dog",
    "{{gloss|dog}}": "'dog'",
    "{{harvnb|Smith|Jones|1990}}": "Smith & Jones 1990",
    "{{harvtxt|Smith|1990}}": "Smith (1990)",
    "{{harv|A|B|C|1990}}": "(A, B & C 1990)",
    "{{coord|1|N|2|E}}": HOLE,
    "{{coord|1|N|2|E|display=title}}": "",
    "{{coord|1|N|2|E|display=inline,title}}": HOLE,
    "{{rws|Oxford}}": "Oxford railway station",
    "{{lc:ABC}}": "abc",
    "{{ucfirst:abc}}": "Abc",
    "{{PAGENAME}}": HOLE,
    "{{#expr:1+1}}": HOLE,
    "{{formatnum:{{age|1990|1|1}}}}": HOLE,
    "{{start date|1990||}}": "1990",
    "{{monthname|5}}": "May",
    "{{math|x}}": HOLE,
    "{{cite book|title=A}}": "",
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
    assert isinstance(quantity_text(arguments, adjective=True), str)


def test_a_superscript_is_raised_whole_or_not_at_all() -> None:
    assert [superscript(text) for text in ("-12", "th", "2x")] == ["⁻¹²", "th", "2x"]


@pytest.mark.parametrize("title", ["See also", "''References''", "notes and references", "External links {{anchor|x}}"])
def test_back_matter_goes_with_the_sections_below_it(title: str) -> None:
    wikitext = f"a\n== {title} ==\nb\n=== Below ===\nc\n== Next ==\nd"
    assert remove_back_matter(wikitext) == "a\n== Next ==\nd"


@given(st.lists(st.sampled_from(["== Life ==\n", "=== Notes on it ===\n", "words\n", "=\n", "a == b\n"])).map("".join))
def test_a_page_without_back_matter_stays_whole(wikitext: str) -> None:
    assert remove_back_matter(wikitext) == wikitext


def test_an_unclosed_reference_takes_no_words_of_the_next_line() -> None:
    assert remove_extension_tags("a.<ref>b\nc<ref>d</ref> e") == f"a.\nc{GAP} e"


@given(st.text(alphabet="'*#[]{}|ab "))
def test_what_nowiki_protects_comes_back(content: str) -> None:
    cut = remove_extension_tags(f"<nowiki>{content}</nowiki>")
    assert restore_markup(cut) in (content, HOLE)
