import bz2
from collections.abc import Callable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.config.corpus import WikipediaSource
from distilray.config.sample import wikipedia_dump
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.corpus.sources.wikipedia import check_file, file_ranges, is_input, read_documents
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from tests.tiny.dumps import INDEX, dump, page, pages_of_noise, write, write_crossing, write_multistream

SOURCE = WikipediaSource(path="unused")
PAGES = pages_of_noise(14, 1_500)
XML = dump(*PAGES)
LONG = dump(*pages_of_noise(9, 40_000))
BIG = 1 << 30
LIMIT = 16 << 20


def ranges(uri: str, chunk_bytes: int = BIG, source: WikipediaSource = SOURCE) -> list[FileRange]:
    return file_ranges(source, uri, "wiki", chunk_bytes=chunk_bytes)


def read(uri: str, chunk_bytes: int = BIG, limit: int = LIMIT) -> list[RawDocument | BadRow]:
    file_ranges = ranges(uri, chunk_bytes)
    return [
        found for file_range in file_ranges for found in read_documents(SOURCE, file_range, max_document_bytes=limit)
    ]


def documents(uri: str, chunk_bytes: int = BIG) -> list[RawDocument]:
    found = read(uri, chunk_bytes)
    assert not [one for one in found if isinstance(one, BadRow)]
    return [one for one in found if isinstance(one, RawDocument)]


def faults(uri: str, chunk_bytes: int = BIG, limit: int = LIMIT) -> list[BadRow]:
    return [found for found in read(uri, chunk_bytes, limit) if isinstance(found, BadRow)]


