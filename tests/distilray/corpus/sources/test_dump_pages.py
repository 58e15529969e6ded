from itertools import pairwise

import pytest
from hypothesis import given
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


def xml_of(found: list[RawPage | BadRow]) -> list[str]:
    return [bytes(raw.xml).decode() + "\n" for raw in found if isinstance(raw, RawPage)]


def refusal(xml: str | bytes) -> UnreadableError:
    with pytest.raises(UnreadableError) as caught:
        parse_page(xml.encode() if isinstance(xml, str) else xml, Site())
    assert "\n" not in str(caught.value)
    return caught.value


@given(borders=st.lists(st.integers(0, len(XML))))
def test_pages_are_split_alike_for_any_spans(borders: list[int]) -> None:
    bounds = [0, *sorted(borders), len(XML)]
    spans = [TextSpan(7, XML[start:end]) for start, end in pairwise(bounds)]
    assert xml_of(split([*spans])) == PAGES


@given(borders=st.lists(st.integers(0, len(XML))), end=st.integers(0, len(XML)))
def test_a_page_belongs_to_the_range_in_which_it_begins(borders: list[int], end: int) -> None:
    bounds = [0, *sorted([*borders, end]), len(XML)]
    spans = [TextSpan(at, XML[at:end], exact=True) for at, end in pairwise(bounds)]
    starts = [XML.index(one.encode()) for one in PAGES]
    assert [raw.offset for raw in split([*spans], end)] == [start for start in starts if start < end]


@given(borders=st.lists(st.integers(0, len(XML))), end=st.integers(0, 12))
def test_a_page_begins_in_the_piece_with_the_first_byte_of_its_tag(borders: list[int], end: int) -> None:
    bounds = [0, *sorted(borders), len(XML)]
    spans = [TextSpan(at, XML[start : bounds[at + 1]]) for at, start in enumerate(bounds[:-1])]
    starts = [XML.index(one.encode()) for one in PAGES]
    places = [max(at for at, border in enumerate(bounds[:-1]) if border <= start) for start in starts]
    assert [raw.offset for raw in split([*spans], end)] == [offset for offset in places if offset < end]


def test_no_span_is_read_after_the_last_page() -> None:
    spans = iter([TextSpan(0, PAGES[0].encode()), TextSpan(10, b""), TextSpan(10, b"more")])
    assert len(list(split_pages(spans, end=10, max_bytes=1000))) == 1
    assert next(spans).data == b"more"


def test_an_unfinished_page_is_dropped_at_damage_and_the_next_is_read() -> None:
    found = split(
        [TextSpan(0, (PAGES[0] + "<page><title>").encode()), DAMAGE, TextSpan(60, ("</page>" + PAGES[1]).encode())]
    )
    assert found[1] == DAMAGE
    assert xml_of(found) == PAGES[:2]


def test_damage_after_the_range_is_not_reported() -> None:
    assert split([TextSpan(0, b"<page><title>"), DAMAGE], end=50) == []


def test_a_page_without_an_end_ends_where_the_next_begins() -> None:
    found = split([TextSpan(0, (PAGES[0].replace("</page>", "") + PAGES[1]).encode())])
    assert [bytes(raw.xml).endswith(b"</page>") for raw in found if isinstance(raw, RawPage)] == [False, True]


@pytest.mark.parametrize(("xml", "is_cut"), [(b"<page><title>", True), (b"<page><title></mediawiki>\n", False)])
def test_a_page_without_an_end_is_cut_unless_the_dump_ends_as_it_should(xml: bytes, is_cut: bool) -> None:
    assert [(raw.xml, raw.truncated) for raw in split([TextSpan(0, xml)]) if isinstance(raw, RawPage)] == [
        (xml, is_cut)
    ]


@given(size=st.integers(1, 700))
def test_a_page_over_the_limit_is_oversized_and_the_next_is_read(size: int) -> None:
    xml = (page(1, text="y" * 2000) + PAGES[0]).encode()
    found = split([TextSpan(0, xml[at : at + size]) for at in range(0, len(xml), size)], max_bytes=700)
    assert [raw.oversized for raw in found if isinstance(raw, RawPage)] == [True, False]
    assert xml_of(found)[1:] == PAGES[:1]


def test_a_page_is_read_with_every_field() -> None:
    xml = page(12, "A &amp; B", "'''a''' &lt;ref/&gt;\n\nb")
    assert parse_page(xml.encode(), Site()) == Page(12, 112, 0, "A & B", False, "'''a''' <ref/>\n\nb")


def test_a_redirect_and_a_namespace_are_read() -> None:
    found = [
        parse_page(xml.encode(), Site()) for xml in (page(1, extra='<redirect title="B" />'), page(2, namespace=-2))
    ]
    assert [(one.redirect, one.namespace) for one in found] == [(True, 0), (False, -2)]


def test_the_last_revision_counts() -> None:
    older = "<revision><id>9</id><text>old</text></revision>"
    assert parse_page(page(1, text="new", extra=older).encode(), Site()) == Page(1, 101, 0, "T", False, "new")


def test_a_last_revision_without_text_has_not_the_text_of_an_older_one() -> None:
    xml = page(1, text="old").replace("</page>", "<revision><id>9</id></revision></page>")
    assert parse_page(xml.encode(), Site()) == Page(1, 9, 0, "T", False, "")


def test_a_page_without_text_is_empty() -> None:
    assert parse_page(b"<page><title>T</title><ns>0</ns><id>1</id></page>", Site()) == Page(1, None, 0, "T", False, "")


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


def test_ns_is_believed_before_the_title() -> None:
    assert parse_page(page(1, "Talk: A Novel").encode(), Site()).namespace == 0


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<page><title>T</title><ns>0</ns></page>", "page 'T' (id ?) has no valid id"),
        ("<page><title>T</title><ns>0</ns><id>x</id></page>", "has no valid id"),
        ("<page><title>T</title><ns>x</ns><id>1</id></page>", "page 'T' (id 1) has no valid ns"),
        ("<page><ns>0</ns><id>1</id></page>", "page '?' (id 1) has no title"),
        (page(1, text="&what;"), "undefined entity"),
        (page(1, text="<b>"), "mismatched tag"),
        (page(1, text="a < b"), "not well-formed"),
        (page(1, text="\x00"), "not well-formed"),
        ("<page><title>", "page '?' (id ?) is not well-formed"),
        ("<page><!DOCTYPE page></page>", "not well-formed"),
        ("<page>" + "<a>" * 100, "nested deeper"),
    ],
)
def test_a_page_that_is_none_is_refused(xml: str, message: str) -> None:
    error = refusal(xml)
    assert error.reason == "xml_malformed"
    assert message in str(error)


def test_a_page_that_is_not_utf8_is_refused() -> None:
    error = refusal(page(1, "Name", "é").encode("latin-1"))
    assert (error.reason, str(error)) == ("not_utf8", "page 'Name' (id 1) is not UTF-8")
