from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distilray.corpus.sources.bz2_ranges import TextSpan
from distilray.corpus.sources.dump_pages import Page, RawPage, parse_page, split_pages
from distilray.corpus.wikitext.sites import Site
from distilray.formats.bad_rows import BadRow
from distilray.formats.streams import UnreadableError
from tests.tiny.dumps import dump, page

PAGES = [page(number, text="é" * number) for number in range(1, 8)]
XML = dump(*PAGES)
DAMAGE = BadRow("f", 50, "bz2_damaged", "damaged", 9)


def split(spans: list[TextSpan | BadRow], end: int = 1 << 30, max_bytes: int = 1 << 20) -> list[RawPage | BadRow]:
    return list(split_pages(spans, end=end, max_bytes=max_bytes))


def raw_pages(pages: list[RawPage | BadRow]) -> list[RawPage]:
    return [page for page in pages if isinstance(page, RawPage)]


def xml_of(pages: list[RawPage | BadRow]) -> list[str]:
    return [bytes(raw.xml).decode() + "\n" for raw in raw_pages(pages)]


@given(borders=st.lists(st.integers(0, len(XML))), end=st.integers(0, len(XML)))
@example(borders=[60, 61], end=len(XML))
def test_a_page_belongs_to_the_range_in_which_it_begins(borders: list[int], end: int) -> None:
    bounds = [0, *sorted([*borders, end]), len(XML)]
    spans = [TextSpan(at, XML[at:end], exact=True) for at, end in pairwise(bounds)]
    starts = {XML.index(one.encode()): one for one in PAGES}
    pages = split([*spans], end)
    assert [raw.offset for raw in pages] == [start for start in starts if start < end]
    assert xml_of(pages) == [one for start, one in starts.items() if start < end]


@given(borders=st.lists(st.integers(0, len(XML))), end=st.integers(0, 12))
def test_a_page_begins_in_the_piece_with_the_first_byte_of_its_tag(borders: list[int], end: int) -> None:
    bounds = [0, *sorted(borders), len(XML)]
    spans = [TextSpan(at, XML[start : bounds[at + 1]]) for at, start in enumerate(bounds[:-1])]
    starts = [XML.index(one.encode()) for one in PAGES]
    offsets = [max(at for at, border in enumerate(bounds[:-1]) if border <= start) for start in starts]
    assert [raw.offset for raw in split([*spans], end)] == [offset for offset in offsets if offset < end]


def test_no_span_is_read_after_the_last_page() -> None:
    spans = iter([TextSpan(0, PAGES[0].encode()), TextSpan(10, b""), TextSpan(10, b"more")])
    assert len(list(split_pages(spans, end=10, max_bytes=1000))) == 1
    assert next(spans).data == b"more"


def test_an_unfinished_page_is_dropped_at_damage_and_the_next_is_read() -> None:
    pages = split(
        [TextSpan(0, (PAGES[0] + "<page><title>").encode()), DAMAGE, TextSpan(60, ("</page>" + PAGES[1]).encode())]
    )
    assert pages[1] == DAMAGE
    assert xml_of(pages) == PAGES[:2]


def test_damage_after_the_range_is_not_reported() -> None:
    assert split([TextSpan(0, b"<page><title>"), DAMAGE], end=50) == []


def test_a_page_without_an_end_ends_where_the_next_begins() -> None:
    pages = split([TextSpan(0, (PAGES[0].replace("</page>", "") + PAGES[1]).encode())])
    assert [bytes(raw.xml).endswith(b"</page>") for raw in raw_pages(pages)] == [False, True]


@pytest.mark.parametrize(("xml", "is_cut"), [(b"<page><title>", True), (b"<page><title></mediawiki>\n", False)])
def test_a_page_without_an_end_is_cut_unless_the_dump_ends_as_it_should(xml: bytes, is_cut: bool) -> None:
    assert [(raw.xml, raw.truncated) for raw in raw_pages(split([TextSpan(0, xml)]))] == [(xml, is_cut)]


