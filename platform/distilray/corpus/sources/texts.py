"""Documents in plain text files: a line, a block between blank lines, or the whole file is one."""

import re
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator

from distilray.config.corpus import TableSource, TextSource
from distilray.corpus.sources.other_formats import reject_other_formats
from distilray.corpus.sources.ranges import HEADING, RawDocument
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

_SUFFIXES = {".txt", ".text"}
_LOOK_BACK = 64 << 10
# One sign needs spaces around the title, so that code such as `=a=` is none.
_HEADING = re.compile(r"= {0} =|(?P<signs>=(?: ?=){{1,5}}) ?{0} ?(?P=signs)".format(r"[^=]{0,200}\w[^=]{0,200}"))


def is_input(name: str) -> bool:
    """Whether a file of a folder is plain text."""
    return split_suffix(name)[2] in _SUFFIXES


def check_file(source: TextSource, uri: str) -> None:
    """Looks at the beginning of a file.

    Raises:
        EmptyFileError: there is no text in it.
        InputError: it is missing, damaged from the beginning, or not UTF-8 text.
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
    """Ranges of bytes, or the whole file when it is compressed or one document."""
    return byte_ranges(uri, name, chunk_bytes=chunk_bytes, divisible=source.document_per != "file")


def read_documents(source: TextSource, part: FileRange, *, max_document_bytes: int) -> Iterator[RawDocument | BadRow]:
    """The documents that begin in a range; the key of each says the byte at which it begins."""
    try:
        if source.document_per == "file":
            whole = read_whole(part.uri, max_bytes=max_document_bytes)
            yield from _documents(part, [Line(0, whole, len(whole))], max_document_bytes, named=True)
        elif source.document_per == "line":
            lines = read_lines(part, max_bytes=max_document_bytes)
            yield from _documents(part, lines, max_document_bytes)
        else:
            yield from _documents(part, _blocks(part, max_document_bytes), max_document_bytes)
    except UnreadableError as error:
        yield error.bad_row(part.name)


def prose(source: TextSource | TableSource, document: RawDocument) -> str:
    """Paragraphs with a blank line between: each line is one, or with `hard_wrapped` the lines up to a blank one."""
    paragraphs: list[list[str]] = [[]]
    for line in document.text.splitlines():
        words = line.split()
        if not words or not source.hard_wrapped:
            paragraphs.append([])
        if words:
            paragraphs[-1].append(" ".join(words))
    return "\n\n".join(join_lines(lines) for lines in paragraphs if lines)


def _documents(
    part: FileRange, lines: Iterable[Line], max_document_bytes: int, *, named: bool = False
) -> Iterator[RawDocument | BadRow]:
    """A document for each line or block that says something; with `named` the file name is its key and title."""
    for line in lines:
        if line.size > max_document_bytes:
            yield BadRow(part.name, line.offset, "too_large", f"{line.size:,} bytes; raise max_document_mb")
            continue
        data = line.data.removeprefix(BOM_UTF8) if line.offset == 0 else line.data
        try:
            text = data.decode().strip()
        except UnicodeDecodeError as error:
            detail = f"byte {error.start:,} of the document is not UTF-8; convert the file to UTF-8"
            yield BadRow(part.name, line.offset, "not_utf8", detail)
            continue
        if text:
            key, title = (part.name, part.name) if named else (f"{part.name}:{line.offset}", "")
            size = len(text.encode())
            text, headings = _without_headings(text)
            dropped = None if text else HEADING
            yield RawDocument(key, title, text, size, dropped=dropped, headings=headings if text else 0)


def _without_headings(text: str) -> tuple[str, int]:
    """The text without its heading lines in wikitext, such as ` = = Early life = = ` of WikiText, and their number."""
    if "=" not in text:
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if not _HEADING.fullmatch(line.strip())]
    return "\n".join(kept).strip(), len(lines) - len(kept)


def _blocks(part: FileRange, max_bytes: int) -> Iterator[Line]:
    """The blocks between blank lines that begin in a range, each as one long line."""
    end = part.end if part.form == "lines" else sys.maxsize
    held: list[bytes] = []
    begin = size = 0
    for line in read_lines(part, max_bytes=max_bytes, start=_block_start(part)):
        is_blank = line.size <= max_bytes and not line.data.strip()
        if line.offset >= end and (begin < part.start or not size):
            return
        if not is_blank:
            begin = begin if size else line.offset
            size += line.size + 1
            held = [*held, line.data] if size <= max_bytes + 1 else []
        elif size:
            if begin >= part.start:
                yield Line(begin, b"\n".join(held), size - 1)
            held, size = [], 0
    if size and begin >= part.start:
        yield Line(begin, b"\n".join(held), size - 1)


def _block_start(part: FileRange) -> int:
    """A byte before the range from which its lines tell whether the range begins inside a block.

    Between the two stands a sign that is no white space, or a blank line.
    """
    first, window = part.start, _LOOK_BACK
    with storage.open_file(part.uri) as file:
        while first > 0:
            first = max(0, part.start - window)
            data = file.read_at(part.start - first, first)
            if data.strip() or data.count(b"\n") > 1:
                break
            window *= 2
    return first
