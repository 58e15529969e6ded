"""Books as plain text, one per file, as published by Project Gutenberg and others, in any common encoding."""

from collections.abc import Iterator

from distilray.config.corpus import BooksSource
from distilray.corpus.sources import texts
from distilray.corpus.sources.book_layout import book_prose
from distilray.corpus.sources.charsets import EncodingError, decode
from distilray.corpus.sources.gutenberg import read_book
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, byte_ranges
from distilray.formats.streams import EmptyFileError, UnreadableError, read_whole, split_suffix, stored_size
from distilray.runtime import storage

is_input = texts.is_input


def check_file(source: BooksSource, uri: str) -> None:
    """Check that a file exists. If it is not a book, it is quarantined when it is read.

    Raises:
        EmptyFileError: if the file is empty.
        InputError: if the file is missing.
    """
    if not stored_size(uri):
        raise EmptyFileError(uri)
    storage.read_range(uri, 0, 1)  # fails if access is denied


def file_ranges(source: BooksSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """Return one range, since a book is read whole."""
    return byte_ranges(uri, name, chunk_bytes=chunk_bytes, divisible=False)


def read_documents(
    source: BooksSource, file_range: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """Read a book without Project Gutenberg boilerplate. Its key is the file name without suffix."""
    key = split_suffix(file_range.name)[0]
    try:
        text, _ = decode(read_whole(file_range.uri, max_bytes=max_document_bytes))
    except UnreadableError as error:
        yield error.bad_row(file_range.name)
        return
    except EncodingError as error:
        yield BadRow(file_range.name, 0, "encoding_unknown", f"{error}; convert the file to UTF-8")
        return
    if not text.strip():
        return
    book = read_book(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not book.body.strip():
        yield BadRow(file_range.name, 0, "empty", "no text in the file")
        return
    title = book.title or key.rpartition("/")[2]
    yield RawDocument(key, title, book.body, len(book.body.encode()))


def prose(source: BooksSource, document: RawDocument) -> str:
    """Return paragraphs separated by blank lines; see `book_prose`."""
    return book_prose(document.text)
