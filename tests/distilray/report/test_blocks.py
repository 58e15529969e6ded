from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from distilray.report.blocks import Section, figure, join, listing, paragraph, picture, render_page, table, tiles
from distilray.report.formatting import format_duration, format_size, format_value, label

EVIL = "<script>alert('\"')</script>"


@pytest.mark.parametrize(
    "html",
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
def test_every_block_escapes_text(html):
    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag != "script"
            assert all(value is None or "alert" not in value or value == EVIL or "#" in value for _, value in attrs)

    Parser().feed(html)
    assert "&lt;script&gt;" in html


def test_markup_is_not_escaped_twice():
    assert join("a<b", Markup("<em>"), 3) == "a&lt;b<em>3"


def test_a_table_has_headings_and_right_aligns_columns_of_mostly_numbers():
    rows = [["a", "12.5%", "word", 1234], ["b", "0.4 to 0.6", "1", 5], ["c", "none", "two words", ""]]
    html = table("Sizes", ["model", "x", "y", "bytes"], rows)
    assert "<caption>Sizes</caption>" in html
    assert html.count('<th scope="row">') == 3
    assert html.count('<th scope="col"') == 4
    assert '<td class="n">0.4 to 0.6</td><td>1</td><td class="n">5</td>' in html
    assert '<td class="r">none</td><td>two words</td>' in html
    assert '<td class="n">1,234</td>' in html


def test_a_table_without_rows_or_headings_has_no_empty_element():
    assert table("T", ["a"], []) == ""
    assert "<thead>" not in table("T", ["", ""], [["a", 1]])
    assert "empty" not in table("T", ["", "empty", "b"], [["a", "-", 1], ["b", None, 2]])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hit@10", 0.4202, "0.420"),
        ("parameters", 66362880, "66,362,880"),
        ("anything_else", 0.0123456, "0.01235"),
        ("anything_else", 123456.7, "123,457"),
        ("anything_else", 1e4, "10,000"),
        ("hit@1", [0.1, 0.2], "0.100 to 0.200"),
        ("hit@1", [0.1, 0.2, 0.3], "0.100, 0.200, 0.300"),
        ("features", ["avx2", "amx"], "avx2, amx"),
        ("hit@1", None, "-"),
        ("hit@1", float("nan"), "-"),
        ("published", True, "yes"),
        ("dropout", 0.0, "0"),
    ],
)
def test_a_value_has_the_format_of_its_key(key, value, expected):
    assert format_value(key, value) == expected


def test_labels_sizes_and_durations_are_readable():
    assert [label(key) for key in ("mrr", "dropped.no_mask")] == ["MRR", "dropped: no mask"]
    sizes = (999, 1000, 2_500_000, 1_230_000_000)
    assert [format_size(count) for count in sizes] == ["999 B", "1.0 kB", "2.5 MB", "1.2 GB"]
    assert [format_duration(seconds) for seconds in (59.9, 60, 5400)] == ["59.9 s", "1.0 min", "1.5 h"]
