import bz2
from pathlib import Path

import pytest

from distilray.corpus.wikipedia import Page, open_dump, read_pages
from distilray.errors import InputError

HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.{minor}/" version="0.{minor}" xml:lang="en"><siteinfo/>'


def page(number: int, title: str = "T", text: str = "x", namespace: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{extra}<revision><id>{number + 100}</id>"
        f'<contributor><username>U</username><id>7</id></contributor><text xml:space="preserve">{text}</text>'
        "</revision></page>"
    )


def dump(*pages: str, minor: int = 10) -> bytes:
    return (HEAD.format(minor=minor) + "".join(pages) + "</mediawiki>").encode()


def write(folder: Path, data: bytes, name: str = "wiki.xml") -> str:
    file = folder / name
    file.write_bytes(data)
    return str(file)


def read(uri: str, **options: int) -> list[Page]:
    return list(read_pages(open_dump(uri), **options))


def refusal(uri: str) -> str:
    with pytest.raises(InputError) as caught:
        read(uri)
    message = str(caught.value)
    assert message.startswith(uri)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("minor", [8, 10, 11])
def test_a_page_is_read_with_every_field_whatever_the_export_version(tmp_path: Path, minor: int) -> None:
    uri = write(tmp_path, dump(page(12, "A &amp; B", "'''a''' &lt;ref/&gt;\n\nb"), minor=minor))
    assert read(uri) == [Page(12, 112, 0, "A & B", False, "'''a''' <ref/>\n\nb")]


def test_the_id_of_a_contributor_is_not_taken_for_that_of_the_page(tmp_path: Path) -> None:
    assert [found.page_id for found in read(write(tmp_path, dump(page(1), page(2))))] == [1, 2]


def test_a_redirect_and_a_namespace_are_told(tmp_path: Path) -> None:
    pages = read(write(tmp_path, dump(page(1, extra='<redirect title="B" />'), page(2, namespace=4))))
    assert [(found.redirect, found.namespace) for found in pages] == [(True, 0), (False, 4)]


def test_a_page_without_text_is_empty(tmp_path: Path) -> None:
    uri = write(
        tmp_path, dump("<page><title>T</title><ns>0</ns><id>1</id><revision><id>2</id><text/></revision></page>")
    )
    assert read(uri)[0].text == ""


def test_bz2_of_many_streams_reads_like_one_stream(tmp_path: Path) -> None:
    parts = [HEAD.format(minor=10), page(1), page(2), "</mediawiki>"]
    many = write(tmp_path, b"".join(bz2.compress(part.encode()) for part in parts), "many.xml.bz2")
    one = write(tmp_path, bz2.compress("".join(parts).encode()), "one.xml.bz2")
    assert read(many) == read(one)


def test_a_file_uri_reads_like_a_path(tmp_path: Path) -> None:
    uri = write(tmp_path, dump(page(1)))
    assert read(f"file://{uri}") == read(uri)


def test_a_page_over_the_limit_comes_without_its_text_and_the_next_with_it(tmp_path: Path) -> None:
    pages = read(write(tmp_path, dump(page(1, text="y" * 1000), page(2, text="short"))), max_page_bytes=500)
    assert [(found.text, found.oversized) for found in pages] == [("", True), ("short", False)]


def test_the_limit_counts_bytes_not_characters(tmp_path: Path) -> None:
    uri = write(tmp_path, dump(page(1, text="é" * 300)))
    assert [read(uri, max_page_bytes=limit)[0].oversized for limit in (599, 600)] == [True, False]


def test_the_position_ends_at_the_size_of_the_stored_file(tmp_path: Path) -> None:
    uri = write(tmp_path, bz2.compress(dump(page(1))), "a.xml.bz2")
    stream = open_dump(uri)
    list(read_pages(stream))
    assert stream.position == Path(uri).stat().st_size


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path / "none.xml"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.xml", b"", "the file is empty"),
        ("notes.txt", b"just text", "neither XML nor bz2"),
        ("a.xml.gz", b"\x1f\x8b\x08\x00", "neither XML nor bz2"),
        ("page.html", b"<html><body/></html>", "root element <html>"),
        ("broken.xml", b"<mediawiki><page></title>", "not well-formed"),
        ("cut.xml", dump(page(1), page(2))[:-40], "cut short"),
        ("cut.xml.bz2", bz2.compress(dump(page(1)))[:-20], "cut short"),
        ("damaged.xml.bz2", b"BZh9" + b"\x00" * 200, "damaged"),
        ("empty.xml.bz2", bz2.compress(b""), "cut short"),
        ("no_id.xml", dump("<page><title>T</title><ns>0</ns></page>"), "page 'T' has no valid page_id"),
        ("no_ns.xml", dump("<page><title>T</title><id>1</id></page>"), "page 'T' has no valid namespace"),
        ("deep.xml", b"<mediawiki>" + b"<a>" * 10_000, "nest deeper"),
    ],
)
def test_what_is_no_whole_dump_is_refused(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    assert reason in refusal(write(tmp_path, data, name))


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE mediawiki [<!ENTITY e0 "lol">{levels}]><mediawiki><page>&e9;</page></mediawiki>'
    assert "DOCTYPE" in refusal(write(tmp_path, bomb.encode()))


def test_an_undefined_entity_is_refused(tmp_path: Path) -> None:
    assert "undefined entity" in refusal(write(tmp_path, dump(page(1, text="&what;"))))
