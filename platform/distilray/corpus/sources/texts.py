"""Documents in plain text files: one per line, per block between blank lines, or per file."""

import contextlib
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator

from distilray.config.corpus import TableSource, TextSource
from distilray.corpus.sources.charsets import EncodingError, decode
from distilray.corpus.sources.other_formats import reject_other_formats
from distilray.corpus.sources.raw_documents import HEADING, RawDocument
from distilray.corpus.writing_systems import join_lines
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, Line, byte_ranges, read_lines
from distilray.formats.streams import (
    EmptyFileError,
    UnreadableError,
    read_chunks,
    read_whole,
    split_suffix,
    stored_size,
)
from distilray.runtime import storage

_SUFFIXES = {".txt", ".text", ".md", ".markdown", ".rst", ""}
_LOOK_BACK_BYTES = 64 << 10
# A single `=` must be separated from the title by a space, so that code such as `=a=` does not match.
_ITEM = re.compile(r"\s*(?:[-*+•]|\(?\d{1,2}[.)]|\(?[a-z#][.)])\s+")
_HEADING = re.compile(r"= {0} =|(?P<signs>=(?: ?=){{1,5}}) ?{0} ?(?P=signs)".format(r"[^=]{0,200}\w[^=]{0,200}"))


def is_input(name: str) -> bool:
    return split_suffix(name)[2] in _SUFFIXES


def check_file(source: TextSource, uri: str) -> None:
    """Check the start of a file.

    Raises:
        EmptyFileError: if the file has no text.
        InputError: if the file is missing, damaged at its start, or not UTF-8 text.
    """
    stored_size(uri)
    try:
        head = next(read_chunks(uri), b"")
    except UnreadableError as error:
        raise InputError(f"{uri}: {error}") from None
    if not head.removeprefix(BOM_UTF8).strip():
        raise EmptyFileError(uri)
    reject_other_formats(uri, head)


def file_ranges(source: TextSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """Return byte ranges, or one range if the file is compressed or a single document."""
    return byte_ranges(uri, name, chunk_bytes=chunk_bytes, divisible=source.document_per != "file")


def read_documents(
    source: TextSource, file_range: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """Yield the documents that start in a range. The default key contains the offset of the document."""
    try:
        if source.document_per == "file":
            whole = read_whole(file_range.uri, max_bytes=max_document_bytes)
            yield from _documents(file_range, [Line(0, whole, len(whole))], max_document_bytes, named=True)
        elif source.document_per == "line":
            lines = read_lines(file_range, max_bytes=max_document_bytes)
            yield from _documents(file_range, lines, max_document_bytes)
        else:
            yield from _documents(file_range, _blocks(file_range, max_document_bytes), max_document_bytes)
    except UnreadableError as error:
        yield error.bad_row(file_range.name)


def prose(source: TextSource | TableSource, document: RawDocument) -> str:
    """Return paragraphs separated by blank lines: one per line, or with `hard_wrapped`, one per block of lines.

    A block ends at a blank line, a line without letters and digits (which is dropped), a list item, and an indentation.
    """
    paragraphs: list[list[str]] = [[]]
    margin = 0
    for line in document.text.splitlines():
        words = line.split()
        item = _ITEM.match(line)
        start = item.end() if item else len(line) - len(line.lstrip())
        if source.hard_wrapped and not any(map(str.isalnum, line)):
            words = []
        if not words or not source.hard_wrapped or item or start > margin:
            paragraphs.append([])
        if words:
            paragraphs[-1].append(" ".join(words))
            margin = start
    return "\n\n".join(join_lines(lines) for lines in paragraphs if lines)


def _documents(
    file_range: FileRange, lines: Iterable[Line], max_document_bytes: int, *, named: bool = False
) -> Iterator[RawDocument | BadRow]:
    """Yield a document for each non-empty line or block.

    Args:
        named: the document is a whole file: its key and title are the file name, and its encoding is detected.
    """
    for line in lines:
        if line.size > max_document_bytes:
            yield BadRow(file_range.name, line.offset, "too_large", f"{line.size:,} bytes; raise max_document_mb")
            continue
        data = line.data.removeprefix(BOM_UTF8) if line.offset == 0 else line.data
        try:
            text = _decode(data, any_encoding=named).strip()
        except UnicodeDecodeError as error:
            detail = f"byte {error.start:,} of the document is not UTF-8; convert the file to UTF-8"
            yield BadRow(file_range.name, line.offset, "not_utf8", detail)
            continue
        if text:
            key, title = (file_range.name, file_range.name) if named else (f"{file_range.name}:{line.offset}", "")
            size = len(text.encode())
            text, headings = _without_headings(text)
            dropped = None if text else HEADING
            yield RawDocument(key, title, text, size, dropped=dropped, headings=headings if text else 0)


def _decode(data: bytes, *, any_encoding: bool) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        if any_encoding:
            with contextlib.suppress(EncodingError):
                return decode(data)[0]
        raise


def _without_headings(text: str) -> tuple[str, int]:
    """Remove wikitext headings, such as ` = = Early life = = ` in the WikiText corpus, and return their number."""
    if "=" not in text:
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if not _HEADING.fullmatch(line.strip())]
    return "\n".join(kept).strip(), len(lines) - len(kept)


def _blocks(file_range: FileRange, max_bytes: int) -> Iterator[Line]:
    """Yield the blocks between blank lines that start in a range, each as a single `Line`."""
    end = file_range.end if file_range.form == "lines" else sys.maxsize
    block: list[bytes] = []
    start = size = 0
    for line in read_lines(file_range, max_bytes=max_bytes, start=_block_start(file_range)):
        is_blank = line.size <= max_bytes and not line.data.strip()
        if line.offset >= end and (start < file_range.start or not size):
            return
        if not is_blank:
            start = start if size else line.offset
            size += line.size + 1
            block = [*block, line.data] if size <= max_bytes + 1 else []
        elif size:
            if start >= file_range.start:
                yield Line(start, b"\n".join(block), size - 1)
            block, size = [], 0
    if size and start >= file_range.start:
        yield Line(start, b"\n".join(block), size - 1)


def _block_start(file_range: FileRange) -> int:
    """Return the offset at which reading must start to know whether the range starts inside a block.

    The text between the offset and the range contains a non-blank character or a blank line.
    """
    offset, window = file_range.start, _LOOK_BACK_BYTES
    with storage.open_file(file_range.uri) as file:
        while offset > 0:
            offset = max(0, file_range.start - window)
            data = file.read_at(file_range.start - offset, offset)
            if data.strip() or data.count(b"\n") > 1:
                break
            window *= 2
    return offset