@given(size=st.integers(1, 700))
def test_a_page_over_the_limit_is_oversized_and_the_next_is_read(size: int) -> None:
    xml = (page(1, text="y" * 2000) + PAGES[0]).encode()
    pages = split([TextSpan(0, xml[at : at + size]) for at in range(0, len(xml), size)], max_bytes=700)
    assert [raw.oversized for raw in raw_pages(pages)] == [True, False]
    assert xml_of(pages)[1:] == PAGES[:1]


OLDER = "<revision><id>9</id><text>old</text></revision>"


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (page(12, "A &amp; B", "'''a''' &lt;ref/&gt;\n\nb"), Page(12, 112, 0, "A & B", False, "'''a''' <ref/>\n\nb")),
        (page(1, extra='<redirect title="B" />'), Page(1, 101, 0, "T", True, "x")),
        (page(2, namespace=-2), Page(2, 102, -2, "T", False, "x")),
        (page(1, "Talk: A Novel"), Page(1, 101, 0, "Talk: A Novel", False, "x")),
        (page(1, text="new", extra=OLDER), Page(1, 101, 0, "T", False, "new")),
        (
            page(1, text="old").replace("</page>", "<revision><id>9</id></revision></page>"),
            Page(1, 9, 0, "T", False, ""),
        ),
        ("<page><title>T</title><ns>0</ns><id>1</id></page>", Page(1, None, 0, "T", False, "")),
    ],
    ids=["every field", "redirect", "ns", "ns before the title", "last revision", "without text", "without revision"],
)
def test_a_page_is_parsed(xml: str, expected: Page) -> None:
    assert parse_page(xml.encode(), Site()) == expected


GERMAN = Site("de", {1: "Diskussion", 6: "Datei", 14: "Kategorie", 102: "Auftrag", 0: ""})


@pytest.mark.parametrize(
    ("title", "namespace"),
    [
        ("Stadt", 0),
        ("Stadt: Die Fortsetzung", 0),
        (":Stadt", 0),
        ("Datei:Stadt.jpg", 6),
        ("kategorie: Stadt", 14),
        ("Diskussion:Stadt: Die Fortsetzung", 1),
        ("Talk:Stadt", 1),  # MediaWiki accepts its English names on every wiki
        ("Auftrag:Stadt", 102),
        ("Portal:Stadt", 0),  # a namespace of other wikis
    ],
)
def test_a_page_without_ns_has_the_namespace_of_its_prefix(title: str, namespace: int) -> None:
    xml = f"<page><title>{title}</title><id>1</id></page>".encode()
    assert parse_page(xml, GERMAN).namespace == namespace


@pytest.mark.parametrize(
    ("xml", "reason", "message"),
    [
        ("<page><title>T</title><ns>0</ns></page>", "xml_malformed", "page 'T' (id ?) has no valid id"),
        ("<page><title>T</title><ns>0</ns><id>x</id></page>", "xml_malformed", "has no valid id"),
        ("<page><title>T</title><ns>x</ns><id>1</id></page>", "xml_malformed", "page 'T' (id 1) has no valid ns"),
        ("<page><ns>0</ns><id>1</id></page>", "xml_malformed", "page '?' (id 1) has no title"),
        (page(1, text="&what;"), "xml_malformed", "undefined entity"),
        (page(1, text="<b>"), "xml_malformed", "mismatched tag"),
        (page(1, text="a < b"), "xml_malformed", "not well-formed"),
        (page(1, text="\x00"), "xml_malformed", "not well-formed"),
        ("<page><title>", "xml_malformed", "page '?' (id ?) is not well-formed"),
        ("<page><!DOCTYPE page></page>", "xml_malformed", "not well-formed"),
        ("<page>" + "<a>" * 100, "xml_malformed", "nested deeper"),
        (page(1, "Name", "é").encode("latin-1"), "not_utf8", "page 'Name' (id 1) is not UTF-8"),
        (page(1).replace("<id>101</id>", "<id>r</id>"), "xml_malformed", "has no valid revision id"),
    ],
)
def test_a_malformed_page_is_refused(xml: str | bytes, reason: str, message: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        parse_page(xml.encode() if isinstance(xml, str) else xml, Site())
    assert caught.value.reason == reason
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
