"""Books as plain text, one in a file, as Project Gutenberg and others publish them."""

from collections.abc import Iterator

from distilray.config.corpus import BooksSource
from distilray.corpus.sources.book_text.charsets import EncodingError, decode
from distilray.corpus.sources.book_text.gutenberg import read_book
from distilray.corpus.sources.book_text.layout import book_prose
from distilray.corpus.sources.ranges import RawDocument
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, byte_ranges
from distilray.formats.streams import EmptyFileError, UnreadableError, read_whole, split_suffix, stored_size
from distilray.runtime import storage

_SUFFIXES = {".txt", ".text"}


def is_input(name: str) -> bool:
    """Whether a file of a folder is a book."""
    return split_suffix(name)[2] in _SUFFIXES


def check_file(source: BooksSource, uri: str) -> None:
    """Whether the file is there; one that turns out to be no book is put in quarantine when it is read.

    Raises:
        EmptyFileError: there are no bytes in it.
        InputError: it is missing.
    """
    if not stored_size(uri):
        raise EmptyFileError(uri)
    storage.read_range(uri, 0, 1)  # may be forbidden


def file_ranges(source: BooksSource, uri: str, name: str, *, part_bytes: int) -> list[FileRange]:
    """One range: a book is read whole."""
    return byte_ranges(uri, name, part_bytes=part_bytes, divisible=False)


def read_documents(source: BooksSource, part: FileRange, *, max_document_bytes: int) -> Iterator[RawDocument | BadRow]:
    """The book of a file without header and licence of Project Gutenberg. Its key is the file name without suffix."""
    key = split_suffix(part.name)[0]
    try:
        text, _ = decode(read_whole(part.uri, max_bytes=max_document_bytes))
    except UnreadableError as error:
        yield error.bad_row(part.name)
        return
    except EncodingError as error:
        yield BadRow(part.name, 0, "encoding_unknown", f"{error}; convert the file to UTF-8")
        return
    if not text.strip():
        return
    book = read_book(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not book.body.strip():
        yield BadRow(part.name, 0, "empty", "no text in the file")
        return
    title = book.title or key.rpartition("/")[2]
    yield RawDocument(key, title, book.body, len(book.body.encode()))


def prose(source: BooksSource, document: RawDocument) -> str:
    """Paragraphs with a blank line between; see `book_prose`."""
    return book_prose(document.text)
