import bz2
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.config.sample import wikipedia_dump
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.corpus.sources.wikipedia import file_ranges, read_documents
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from tests.distilray.corpus.sources import reading
from tests.distilray.corpus.sources.reading import Entries, bad_rows, short_id, source
from tests.tiny.dumps import TAIL, dump, head, page, pages_of_noise, streams, write, write_crossing, write_multistream

PAGES = pages_of_noise(14, 1_500)
XML = dump(*PAGES)
LONG = dump(*pages_of_noise(9, 40_000))
STREAMS, OFFSETS = streams(part.encode() for part in [head(), *PAGES, TAIL])
BIG = 1 << 30
WIKIPEDIA = source("wikipedia")
FORMS = ["plain", "one small stream", "blocks", "with an index", "without an index", "pages that cross streams"]


def ranges(uri: str, chunk_bytes: int = BIG, index: str | None = None) -> list[FileRange]:
    return file_ranges(source("wikipedia", index_path=index), uri, "wiki", chunk_bytes=chunk_bytes)


def read(uri: str, chunk_bytes: int = BIG, **options: int) -> Entries:
    return reading.read("wikipedia", uri, name="wiki", chunk_bytes=chunk_bytes, **options)


def documents(uri: str, chunk_bytes: int = BIG) -> list[RawDocument]:
    entries = read(uri, chunk_bytes)
    assert not bad_rows(entries)
    return reading.documents(entries)


def page_ids(entries: Entries) -> list[int | None]:
    return [document.page_id for document in reading.documents(entries)]


def check(uri: str) -> None:
    reading.check("wikipedia", uri)


def refusal(call: Callable[[str], object], uri: str) -> str:
    with pytest.raises(InputError) as caught:
        call(uri)
    message = str(caught.value)
    assert uri in message
    assert "\n" not in message
    return message


@cache
def expected(xml: bytes) -> list[tuple[int, int, str, str]]:
    """Return page id, revision id, title and text of the last revision of each page, read by ElementTree."""
    pages = ElementTree.fromstring(xml).iterfind("{*}page")
    fields = [(page, page.findall("{*}revision")[-1]) for page in pages]
    return [
        (int(page.findtext("{*}id")), int(last.findtext("{*}id")), page.findtext("{*}title"), last.findtext("{*}text"))
        for page, last in fields
    ]


