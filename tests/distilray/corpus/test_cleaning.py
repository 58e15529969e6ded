# ruff: noqa: RUF001 - dashes and signs of running text are the subject here

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.corpus.quality import count_residue
from distilray.corpus.wikitext.arguments import HOLE, UNKNOWN_PATTERN, unknown_names
from distilray.corpus.wikitext.cleaning import clean_wikitext

GOLDEN = Path(__file__).parent / "golden"

# What a page holds, and what is read: one rule each, named.
RULES = {
    "bold": ("a '''b''' c", "a b c"),
    "italic": ("a ''b'' c", "a b c"),
    "bold italic": ("a '''''b''''' c", "a b c"),
    "an apostrophe beside italic": ("the ''Eagle'''s crew", "the Eagle's crew"),
    "an apostrophe beside bold": ("l''''air'''", "l'air"),
    "a lone apostrophe": ("it's the dogs' home", "it's the dogs' home"),
    "unbalanced quotes": ("a ''b c", "a b c"),
    "a link": ("the [[dog]] barks", "the dog barks"),
    "a link with other words": ("the [[Canis familiaris|dog]]s bark", "the dogs bark"),
    "a link to a category page": ("see [[:Category:Dogs]] here", "see Category:Dogs here"),
    "a link inside italic": ("''the [[dog|hound]]''", "the hound"),
    "an external link": ("see [http://x.org/a the site] now", "see the site now"),
    "an external link without words": ("see [http://x.org/a] now", "see now"),
    "a bare address": ("see http://x.org/a?b=c now", f"see {HOLE} now"),
    "a file": ("a [[File:X.jpg|thumb|the [[dog]] {{x}}]] b", "a b"),
    "an image": ("[[Image:X.jpg|left]]Words.", "Words."),
    "a category": ("Words. [[Category:Dogs| ]]", "Words."),
    "another language": ("Words. [[de:Hund]][[zh-min-nan:X]]", "Words."),
    "a link whose page has a colon": ("read [[2001: A Space Odyssey]] soon", "read 2001: A Space Odyssey soon"),
    "a heading": ("a\n== H ==\nb\n=== I ===\nc", "a\n\nb\n\nc"),
    "back matter": ("a\n== ''See also'' ==\nprose\n=== Sub ===\nmore\n== Next ==\nb", "a\n\nb"),
    "a bulleted list": ("a\n* b\n** c\nd", "a\n\nd"),
    "a numbered list": ("a\n# b\n#: c\nd", "a\n\nd"),
    "a definition list": ("a\n; b : c\n: d\ne", "a\n\ne"),
    "an item over many lines": ("a\n* b {{cite\n| x=1\n}} c\nd", "a\n\nd"),
    "a list in HTML": ("a <ul><li>b</li><li>c</li></ul> d", "a d"),
    "a table": ('a\n{| class="x"\n! h\n|-\n| b || c\n|}\nd', "a\n\nd"),
    "a nested table": ("a\n{|\n| b\n{|\n| c\n|}\n|}\nd", "a\n\nd"),
    "an unclosed table": ("a\n\n{|\n| b\n|-\n| c", "a"),
    "a template": ("a {{cn|date=May 2015}} b", "a b"),
    "a nested template": ("{{Infobox\n| a = {{b|{{c}}}}\n| d = [[e]]\n}}\nWords.", "Words."),
    "an unclosed template": ("Good.\n\nBad {{x|y. No end.\n\nFine.", "Good.\n\nFine."),
    "a reference": ("a<ref>b [[c]] {{d}}</ref> e", "a e"),
    "a named reference": ('a<ref name="n/m">b</ref><ref name=n/> c', "a c"),
    "an unclosed reference": ("a.<ref>b c\nd", "a. d"),
    "a reference that is never closed inside a sentence": ("a<ref>b c\nd", f"a{HOLE} d"),
    "a sign in the name of a reference without text": ('a<ref name="p>b" /> c', "a c"),
    "a link in brackets": ("a [[[b]]] c", "a [b] c"),
    "a list of variants for some languages": ("a -{zh-hans;zh-hant|b}- c", "a b c"),
    "a table that a template with arguments closes": ("a\n{|\n| b\n{{list end|c}}\nd", "a\n\nd"),
    "more quotes than a style has": ("a " + "'" * 30 + " b", f"a {HOLE} b"),
    "signs with a space that belong to the text": ("press . to smile :( now", "press . to smile :( now"),
    "a magic word in Polish": ("__BEZSPISU__ a", "a"),
    "the list of references": ("a\n<references>\n<ref>b</ref>\n</references>", "a"),
    "a gallery": ("a\n<gallery>\nX.jpg|b\n</gallery>\nc", "a\n\nc"),
    "a timeline": ("a\n<timeline>b = c</timeline>\nd", "a\n\nd"),
    "a formula": ("where <math>x^2</math> is", f"where {HOLE} is"),
    "a formula in an aside": ("the square (<math>x^2</math>, here) is", "the square is"),
    "code": ("call <code>f()</code> now", f"call {HOLE} now"),
    "a block of code": ('a\n<syntaxhighlight lang="py">\nb\n</syntaxhighlight>\nc', "a\n\nc"),
    "a comment": ("a<!-- b\n\n''c'' --> d", "a d"),
    "an unclosed comment": ("a <!-- b c", "a"),
    "nowiki without markup": ("'''Bach'''<nowiki>'</nowiki>s", "Bach's"),
    "nowiki with markup": ("type <nowiki>[[x]]</nowiki> here", f"type {HOLE} here"),
    "an empty nowiki": ("a<nowiki/>b", "ab"),
    "a magic word": ("__NOTOC__\nWords. __FORCETOC__", "Words."),
    "entities": ("a&nbsp;&mdash;&nbsp;b &amp; c&#33;", "a — b & c!"),
    "a soft hyphen": ("a&shy;b", "ab"),
    "small and span": ('<small>a</small> <span style="x">b</span>', "a b"),
    "an unclosed tag": ("a <small>b", "a b"),
    "a line break": ("a<br />b", "a b"),
    "a superscript number": ("10<sup>6</sup> km<sup>2</sup>", "10⁶ km²"),
    "a superscript word": ("19<sup>th</sup>", "19th"),
    "a subscript": ("H<sub>2</sub>O", "H2O"),
    "a block quote": ("a\n<blockquote>b</blockquote>\nc", "a\n\nb\n\nc"),
    "deleted words": ("a <s>b</s> c", "a c"),
    "paragraphs": ("a\nb\n\n\nc", "a b\n\nc"),
    "a rule": ("a\n----\nb", "a\n\nb"),
    "a default of an argument": ("a {{{1|b}}} c", "a b c"),
    "empty brackets": ("Rome ({{lang|x}}; ) is", "Rome is"),
    "a bracket that lost its beginning": ("Rome ({{IPA-it|x}}; a city) is", "Rome (a city) is"),
    "a bracket that lost its end": ("Rome (a city, {{IPA-it|x}}) is", "Rome (a city) is"),
    "a doubled comma": ("Rome, {{cn}}, is", "Rome, is"),
    "a space before a comma": ("Rome {{cn}}, is", "Rome, is"),
    "a name with a dot in front": ("the .NET way", "the .NET way"),
    "a page of nothing": ("", ""),
}


