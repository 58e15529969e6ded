import gzip
from pathlib import Path

import pytest

from distilray.config.corpus import BooksSource
from distilray.corpus.sources import books
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow

BODY = "The lamp went out before the boat had reached the pier, and nobody on\nboard said a word about it."
BOOK = (
    "The Project Gutenberg eBook of The Lamp\r\n\r\nTitle: The Lamp\r\n\r\nAuthor: A. Writer\r\n\r\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP ***\r\n\r\n"
    + BODY.replace("\n", "\r\n")
    + "\r\n\r\n*** END OF THE PROJECT GUTENBERG EBOOK THE LAMP ***\r\n"
)


def read(folder: Path, data: bytes, name: str = "a.txt", limit: int = 10_000) -> RawDocument | BadRow:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    source = BooksSource(kind="books", path=str(folder))
    (file_range,) = books.file_ranges(source, str(file), name, chunk_bytes=10)
    (found,) = books.read_documents(source, file_range, max_document_bytes=limit)
    return found


@pytest.mark.parametrize(
    ("name", "belongs"),
    [("a.txt", True), ("a.TEXT.gz", True), ("a.txt.xz", True), ("a.txt.bz2", True), ("a.html", False), ("a.gz", False)],
)
def test_books_are_known_by_their_suffix(name: str, belongs: bool) -> None:
    assert books.is_input(name) is belongs


def test_a_book_has_no_header_and_license(tmp_path: Path) -> None:
    assert read(tmp_path, BOOK.encode(), "coast/lamp.txt") == RawDocument("coast/lamp", "The Lamp", BODY, len(BODY))


def test_a_book_without_header_has_the_name_of_its_file(tmp_path: Path) -> None:
    assert read(tmp_path, gzip.compress(BODY.encode()), "coast/lamp.txt.gz") == RawDocument(
        "coast/lamp", "lamp", BODY, len(BODY)
    )


def test_a_size_is_in_utf8_whatever_the_file_is_in(tmp_path: Path) -> None:
    text = "“It is late,” she said."
    assert read(tmp_path, text.encode("cp1252")) == RawDocument("a", "a", text, len(text) + 4)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"a" * 10_001, "too_large"),
        ("a.txt.gz", gzip.compress(b"a" * 10_001, mtime=0), "too_large"),
        ("a.txt.gz", gzip.compress(b"a" * 100, mtime=0)[:-9], "compressed_damaged"),
        ("a.txt", bytes(range(256)) * 9, "encoding_unknown"),
    ],
)
def test_files_that_are_not_books_are_quarantined(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    found = read(tmp_path, data, name)
    assert isinstance(found, BadRow)
    assert (found.file, found.reason) == (name, reason)
    assert "\n" not in found.detail


def test_a_missing_book_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        books.check_file(BooksSource(kind="books", path="x"), f"{tmp_path}/none.txt")


def test_the_prose_of_a_book_is_unwrapped() -> None:
    assert books.prose(BooksSource(kind="books", path="x"), RawDocument("a", "", BODY, 0)) == BODY.replace("\n", " ")
