import time

import pytest

from distilray.corpus.wikitext.brackets import match_brackets
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.corpus.wikitext.sites import Site

# What is opened and never closed, closed and never opened, or repeated where a repair looks for its end.
CONSTRUCTS = [
    "{{", "{{a|", "{{a|b=", "{{{", "{{{1|", "{{a}", "{{{{{", "}}", "}}}}}", "{", "}", "{{nowrap|", "{{convert|",
    "{{quote|", "{{#if:", "{{lc:", "[[", "[[a|", "[[File:a|", "[[a|{{b|", "{{a|[[b|", "]]", "[[[[", "]]]]]", "[", "]",
    "[http://a.b ", "[http://a", "[http://a [", "http://a", "{|\n", "{|\n|a\n", "{|\n{{a\n", "\n\n{|", "|}\n", "|-\n",
    "|", "<div>", "<div ", "<div style=\"", "<div style='display:none'>", "<s>", "</s>", "<s>{{a|", "{{a|<s>",
    "<sup>", "<b>", "<li>", "<table>", "<br>", "<ref>", "<ref ", "<ref name=\"", "</ref>", "<ref/>", "<ref/> ",
    ",<ref/>", "(<ref/>", "<math>", "<math/>", "(<math>x</math>", "<nowiki>", "<code>", "<gallery>", "<!--", "-->",
    "-{", "-{zh:", "}-", "'''", "''", "'", "''a'''b", "'''a'", "&", "&#", "&amp;", "__", "__A__ ",
    "__A__", "== a\n", "= ",
    "==", "\n=a= b", "* ", "\n*", "\n ", "\n", " ", "(", "( ", "\"", "\"(", "-", "~", "a ", "\ufffc", "{{cn}}",
    "({{cn}}", "{{cn}} ", "{{cn}} ,", ",{{cn}}", "{{x}}", "({{x}}", "{{x}} ", ".{{x}}", ". {{x}}", "a{{x}}", "\u00ad",
    "&#91;", "&lt;a",
]  # fmt: skip


@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_the_time_of_a_page_grows_with_its_size_only(construct: str) -> None:
    # 64 kB take 0.1 s at most. Time that grows with the square of the size is far above the limit.
    page = (construct * (65536 // len(construct) + 1))[:65536]
    started = time.process_time()
    clean_wikitext(f"{page}\n\nThe end.", Site("zh"))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("{{a}}", ["{{a}}"]),
        ("{{a|{{b}}}}", ["{{a|{{b}}}}", "{{b}}"]),
        ("{{a|{{{1}}}}}", ["{{a|{{{1}}}}}", "{{{1}}}"]),
        ("{{{{{1}}}|b}}", ["{{{{{1}}}|b}}", "{{{1}}}"]),
        ("{{a [[b|c]]", ["[[b|c]]"]),
        ("[[a|{{b]] {{c}}", ["[[a|{{b]]", "{{c}}"]),
        ("[[a|[http://b c]]]", ["[[a|[http://b c]]]", "[http://b c]"]),
        ("[[a|b <s>c</s>]]", ["[[a|b <s>c</s>]]", "<s>c</s>"]),
        ("<s>{{a|</s>}}</s>", ["<s>{{a|</s>}}</s>", "{{a|</s>}}"]),
        ("\n{|\n|{{a\n|}", ["\n{|\n|{{a\n|}"]),
        ("a[0]]] }} </s>", []),
    ],
)
def test_brackets_are_closed_by_their_own_kind(text: str, closed: list[str]) -> None:
    closings = match_brackets(text)
    assert [text[start:behind] for start, (_, behind) in sorted(closings.items())] == closed