def refusal(uri: str, call: Callable[[], object] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        call() if call else check_file(SOURCE, uri)
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


def same_pages(found: list[RawDocument], xml: bytes) -> bool:
    """Return True if the documents equal those of ElementTree. Of dropped pages, only the size is compared."""
    wanted = expected(xml)
    named = [(one.page_id, one.revision_id, one.title) for one in found]
    sizes = [one.text_bytes for one in found]
    texts = [one.text for one in found if not one.dropped]
    kept = [page[3] for page, one in zip(wanted, found, strict=False) if not one.dropped]
    return (
        named == [page[:3] for page in wanted] and sizes == [len(page[3].encode()) for page in wanted] and texts == kept
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dumps")


@pytest.fixture(scope="module")
def forms(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return a dump in each form, and its XML."""
    bare = folder / "bare"
    bare.mkdir()
    return {
        "plain": (write(folder, XML), XML),
        "one small stream": (write(folder, bz2.compress(XML), "one.xml.bz2"), XML),
        "blocks": (write(folder, bz2.compress(LONG, 1), "long.xml.bz2"), LONG),
        "with an index": (write_multistream(folder, PAGES).uri, XML),
        "without an index": (write_multistream(bare, PAGES, index=False).uri, XML),
        "pages that cross streams": (write_crossing(folder, XML, 700), XML),
    }


FORMS = ["plain", "one small stream", "blocks", "with an index", "without an index", "pages that cross streams"]


@pytest.mark.parametrize("form", FORMS)
@given(chunk_bytes=st.integers(400, 30_000))
@settings(max_examples=8, deadline=None)
def test_the_pages_are_those_of_another_parser_whatever_the_parts(
    forms: dict[str, tuple[str, bytes]], form: str, chunk_bytes: int
) -> None:
    uri, xml = forms[form]
    assert same_pages(documents(uri, chunk_bytes), xml)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_bytes", [1_000, 60_000, BIG])
def test_the_ranges_of_a_file_cover_it_once(forms: dict[str, tuple[str, bytes]], form: str, chunk_bytes: int) -> None:
    uri, _ = forms[form]
    found = ranges(uri, chunk_bytes)
    size = Path(uri).stat().st_size
    assert [file_range.start for file_range in found] == [0, *(file_range.end for file_range in found)][:-1]
    assert (found[-1].end, sum(file_range.stored_bytes for file_range in found)) == (size, size)


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
def test_the_form_of_a_file_is_recognized(
    forms: dict[str, tuple[str, bytes]], form: str, chunk_bytes: int, name: str
) -> None:
    assert {file_range.form for file_range in ranges(forms[form][0], chunk_bytes)} == {name}


@pytest.mark.parametrize("chunk_bytes", [700_000, BIG])
def test_the_real_sample_is_read_as_another_parser_reads_it(chunk_bytes: int) -> None:
    uri = str(wikipedia_dump())
    check_file(SOURCE, uri)
    assert same_pages(documents(uri, chunk_bytes), bz2.decompress(wikipedia_dump().read_bytes()))


def test_real_pages_in_streams_are_read_as_another_parser_reads_them(tmp_path: Path) -> None:
    xml = bz2.decompress(wikipedia_dump().read_bytes())[: 2 << 20]
    xml = xml[: xml.rindex(b"</page>") + 7] + b"</mediawiki>"
    assert same_pages(documents(write_crossing(tmp_path, xml, 100_000), 50_000), xml)


def test_an_index_sets_the_boundaries_of_the_ranges(tmp_path: Path) -> None:
    found = write_multistream(tmp_path, PAGES)
    assert [file_range.start for file_range in ranges(found.uri, 1)] == [0, *found.offsets[1:-1]]


@pytest.mark.parametrize("ending", [".bz2", ""])
def test_the_index_of_a_numbered_part_is_found_beside_it(tmp_path: Path, ending: str) -> None:
    made = write_multistream(tmp_path, PAGES)
    uri = write(tmp_path, Path(made.uri).read_bytes(), "wiki-articles-multistream1.xml-p1p41242.bz2")
    index = Path(made.index).read_bytes() if ending else bz2.decompress(Path(made.index).read_bytes())
    write(tmp_path, index, f"wiki-articles-multistream-index1.txt-p1p41242{ending}")
    assert [file_range.start for file_range in ranges(uri, 1)] == [0, *made.offsets[1:-1]]


def with_index(tmp_path: Path, lines: str | bytes, name: str = "i.txt") -> tuple[str, str, Callable[[], object]]:
    dump_uri = write_multistream(tmp_path, PAGES, index=False).uri
    index = write(tmp_path, lines.encode() if isinstance(lines, str) else lines, name)
    source = WikipediaSource(path=dump_uri, index_path=index)
    return dump_uri, index, lambda: ranges(dump_uri, 1, source)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("999999:1:T\n", "is beyond the end of"),
        ("5:1:T\n", "no stream of"),
    ],
)
def test_an_index_of_another_dump_is_refused_with_both_names(tmp_path: Path, lines: str, message: str) -> None:
    dump_uri, index, call = with_index(tmp_path, lines)
    assert message in refusal(index, call)
    assert dump_uri in refusal(index, call)


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        ("notes\n", "i.txt", "is not 'offset:page id:title'"),
        ("x" * 100_000, "i.txt", "does not contain lines"),
        (bz2.compress(b"1:1:T\n")[:-5], "i.txt.bz2", "cut short"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path: Path, lines: str | bytes, name: str, message: str) -> None:
    _, index, call = with_index(tmp_path, lines, name)
    assert message in refusal(index, call)


def test_an_index_that_is_missing_is_refused(tmp_path: Path) -> None:
    _, index, call = with_index(tmp_path, "")
    Path(index).unlink()
    assert "no such file; correct index_path" in refusal(index, call)


def test_an_empty_index_leaves_one_range(tmp_path: Path) -> None:
    _, _, call = with_index(tmp_path, "")
    assert len(call()) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "is_dump"),
    [
        ("a/enwiki-20250101-pages-articles.xml.bz2", True),
        ("index/enwiki.xml", True),
        ("enwiki-pages-articles-multistream1.xml-p1p41242.bz2", True),
        ("enwiki-20200101-pages-articles2.xml-p41243p151573", True),
        ("enwiki-pages-articles1.xml-p000000010p000010000", True),
        ("enwiki-pages-articles1.xml-p1p20.md5", False),
        ("enwiki-pages-articles-multistream-index.txt.bz2", False),
        ("enwiki-pages-articles-multistream-index1.txt-p1p41242.bz2", False),
        ("enwiki-pages-articles-multistream-index1.txt-p1p41242", False),
        ("enwiki-pages-articles.xml.bz2.md5", False),
        ("enwiki.xml.gz", False),
        ("README.txt", False),
    ],
)
def test_dumps_are_known_by_their_names(name: str, is_dump: bool) -> None:
    assert is_input(name) == is_dump


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_dump_passes_the_check(forms: dict[str, tuple[str, bytes]], form: str) -> None:
    check_file(SOURCE, forms[form][0])


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_dump_that_is_cut_anywhere_is_refused(
    forms: dict[str, tuple[str, bytes]], folder: Path, form: str, data: st.DataObject
) -> None:
    whole = Path(forms[form][0]).read_bytes()
    size = data.draw(st.integers(0, len(whole) - 1))
    refusal(write(folder, whole[:size], "cut"))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "one small stream"])  # of one block
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_pages_before_a_cut_are_those_of_the_whole_dump_and_the_cut_is_reported_once(
    forms: dict[str, tuple[str, bytes]], folder: Path, form: str, data: st.DataObject
) -> None:
    whole = Path(forms[form][0]).read_bytes()
    size = data.draw(st.integers(len(whole) // 3, len(whole) - 30))  # the footer of bz2 holds no text
    uri = write(folder, whole[:size], "first-part.xml")
    found = read(uri, data.draw(st.integers(400, 30_000)))
    pages = [one.text for one in found if isinstance(one, RawDocument)]
    assert pages == [page[3] for page in expected(forms[form][1])][: len(pages)]
    [fault] = [one for one in found if isinstance(one, BadRow)]
    assert fault.reason in ("cut_short", "bz2_damaged")
    assert fault.offset + fault.lost_bytes <= size


def test_a_cut_inside_a_page_loses_the_bytes_of_the_page(tmp_path: Path) -> None:
    begin = XML.index(b"<page><title>Page 5")
    [fault] = faults(write(tmp_path, XML[: begin + 100]))
    assert fault == BadRow("wiki", begin, "cut_short", "page 'Page 5' (id 6) ends with the file", 100)


@pytest.mark.parametrize("rest", [b"", b"\n", b"</media"])
def test_a_cut_between_two_pages_is_reported(tmp_path: Path, rest: bytes) -> None:
    end = XML.index(b"</page>") + len(b"</page>")
    uri = write(tmp_path, XML[:end] + rest)
    assert [fault.detail for fault in faults(uri)] == ["the dump ends without </mediawiki>"]


def test_a_cut_dump_is_read_without_the_index_of_the_whole(tmp_path: Path) -> None:
    made = write_multistream(tmp_path, PAGES)
    write(tmp_path, Path(made.uri).read_bytes()[: made.offsets[4] + 50], Path(made.uri).name)
    assert [one.page_id for one in read(made.uri, 1_000) if isinstance(one, RawDocument)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("form", ["plain", "blocks", "without an index"])
def test_every_range_knows_the_wiki_from_the_head_of_the_file(tmp_path: Path, form: str) -> None:
    siteinfo = '<siteinfo><namespaces><namespace key="6" case="first-letter">Datei</namespace></namespaces></siteinfo>'
    german = {"siteinfo": siteinfo, "language": "de"}
    if form == "without an index":
        uri = write_multistream(tmp_path, PAGES, index=False, **german).uri
    else:
        xml = dump(*PAGES, **german)
        uri = write(tmp_path, bz2.compress(xml, 1) if form == "blocks" else xml)
    found = documents(uri, 2_000)
    assert len(found) == len(PAGES)
    assert {(one.site.language, one.site.namespace_of("Datei")) for one in found} == {("de", 6)}


def test_a_numbered_part_with_ids_of_its_own_names_its_pages_by_itself(tmp_path: Path) -> None:
    file_range = FileRange(write(tmp_path, dump(page(7), page(25))), "wiki2.xml-p21p40", 0, BIG, "plain", BIG)
    found = list(read_documents(SOURCE, file_range, max_document_bytes=LIMIT))
    assert [one.key for one in found if isinstance(one, RawDocument)] == ["wiki2.xml-p21p40:7", "25"]


def test_a_dump_that_is_cut_between_two_streams_is_refused(tmp_path: Path) -> None:
    made = write_multistream(tmp_path, PAGES)
    uri = write(tmp_path, Path(made.uri).read_bytes()[: made.offsets[-1]], "cut.xml.bz2")
    assert "the bz2 data is cut short; download the dump again" in refusal(uri)


def test_a_dump_whose_end_was_never_fetched_is_refused(tmp_path: Path) -> None:
    whole = bz2.compress(XML)
    refusal(write(tmp_path, whole[:-5000] + bytes(5000)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path / "none.xml"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
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
        (b"BZh9" + bytes(200), "the bz2 data is damaged"),
        (bz2.compress(b""), "the bz2 data is cut short"),
        (b'<!DOCTYPE mediawiki [<!ENTITY e "lol">]>' + XML, "contains a DOCTYPE"),
        (b'<?xml version="1.0" encoding="latin-1"?>' + XML, "its encoding is latin-1, not UTF-8; convert it"),
        (XML.decode().encode("utf-16"), "its encoding is UTF-16, not UTF-8; convert it with iconv -f UTF-16"),
        (XML.decode().encode("utf-16-be"), "its encoding is UTF-16BE"),
        (bz2.compress(XML.decode().encode("utf-16-le")), "its encoding is UTF-16LE"),
        (bz2.compress(XML.decode().encode("utf-32")), "its encoding is UTF-32"),
    ],
)
def test_what_is_no_whole_dump_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refusal(write(tmp_path, data, "file"))


@pytest.mark.parametrize("encoding", [b"UTF-8", b"utf8", b"US-ASCII"])
def test_a_dump_with_a_byte_order_mark_passes_the_check(tmp_path: Path, encoding: bytes) -> None:
    declaration = b'<?xml version="1.0" encoding="%s"?>\n' % encoding
    check_file(SOURCE, write(tmp_path, b"\xef\xbb\xbf" + declaration + XML + b"\n"))


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
    ],
)
def test_a_page_that_is_no_article_is_dropped_for_its_first_reason(
    tmp_path: Path, xml: str, reason: str | None
) -> None:
    [found] = documents(write(tmp_path, dump(xml)))
    assert found.dropped == reason
    assert (found.text == "") == (reason is not None)
    assert found.text_bytes > 0


@pytest.mark.parametrize("text", ["{{" + " " * 200_000, "{{" + "a " * 100_000, "{{" * 100_000])
def test_no_page_makes_the_search_for_its_kind_slow(tmp_path: Path, text: str) -> None:
    assert documents(write(tmp_path, dump(page(1, text=text))))[0].dropped is None


def test_a_malformed_page_is_refused_alone(tmp_path: Path) -> None:
    uri = write(tmp_path, dump(page(1), page(2, "B", "&what;"), page(3)))
    found = read(uri)
    assert [one.key for one in found if isinstance(one, RawDocument)] == ["1", "3"]
    [fault] = [one for one in found if isinstance(one, BadRow)]
    assert (fault.file, fault.reason, fault.lost_bytes) == ("wiki", "xml_malformed", 0)
    assert fault.offset == Path(uri).read_bytes().index(b"<page><title>B")
    assert "page 'B' (id 2)" in fault.detail


@pytest.mark.parametrize(("limit", "kept"), [(599, False), (600, True)])
def test_the_limit_counts_bytes_of_wikitext_not_characters(tmp_path: Path, limit: int, kept: bool) -> None:
    found = read(write(tmp_path, dump(page(1, text="é" * 300))), limit=limit)
    assert isinstance(found[0], RawDocument) == kept


@pytest.mark.parametrize("size", [1_000, 2 << 20])
def test_a_page_over_the_limit_is_refused_by_its_name_and_the_next_is_read(tmp_path: Path, size: int) -> None:
    found = read(write(tmp_path, dump(page(1, "Long", "y" * size), page(2))), limit=500)
    assert isinstance(found[0], BadRow)
    assert found[0].reason == "too_large"
    assert found[0].detail == "page 'Long' (id 1) has more than 500 bytes; raise max_document_mb"
    assert isinstance(found[1], RawDocument)


def test_damage_in_one_part_leaves_the_pages_of_the_others(tmp_path: Path) -> None:
    made = write_multistream(tmp_path, PAGES)
    data = bytearray(Path(made.uri).read_bytes())
    data[made.offsets[3] + 200] ^= 0xFF
    uri = write(tmp_path, bytes(data), "damaged.xml.bz2")
    found = read(uri, 1_000)
    assert [one.page_id for one in found if isinstance(one, RawDocument)] == [1, 2, 3, 4, *range(7, 15)]
    [fault] = [one for one in found if isinstance(one, BadRow)]
    assert (fault.offset, fault.reason) == (made.offsets[3], "bz2_damaged")
    assert fault.lost_bytes == made.offsets[4] - made.offsets[3]


def test_a_page_that_crosses_into_damage_is_dropped(tmp_path: Path) -> None:
    xml = dump(*PAGES)
    middle = xml.index(b"<page><title>Page 5") + 100
    data = bytearray(bz2.compress(xml[:middle]) + bz2.compress(xml[middle : 2 * middle]))
    data[len(bz2.compress(xml[:middle])) + 500] ^= 0xFF
    found = read(write(tmp_path, bytes(data), "damaged.xml.bz2"), 1_000)
    assert [one.page_id for one in found if isinstance(one, RawDocument)] == [1, 2, 3, 4, 5]


def test_a_file_uri_reads_like_a_path(tmp_path: Path) -> None:
    made = write_multistream(tmp_path, PAGES)
    assert (tmp_path / INDEX).exists()
    assert documents(f"file://{made.uri}", 2_000) == documents(made.uri, 2_000)
