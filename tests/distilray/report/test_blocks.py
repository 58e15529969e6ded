from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from distilray.report.blocks import Section, figure, join, listing, paragraph, picture, render_page, table, tiles
from distilray.report.formatting import format_value

EVIL = "<script>alert('\"')</script>"


@pytest.mark.parametrize(
    "made",
    [
        paragraph(EVIL),
        table(EVIL, [EVIL, EVIL], [[EVIL, EVIL]]),
        figure(EVIL, Markup("<svg></svg>")),
        listing([EVIL]),
        picture(EVIL, EVIL, EVIL),
        tiles([(EVIL, EVIL, EVIL)]),
        render_page(EVIL, Markup(""), [Section(EVIL, EVIL, Markup(""))]),
    ],
    ids=["paragraph", "table", "figure", "listing", "picture", "tiles", "page"],
)
def test_text_is_escaped_in_every_piece(made):
    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag != "script"
            assert all(value is None or "alert" not in value or value == EVIL or "#" in value for _, value in attrs)

    Tags().feed(made)
    assert "&lt;script&gt;" in made


def test_markup_is_not_escaped_twice():
    assert join("a<b", Markup("<em>"), 3) == "a&lt;b<em>3"


def test_a_table_names_its_rows_and_columns():
    made = table("Sizes", ["model", "bytes"], [["student", 1234], ["teacher", 5]])
    assert "<caption>Sizes</caption>" in made
    assert made.count('<th scope="row">') == 2
    assert made.count('<th scope="col"') == 2
    assert '<td class="n">1,234</td>' in made


def test_a_column_stands_to_the_right_when_most_of_it_are_figures():
    made = table("T", ["", "x", "y"], [["a", "12.5%", "word"], ["b", "0.4 to 0.6", "1"], ["c", "none", "two words"]])
    assert '<td class="n">0.4 to 0.6</td><td>1</td>' in made
    assert '<td class="r">none</td><td>two words</td>' in made


def test_a_table_without_rows_or_titles_shows_no_empty_part():
    assert table("T", ["a"], []) == ""
    assert "<thead>" not in table("T", ["", ""], [["a", 1]])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hit@10", 0.4202, "0.420"),
        ("parameters", 66362880, "66,362,880"),
        ("anything_else", 0.0123456, "0.01235"),
        ("anything_else", 123456.7, "123,457"),
        ("hit@1", [0.1, 0.2], "0.100 to 0.200"),
        ("features", ["avx2", "amx"], "avx2, amx"),
        ("hit@1", None, "-"),
        ("hit@1", float("nan"), "-"),
        ("published", True, "yes"),
        ("dropout", 0.0, "0"),
    ],
)
def test_values_are_shown_in_the_form_of_their_key(key, value, expected):
    assert format_value(key, value) == expected
