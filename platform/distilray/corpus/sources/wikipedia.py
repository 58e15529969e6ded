"""Dumps of a wiki in ranges: plain XML, bz2 of many streams with or without their index, or bz2 of one huge stream.

A range owns each page that begins in it, so no page is lost or read twice however a dump is split.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from distilray.config.corpus import WikipediaSource
from distilray.corpus.sources.bz2_ranges import (
    StoredFile,
    TextSpan,
    find_stream,
    last_text,
    read_blocks,
    read_streams,
)
from distilray.corpus.sources.dump_head import MAX_HEADER_BYTES, read_dump_header
from distilray.corpus.sources.dump_index import find_index, stream_boundaries
from distilray.corpus.sources.dump_pages import (
    PAGE_END,
    ROOT_END,
    Page,
    RawPage,
    describe_page,
    parse_page,
    split_pages,
)
from distilray.corpus.sources.ranges import RawDocument, TruncatedFileError
from distilray.corpus.wikitext.sites import SITES, Site
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from distilray.formats.streams import CUT_SHORT, UnreadableError, stored_size

# Numbered parts name the first and the last id of their pages: `*-pages-articles1.xml-p1p41242`.
_NUMBERED = re.compile(r"\.xml-p([0-9]+)p([0-9]+)(?:\.bz2)?$", re.IGNORECASE)
_CHUNK = 1 << 20
_LOOK_FOR_STREAMS = 32 << 20  # a multistream dump begins its second stream in the first kilobytes
_TAIL_BYTES = 4 << 10
_TAIL_TEXT = 64
_METADATA_BYTES = 1 << 20  # of a page beside its wikitext

_REDIRECT = re.compile(r"\s*#(?:redirect\b|[^\s\[:#|]{2,40}\s{0,9}:?\s{0,9}\[\[)", re.IGNORECASE)  # in any language
# Repeats are bounded, so that no page makes the search slow; a template's name has at most 255 bytes.
_DISAMBIGUATION = re.compile(
    r"\{\{\s{0,9}(?:disambig\w{0,99}|[\w ]{1,99} disambiguation|disambiguation[\w ]{0,99}|"
    + "|".join(map(re.escape, SITES["disambiguation"]))
    + r")\s{0,9}[|}]",
    re.IGNORECASE,
)
# Why a page is not worth cleaning; the first reason that holds is counted.
_DROP_REASONS: tuple[tuple[str, Callable[[Page], bool]], ...] = (
    ("not_an_article", lambda page: page.namespace != 0),
    ("redirect", lambda page: page.redirect or _REDIRECT.match(page.text) is not None),
    (
        "disambiguation",
        lambda page: page.title.endswith("(disambiguation)") or _DISAMBIGUATION.search(page.text) is not None,
    ),
)


def is_input(name: str) -> bool:
    """Whether a file of a folder is a dump, by its name."""
    file = name.rpartition("/")[2].lower()
    return (file.endswith((".xml", ".bz2")) or _NUMBERED.search(file) is not None) and "index" not in file


def check_file(source: WikipediaSource, uri: str) -> None:
    """Looks at the beginning and the end of a dump.

    Raises:
        CutShortError: it begins as it should, and its end is missing or damaged.
        InputError: missing, empty, no dump, or without pages.
    """
    with _open(uri) as stored:
        if not stored.size:
            raise InputError(f"{uri}: the file is empty; fetch the dump again")
        is_bz2 = _is_bz2(stored)
        head = read_dump_header(uri, _whole(stored, uri, is_bz2))
        fault = _fault_of_end(stored, is_bz2)
    if not head.has_page and head.is_whole:
        raise InputError(f"{uri}: {fault or 'a dump without pages'}; fetch it again")
    if not head.has_page:
        raise InputError(f"{uri}: no page in its first {MAX_HEADER_BYTES >> 20} MiB; give a *-pages-articles*.xml dump")
    if fault:
        raise TruncatedFileError(uri, fault)


def file_ranges(source: WikipediaSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """The ranges of a dump: of about `chunk_bytes` as stored, or one when its only stream is small.

    Raises:
        InputError: the dump is missing, or its index belongs to another dump.
    """
    with _open(uri) as stored:
        size, is_bz2 = stored.size, _is_bz2(stored)
        index = (source.index_path or find_index(uri)) if is_bz2 else None
        if index and _fault_of_end(stored, is_bz2):
            index = None  # of a whole dump: it names streams that are not here
        is_multistream = is_bz2 and find_stream(stored, 1, min(size, _LOOK_FOR_STREAMS)) is not None
    borders = list(range(chunk_bytes, size, chunk_bytes))
    form = "streams" if is_multistream else "blocks" if is_bz2 else "plain"
    if index:
        borders, form = stream_boundaries(index, uri, size=size, chunk_bytes=chunk_bytes), "streams"
    elif form == "blocks" and size < 2 * chunk_bytes:
        borders, form = [], "streams"
    bounds = zip([0, *borders], [*borders, size], strict=True)
    return [FileRange(uri, name, start, end, form, end - start) for start, end in bounds]


def read_documents(
    source: WikipediaSource, part: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """The pages of a range in their order, and what could not be read."""
    with _open(part.uri) as stored:
        site = _site(part.uri, stored.size)
        pieces = _report_missing_end(_PIECES[part.form](stored, part.name, part.start, part.end), part.name)
        # The escapes of XML make a page longer than its wikitext.
        raw_bytes = 2 * max_document_bytes + _METADATA_BYTES
        for found in split_pages(pieces, end=part.end, max_bytes=raw_bytes):
            yield found if isinstance(found, BadRow) else _document(part, found, site, max_document_bytes)


@lru_cache(maxsize=64)
def _site(uri: str, size: int) -> Site:
    """The wiki of a dump, read once in each process. `size` of the file tells it from an earlier one."""
    with _open(uri) as stored:
        return read_dump_header(uri, _whole(stored, uri, _is_bz2(stored)), only_site=True).site


def _document(part: FileRange, raw: RawPage, site: Site, max_bytes: int) -> RawDocument | BadRow:
    try:
        if raw.oversized:
            raise _too_large(raw, max_bytes)
        if raw.cut:
            lost = len(raw.xml) if part.form == "plain" else 0
            raise UnreadableError(CUT_SHORT, f"{describe_page(raw.xml)} ends with the file", lost_bytes=lost)
        page = parse_page(raw.xml, site)
        size = len(page.text) if page.text.isascii() else len(page.text.encode())
        dropped = next((reason for reason, holds in _DROP_REASONS if holds(page)), None)
        if size > max_bytes and not dropped:
            raise _too_large(raw, max_bytes)
    except UnreadableError as error:
        return BadRow(part.name, raw.offset, error.reason, str(error), error.lost_bytes)
    text = "" if dropped else page.text
    key = _key(part.name, page.page_id)
    return RawDocument(key, page.title, text, size, page.page_id, page.revision_id, dropped, site)


def _key(file: str, page_id: int) -> str:
    """The id of a page; with the name of the file if it is a numbered part of other ids, so numbered by itself."""
    numbered = _NUMBERED.search(file)
    if numbered and not int(numbered[1]) <= page_id <= int(numbered[2]):
        return f"{file}:{page_id}"
    return str(page_id)


def _too_large(raw: RawPage, max_bytes: int) -> UnreadableError:
    detail = f"{describe_page(raw.xml)} has more than {max_bytes:,} bytes; raise max_document_mb"
    return UnreadableError("too_large", detail)


def _open(uri: str) -> StoredFile:
    stored_size(uri)
    return StoredFile(uri)


def _is_bz2(stored: StoredFile) -> bool:
    return stored.read(0, 3) == b"BZh"


def _read_plain(stored: StoredFile, name: str, start: int, end: int) -> Iterator[TextSpan]:
    """The bytes of a file from `start` on, with a border at `end` unless the file ends there."""
    for begin, behind in ((start, end), (end, stored.size)):
        if begin < behind:
            yield TextSpan(begin, b"", exact=True)
        for offset in range(begin, behind, _CHUNK):
            yield TextSpan(offset, stored.read(offset, min(_CHUNK, behind - offset)), exact=True)


_PIECES: Mapping[str, Callable[[StoredFile, str, int, int], Iterator[TextSpan | BadRow]]] = {
    "streams": read_streams,
    "blocks": read_blocks,
    "plain": _read_plain,
}


def _whole(stored: StoredFile, name: str, is_bz2: bool) -> Iterator[TextSpan | BadRow]:
    return _PIECES["streams" if is_bz2 else "plain"](stored, name, 0, stored.size)


def _report_missing_end(pieces: Iterable[TextSpan | BadRow], name: str) -> Iterator[TextSpan | BadRow]:
    """The pieces, and a fault behind the last one if the dump ends between two pages without its end tag."""
    tail, offset = b"", 0
    for piece in pieces:
        yield piece
        if isinstance(piece, BadRow):
            tail = b""
        elif piece.data:
            tail, offset = (tail + piece.data[-_TAIL_TEXT:])[-_TAIL_TEXT:], piece.offset
    if PAGE_END in tail and not tail.rstrip().endswith(ROOT_END):
        yield BadRow(name, offset, CUT_SHORT, f"the dump ends without {ROOT_END.decode()}")


def _fault_of_end(stored: StoredFile, is_bz2: bool) -> str:
    """Return the fault at the end of a dump; empty when it is whole."""
    try:
        end = last_text(stored) if is_bz2 else stored.read(max(stored.size - _TAIL_BYTES, 0), _TAIL_BYTES)
    except UnreadableError as error:
        return str(error)
    if end is None or not end.rstrip().endswith(ROOT_END):
        return f"the {'bz2 data' if is_bz2 else 'XML'} is cut short"
    return ""