def assert_same_pages(articles: list[RawDocument], xml: bytes) -> None:
    """Compare documents with the pages of ElementTree. Of dropped pages, the text is not compared."""
    assert [(one.page_id, one.revision_id, one.title) for one in articles] == [fields[:3] for fields in expected(xml)]
    texts = [fields[3] for fields in expected(xml)]
    assert [one.text_bytes for one in articles] == [len(text.encode()) for text in texts]
    assert [one.text for one in articles] == [
        "" if one.dropped else text for one, text in zip(articles, texts, strict=True)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dumps")


Forms = dict[str, tuple[str, bytes]]


@pytest.fixture(scope="module")
def forms(folder: Path) -> Forms:
    """Return a dump in each form, and its XML."""
    (folder / "bare").mkdir()
    return {
        "plain": (write(folder, XML), XML),
        "one small stream": (write(folder, bz2.compress(XML), "one.xml.bz2"), XML),
        "blocks": (write(folder, bz2.compress(LONG, 1), "long.xml.bz2"), LONG),
        "with an index": (write_multistream(folder, PAGES).uri, XML),
        "without an index": (write_multistream(folder / "bare", PAGES, index=False).uri, XML),
        "pages that cross streams": (write_crossing(folder, XML, 700), XML),
    }


@pytest.mark.parametrize("form", FORMS)
@given(chunk_bytes=st.integers(400, 30_000))
@settings(max_examples=6)
def test_any_ranges_have_the_pages_of_another_parser(forms: Forms, form: str, chunk_bytes: int) -> None:
    uri, xml = forms[form]
    assert_same_pages(documents(uri, chunk_bytes), xml)


def test_real_pages_are_read_as_by_another_parser(tmp_path: Path) -> None:
    uri, xml = str(wikipedia_dump()), bz2.decompress(wikipedia_dump().read_bytes())
    check(uri)
    assert_same_pages(documents(uri, 700_000), xml)
    xml = xml[: xml.rindex(b"</page>", 0, 1 << 20) + 7] + b"</mediawiki>"
    assert_same_pages(documents(write_crossing(tmp_path, xml, 100_000), 50_000), xml)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_dump_passes_the_check_and_its_ranges_cover_it_once(forms: Forms, form: str) -> None:
    uri, _ = forms[form]
    check(uri)
    size = Path(uri).stat().st_size
    for chunk_bytes in (1_000, 60_000, BIG):
        parts = ranges(uri, chunk_bytes)
        assert [each.start for each in parts] == [0, *(each.end for each in parts)][:-1]
        assert (parts[-1].end, sum(each.stored_bytes for each in parts)) == (size, size)


@pytest.mark.parametrize(
    ("form", "chunk_bytes", "name"),
    [
        ("plain", 1_000, "plain"),
        ("one small stream", 10_000, "streams"),
        ("blocks", 20_000, "blocks"),
        ("without an index", 1_000, "streams"),
        ("with an index", BIG, "streams"),
    ],
)
def test_the_form_of_a_file_is_recognized(forms: Forms, form: str, chunk_bytes: int, name: str) -> None:
    assert {each.form for each in ranges(forms[form][0], chunk_bytes)} == {name}


@pytest.mark.parametrize(
    ("dump_name", "index_name"),
    [
        ("wiki-articles-multistream.xml.bz2", "wiki-articles-multistream-index.txt.bz2"),
        ("wiki-multistream1.xml-p1p41242.bz2", "wiki-multistream-index1.txt-p1p41242.bz2"),
        ("wiki-multistream1.xml-p1p41242.bz2", "wiki-multistream-index1.txt-p1p41242"),
    ],
)
def test_an_index_beside_the_dump_sets_the_boundaries_of_the_ranges(
    tmp_path: Path, dump_name: str, index_name: str
) -> None:
    made = write_multistream(tmp_path, PAGES)
    index = Path(made.index).read_bytes()
    write(tmp_path, index if index_name.endswith(".bz2") else bz2.decompress(index), index_name)
    uri = write(tmp_path, Path(made.uri).read_bytes(), dump_name)
    assert [each.start for each in ranges(uri, 1)] == [0, *made.offsets[1:-1]]
    far = ranges(uri, made.offsets[3])
    assert far[1].start == made.offsets[3]


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        (b"999999:1:T\n", "i.txt", "is beyond the end of .*multistream.xml.bz2"),
        (b"5:1:T\n", "i.txt", "no stream of .*multistream.xml.bz2"),
        (b"notes\n", "i.txt", "is not 'offset:page id:title'"),
        (b"x" * 100_000, "i.txt", "does not contain lines"),
        (bz2.compress(b"1:1:T\n")[:-5], "i.txt.bz2", "cut short"),
        (None, "i.txt", "no such file; correct index_path"),
    ],
    ids=short_id,
)
def test_an_index_that_does_not_belong_to_the_dump_is_refused(
    tmp_path: Path, lines: bytes | None, name: str, message: str
) -> None:
    uri = write_multistream(tmp_path, PAGES, index=False).uri
    if lines is not None:
        write(tmp_path, lines, name)
    assert re.search(message, refusal(lambda index: ranges(uri, 1, index), f"{tmp_path}/{name}"))


def test_an_empty_index_leaves_one_range(tmp_path: Path) -> None:
    uri = write_multistream(tmp_path, PAGES, index=False).uri
    assert len(ranges(uri, 1, write(tmp_path, b"", "i.txt"))) == 1


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
@settings(max_examples=10)
def test_a_dump_that_is_cut_anywhere_is_refused(forms: Forms, folder: Path, form: str, data: st.DataObject) -> None:
    whole = Path(forms[form][0]).read_bytes()
    size = data.draw(st.integers(0, len(whole) - 1))
    refusal(check, write(folder, whole[:size], "cut"))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "one small stream"])  # of one block
