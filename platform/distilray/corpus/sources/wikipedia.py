"""Wikipedia dumps, read in ranges: plain XML, multistream bz2 with or without an index, or single-stream bz2.

A range contains every page that starts in it, so that no page is lost or read twice, however a dump is split.
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
from distilray.corpus.sources.dump_header import MAX_HEADER_BYTES, read_dump_header
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
from distilray.corpus.sources.raw_documents import RawDocument, TruncatedFileError
from distilray.corpus.wikitext.sites import SITES, Site
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from distilray.formats.streams import CUT_SHORT, UnreadableError, stored_size

# The names of numbered dump files contain their first and last page id: `*-pages-articles1.xml-p1p41242`.
_NUMBERED = re.compile(r"\.xml-p([0-9]+)p([0-9]+)(?:\.bz2)?$", re.IGNORECASE)
_BUFFER_BYTES = 1 << 20
_STREAM_SEARCH_BYTES = 32 << 20  # generous: in a multistream dump, the second stream starts within some kilobytes
_TAIL_BYTES = 4 << 10
_TAIL_TEXT = 64
_METADATA_BYTES = 1 << 20  # limit for the XML of a page other than its wikitext

_REDIRECT = re.compile(r"\s*#(?:redirect\b|[^\s\[:#|]{2,40}\s{0,9}:?\s{0,9}\[\[)", re.IGNORECASE)  # in any language
# Repetitions are bounded to keep the search linear. Template names have at most 255 bytes.
_DISAMBIGUATION = re.compile(
    r"\{\{\s{0,9}(?:disambig\w{0,99}|[\w ]{1,99} disambiguation|disambiguation[\w ]{0,99}|"
    + "|".join(map(re.escape, SITES["disambiguation"]))
    + r")\s{0,9}[|}]",
    re.IGNORECASE,
)
# Reasons to drop a page without cleaning it. Only the first one that applies is counted.
_DROP_REASONS: tuple[tuple[str, Callable[[Page], bool]], ...] = (
    ("not_an_article", lambda page: page.namespace != 0),
    ("redirect", lambda page: page.redirect or _REDIRECT.match(page.text) is not None),
    (
        "disambiguation",
        lambda page: page.title.endswith("(disambiguation)") or _DISAMBIGUATION.search(page.text) is not None,
    ),
)


def is_input(name: str) -> bool:
    file = name.rpartition("/")[2].lower()
    return (file.endswith((".xml", ".bz2")) or _NUMBERED.search(file) is not None) and "index" not in file


def check_file(source: WikipediaSource, uri: str) -> None:
    """Check the start and the end of a dump.

    Raises:
        TruncatedFileError: if the start is valid, but the end is missing or damaged.
        InputError: if the file is missing, empty, not a dump, or without pages.
    """
    with _open(uri) as stored:
        if not stored.size:
            raise InputError(f"{uri}: the file is empty; download the dump again")
        is_bz2 = _is_bz2(stored)
        header = read_dump_header(uri, _whole_text(stored, uri, is_bz2))
        fault = _end_fault(stored, is_bz2)
    if not header.has_page and header.is_complete:
        raise InputError(f"{uri}: {fault or 'a dump without pages'}; download it again")
    if not header.has_page:
        raise InputError(f"{uri}: no page in its first {MAX_HEADER_BYTES >> 20} MiB; use a *-pages-articles*.xml dump")
    if fault:
        raise TruncatedFileError(uri, fault)


def file_ranges(source: WikipediaSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """Return ranges of about `chunk_bytes` as stored; a single range for a small dump with one stream.

    Raises:
        InputError: if the dump is missing, or its index belongs to another dump.
    """
    with _open(uri) as stored:
        size, is_bz2 = stored.size, _is_bz2(stored)
        index = (source.index_path or find_index(uri)) if is_bz2 else None
        if index and _end_fault(stored, is_bz2):
            index = None  # it lists streams that this truncated dump lacks
        is_multistream = is_bz2 and find_stream(stored, 1, min(size, _STREAM_SEARCH_BYTES)) is not None
    boundaries = list(range(chunk_bytes, size, chunk_bytes))
    form = "streams" if is_multistream else "blocks" if is_bz2 else "plain"
    if index:
        boundaries, form = stream_boundaries(index, uri, size=size, chunk_bytes=chunk_bytes), "streams"
    elif form == "blocks" and size < 2 * chunk_bytes:
        boundaries, form = [], "streams"
    bounds = zip([0, *boundaries], [*boundaries, size], strict=True)
    return [FileRange(uri, name, start, end, form, end - start) for start, end in bounds]


def read_documents(
    source: WikipediaSource, file_range: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | BadRow]:
    """Yield the pages of a range in order, and a `BadRow` for each unreadable page or section."""
    with _open(file_range.uri) as stored:
        site = _site(file_range.uri, stored.size)
        read_spans = _SPAN_READERS[file_range.form]
        spans = read_spans(stored, file_range.name, file_range.start, file_range.end)
        spans = _report_missing_end(spans, file_range.name)
        # XML escapes make a page longer than its wikitext.
        raw_bytes = 2 * max_document_bytes + _METADATA_BYTES
        for page in split_pages(spans, end=file_range.end, max_bytes=raw_bytes):
            yield page if isinstance(page, BadRow) else _document(file_range, page, site, max_document_bytes)


@lru_cache(maxsize=64)
def _site(uri: str, size: int) -> Site:
    """Return the wiki of a dump, cached per process. `size` invalidates the cache if the file was replaced."""
    with _open(uri) as stored:
        return read_dump_header(uri, _whole_text(stored, uri, _is_bz2(stored)), only_site=True).site


def _document(file_range: FileRange, raw: RawPage, site: Site, max_bytes: int) -> RawDocument | BadRow:
    try:
        if raw.oversized:
            raise _too_large(raw, max_bytes)
        if raw.truncated:
            lost = len(raw.xml) if file_range.form == "plain" else 0
            raise UnreadableError(CUT_SHORT, f"{describe_page(raw.xml)} ends with the file", lost_bytes=lost)
        page = parse_page(raw.xml, site)
        size = len(page.text) if page.text.isascii() else len(page.text.encode())
        dropped = next((reason for reason, applies in _DROP_REASONS if applies(page)), None)
        if size > max_bytes and not dropped:
            raise _too_large(raw, max_bytes)
    except UnreadableError as error:
        return BadRow(file_range.name, raw.offset, error.reason, str(error), error.lost_bytes)
    text = "" if dropped else page.text
    key = _key(file_range.name, page.page_id)
    return RawDocument(key, page.title, text, size, page.page_id, page.revision_id, dropped, site)


def _key(file: str, page_id: int) -> str:
    """Return the page id, with the file name if the id is outside the range that the name states."""
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
    """Yield the text from `start` to the end of the file, with a span boundary at `end`."""
    for first, last in ((start, end), (end, stored.size)):
        if first < last:
            yield TextSpan(first, b"", exact=True)
        for offset in range(first, last, _BUFFER_BYTES):
            yield TextSpan(offset, stored.read(offset, min(_BUFFER_BYTES, last - offset)), exact=True)


_SPAN_READERS: Mapping[str, Callable[[StoredFile, str, int, int], Iterator[TextSpan | BadRow]]] = {
    "streams": read_streams,
    "blocks": read_blocks,
    "plain": _read_plain,
}


def _whole_text(stored: StoredFile, name: str, is_bz2: bool) -> Iterator[TextSpan | BadRow]:
    return _SPAN_READERS["streams" if is_bz2 else "plain"](stored, name, 0, stored.size)


def _report_missing_end(spans: Iterable[TextSpan | BadRow], name: str) -> Iterator[TextSpan | BadRow]:
    """Pass on spans, and add a `BadRow` if the dump ends after a page but without its end tag."""
    tail, offset = b"", 0
    for span in spans:
        yield span
        if isinstance(span, BadRow):
            tail = b""
        elif span.data:
            tail, offset = (tail + span.data[-_TAIL_TEXT:])[-_TAIL_TEXT:], span.offset
    if PAGE_END in tail and not tail.rstrip().endswith(ROOT_END):
        yield BadRow(name, offset, CUT_SHORT, f"the dump ends without {ROOT_END.decode()}")


def _end_fault(stored: StoredFile, is_bz2: bool) -> str:
    """Return what is wrong with the end of a dump; empty if nothing is."""
    try:
        end = last_text(stored) if is_bz2 else stored.read(max(stored.size - _TAIL_BYTES, 0), _TAIL_BYTES)
    except UnreadableError as error:
        return str(error)
    if end is None or not end.rstrip().endswith(ROOT_END):
        return f"the {'bz2 data' if is_bz2 else 'XML'} is cut short"
    return ""