def shown(wikitext: str) -> str:
    """Return the clean text, with `{{name}}` for unknown templates."""
    return re.sub(UNKNOWN_PATTERN, lambda mark: f"{{{{{unknown_names(mark[0])[0]}}}}}", clean_wikitext(wikitext))


@pytest.mark.parametrize("construct", sorted(file.stem for file in GOLDEN.glob("*.wiki")))
def test_cleaning_a_construct_gives_its_golden_text(construct: str) -> None:
    wikitext = (GOLDEN / f"{construct}.wiki").read_text(encoding="utf-8")
    expected = (GOLDEN / f"{construct}.txt").read_text(encoding="utf-8")
    assert shown(wikitext) == expected.removesuffix("\n")


@pytest.mark.parametrize("rule", RULES)
def test_cleaning_leaves_what_is_read(rule: str) -> None:
    wikitext, expected = RULES[rule]
    assert clean_wikitext(wikitext) == expected


def test_cleaning_what_is_clean_changes_nothing() -> None:
    text = 'One sentence, with (an aside) and "quotes"; and 3.5 km.\n\nAnother paragraph: 10–20 of them!'
    assert clean_wikitext(text) == text


@pytest.mark.parametrize("piece", ["<ref>", "{{", "[[", "<math>", "'''", "{|\n", "<!--", "]]", "}}", "<nowiki>"])
def test_a_thousand_unclosed_marks_leave_no_markup(piece: str) -> None:
    assert count_residue(clean_wikitext(piece * 1000 + "\n\nThe end.\n")) == 0


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"[]{}|='<>/!*#:;&\n a", "[[", "]]", "{{", "}}", "''", "ref", "nowrap", "&#xD800;"])))
def test_any_text_is_cleaned_into_text_that_can_be_stored(pieces: list[str]) -> None:
    clean_wikitext("".join(pieces)).encode()