@given(data=st.data())
@settings(max_examples=8)
def test_the_pages_before_a_cut_are_read_and_the_cut_is_reported_once(
    forms: Forms, folder: Path, form: str, data: st.DataObject
) -> None:
    whole = Path(forms[form][0]).read_bytes()
    size = data.draw(st.integers(len(whole) // 3, len(whole) - 30))  # the footer of bz2 holds no text
    entries = read(write(folder, whole[:size], "first-part.xml"), data.draw(st.integers(400, 30_000)))
    texts = [one.text for one in reading.documents(entries)]
    assert texts == [fields[3] for fields in expected(forms[form][1])][: len(texts)]
    [bad] = bad_rows(entries)
    assert bad.reason in ("cut_short", "bz2_damaged")
    assert bad.offset + bad.lost_bytes <= size


PAGE_5 = XML.index(b"<page><title>Page 5")


@pytest.mark.parametrize("rest", [b"", b"\n", b"</media", XML[PAGE_5 : PAGE_5 + 100]], ids=short_id)
def test_the_bytes_after_the_last_whole_page_are_reported(tmp_path: Path, rest: bytes) -> None:
    [bad] = bad_rows(read(write(tmp_path, XML[:PAGE_5] + rest)))
    if rest.startswith(b"<page>"):
        assert bad == BadRow("wiki", PAGE_5, "cut_short", "page 'Page 5' (id 6) ends with the file", len(rest))
    else:
        assert (bad.reason, bad.detail) == ("cut_short", "the dump ends without </mediawiki>")


def test_a_cut_dump_is_read_without_the_index_of_the_whole(tmp_path: Path) -> None:
    made = write_multistream(tmp_path, PAGES)
    write(tmp_path, Path(made.uri).read_bytes()[: made.offsets[4] + 50], Path(made.uri).name)
    assert page_ids(read(made.uri, 1_000)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("form", ["plain", "blocks", "without an index"])
def test_every_range_knows_the_wiki_from_the_head_of_the_file(tmp_path: Path, form: str) -> None:
    siteinfo = '<siteinfo><namespaces><namespace key="6" case="first-letter">Datei</namespace></namespaces></siteinfo>'
    german = {"siteinfo": siteinfo, "language": "de"}
    if form == "without an index":
        uri = write_multistream(tmp_path, PAGES, index=False, **german).uri
    else:
        xml = dump(*PAGES, **german)
        uri = write(tmp_path, bz2.compress(xml, 1) if form == "blocks" else xml)
    articles = documents(uri, 2_000)
    assert len(articles) == len(PAGES)
    assert {(one.site.language, one.site.namespace_of("Datei")) for one in articles} == {("de", 6)}


def test_pages_outside_the_ids_of_a_numbered_part_have_keys_with_its_name(tmp_path: Path) -> None:
    ids = (7, 20, 21, 25, 40, 41)
    file_range = FileRange(write(tmp_path, dump(*map(page, ids))), "wiki2.xml-p21p40", 0, BIG, "plain", BIG)
    articles = reading.documents(list(read_documents(WIKIPEDIA, file_range, max_document_bytes=1000)))
    outside = [f"wiki2.xml-p21p40:{number}" for number in (7, 20, 41)]
    assert [one.key for one in articles] == [*outside[:2], "21", "25", "40", outside[2]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty; download the dump again"),
        (b"just text", "neither XML nor bz2"),
        (b"\x1f\x8b\x08\x00", "neither XML nor bz2"),
        (bz2.compress(b"just text"), "neither XML nor bz2"),
        (b"<html><body/></html>", "root element <html>, not <mediawiki>"),
        (bz2.compress(b"<html><body/></html>"), "root element <html>, not <mediawiki>"),
        (b"<mediawiki></a>", "not well-formed"),
        (b"<mediawiki><siteinfo/></mediawiki>", "a dump without pages; download it again"),
        (bz2.compress(b"<mediawiki></mediawiki>"), "a dump without pages; download it again"),
        (XML[:-40], "the XML is cut short; download the dump again"),
        (bz2.compress(XML)[:-20], "the bz2 data is cut short; download the dump again"),
        (STREAMS[: OFFSETS[-1]], "the bz2 data is cut short; download the dump again"),
        (bz2.compress(XML)[:-5000] + bytes(5000), "a bz2 stream is damaged"),  # a download that reserved its size
        (b"BZh9" + bytes(200), "the bz2 data is damaged"),
        (bz2.compress(b""), "the bz2 data is cut short"),
        (b'<!DOCTYPE mediawiki [<!ENTITY e "lol">]>' + XML, "contains a DOCTYPE"),
        (b'<?xml version="1.0" encoding="latin-1"?>' + XML, "its encoding is latin-1, not UTF-8; convert it"),
        (XML.decode().encode("utf-16"), "its encoding is UTF-16, not UTF-8; convert it with iconv -f UTF-16"),
        (XML.decode().encode("utf-16-be"), "its encoding is UTF-16BE"),
        (bz2.compress(XML.decode().encode("utf-16-le")), "its encoding is UTF-16LE"),
        (bz2.compress(XML.decode().encode("utf-32")), "its encoding is UTF-32"),
    ],
    ids=short_id,
)
def test_a_file_that_is_not_a_whole_dump_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(check, write(tmp_path, data, "file"))


@pytest.mark.parametrize("encoding", [b"UTF-8", b"utf8", b"US-ASCII"])
def test_a_dump_with_a_byte_order_mark_passes_the_check(tmp_path: Path, encoding: bytes) -> None:
    declaration = b'<?xml version="1.0" encoding="%s"?>\n' % encoding
    check(write(tmp_path, b"\xef\xbb\xbf" + declaration + XML + b"\n"))


@pytest.mark.parametrize("minor", [8, 10, 11])
def test_a_page_becomes_a_document_whatever_the_export_version(tmp_path: Path, minor: int) -> None:
    uri = write(tmp_path, dump(page(12, "A &amp; B", "é &lt;ref/&gt;\n\nb"), minor=minor))
    assert documents(uri) == [RawDocument("12", "A & B", "é <ref/>\n\nb", 12, 12, 112)]


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (page(1, namespace=4), "not_an_article"),
        (page(1, namespace=4, text="#REDIRECT [[B]]"), "not_an_article"),
        (page(1, extra='<redirect title="B" />'), "redirect"),
        (page(1, text=" #Redirect [[B]]"), "redirect"),
        (page(1, text="#WEITERLEITUNG [[B]]"), "redirect"),
        (page(1, text="#अनुप्रेषित [[B]]"), "redirect"),
        (page(1, text="#転送[[B]]"), "redirect"),
        (page(1, text="#First of all [[B]]"), None),
        (page(1, title="B (disambiguation)"), "disambiguation"),
        (page(1, text="x {{disambig}}"), "disambiguation"),
        (page(1, text="x {{Begriffsklärung}}"), "disambiguation"),
        (page(1, text="{{неоднозначность|тип=город}}"), "disambiguation"),
        (page(1, text="{{曖昧さ回避}}"), "disambiguation"),
        (page(1, text="{{ Human name disambiguation |a}}"), "disambiguation"),
        (page(1, text="{{Disambiguation cleanup}}"), "disambiguation"),
        (page(1, text="{{hndis|name=B}}"), "disambiguation"),
        (page(1, text="{{dabble}} surname #redirect"), None),
        (page(1, text="{{" + " " * 200_000), None),  # in time that grows with the size only
        (page(1, text="{{" + "a " * 100_000), None),
        (page(1, text="{{" * 100_000), None),
    ],
    ids=lambda value: value[-80:-28] if value and "<" in value else value,
)
def test_a_page_that_is_no_article_is_dropped_for_its_first_reason(
    tmp_path: Path, xml: str, reason: str | None
) -> None:
    [article] = documents(write(tmp_path, dump(xml)))
    assert (article.dropped, article.text == "") == (reason, reason is not None)
    assert article.text_bytes > 0


def test_a_malformed_page_is_refused_alone(tmp_path: Path) -> None:
    uri = write(tmp_path, dump(page(1), page(2, "B", "&what;"), page(3)))
    entries = read(uri)
    assert page_ids(entries) == [1, 3]
    [bad] = bad_rows(entries)
    assert (bad.file, bad.reason, bad.lost_bytes) == ("wiki", "xml_malformed", 0)
    assert bad.offset == Path(uri).read_bytes().index(b"<page><title>B")
    assert "page 'B' (id 2)" in bad.detail


@pytest.mark.parametrize(
    ("text", "limit", "is_read"), [("é" * 300, 599, False), ("é" * 300, 600, True), ("y" * (2 << 20), 500, False)]
)
def test_a_page_over_the_limit_in_bytes_is_refused_by_its_name_and_the_next_is_read(
    tmp_path: Path, text: str, limit: int, is_read: bool
) -> None:
    first, following = read(write(tmp_path, dump(page(1, "Long", text), page(2))), limit=limit)
    detail = f"page 'Long' (id 1) has more than {limit} bytes; raise max_document_mb"
    assert isinstance(first, RawDocument) if is_read else (first.reason, first.detail) == ("too_large", detail)
    assert isinstance(following, RawDocument)


def test_damage_in_one_part_leaves_the_pages_of_the_others(tmp_path: Path) -> None:
    made = write_multistream(tmp_path, PAGES)
    data = bytearray(Path(made.uri).read_bytes())
    data[made.offsets[3] + 200] ^= 0xFF
    entries = read(write(tmp_path, bytes(data), "damaged.xml.bz2"), 1_000)
    assert page_ids(entries) == [1, 2, 3, 4, *range(7, 15)]
    [bad] = bad_rows(entries)
    lost = made.offsets[4] - made.offsets[3]
    assert (bad.offset, bad.reason, bad.lost_bytes) == (made.offsets[3], "bz2_damaged", lost)


def test_a_page_that_crosses_into_damage_is_dropped(tmp_path: Path) -> None:
    middle = PAGE_5 + 100
    data = bytearray(bz2.compress(XML[:middle]) + bz2.compress(XML[middle : 2 * middle]))
    data[len(bz2.compress(XML[:middle])) + 500] ^= 0xFF
    assert page_ids(read(write(tmp_path, bytes(data), "damaged.xml.bz2"), 1_000)) == [1, 2, 3, 4, 5]


def test_a_file_uri_reads_like_a_path(tmp_path: Path) -> None:
    made = write_multistream(tmp_path, PAGES)
    assert documents(f"file://{made.uri}", 2_000) == documents(made.uri, 2_000)
