"""Dumps of a wiki in ranges: plain XML, bz2 of many streams with or without their index, or bz2 of one huge stream.

A range owns each page that begins in it, so no page is lost or read twice however a dump is split.
"""

import pyexpat
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping

from distilray.config.corpus import WikipediaSource
from distilray.corpus.sources.dumps.bz2_ranges import (
    Piece,
    StoredFile,
    find_stream,
    last_text,
    read_blocks,
    read_streams,
)
from distilray.corpus.sources.dumps.index import find_index, stream_borders
from distilray.corpus.sources.dumps.pages import PAGE_TAG, Page, RawPage, cut_pages, page_name, parse_page
from distilray.corpus.sources.ranges import FileRange, Quarantined, RawDocument
from distilray.corpus.sources.streams import UnreadableError, stored_size
from distilray.errors import InputError

SUFFIXES = (".xml", ".bz2")
_CHUNK = 1 << 20
_LOOK_FOR_STREAMS = 32 << 20  # a multistream dump begins its second stream in the first kilobytes
_LOOK_FOR_PAGES = 16 << 20
_ROOT_END = b"</mediawiki>"
_TAIL_BYTES = 4 << 10
_METADATA_BYTES = 1 << 20  # of a page beside its wikitext

_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
# Repeats are bounded, so that no page makes the search slow; a template's name has at most 255 bytes.
_DISAMBIGUATION = re.compile(
    r"\{\{\s{0,9}(?:disambig\w{0,99}|disamb|dab|hndis|geodis|surname|given name|set index article|sia|shipindex|"
    r"[\w ]{1,99} disambiguation|disambiguation[\w ]{0,99})\s{0,9}[|}]",
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
    return file.endswith(SUFFIXES) and "index" not in file


def check_file(source: WikipediaSource, uri: str) -> None:
    """Looks at the beginning and the end of a dump.

    Raises:
        InputError: missing, empty, no dump, without pages, or cut short.
    """
    with _open(uri) as stored:
        if not stored.size:
            raise InputError(f"{uri}: the file is empty; fetch the dump again")
        is_bz2 = _is_bz2(stored)
        head = _head(uri, stored, is_bz2)
        _check_end(uri, stored, is_bz2)
    if PAGE_TAG not in head and len(head) < _LOOK_FOR_PAGES:
        raise InputError(f"{uri}: a dump without pages; fetch it again")
    if PAGE_TAG not in head:
        raise InputError(f"{uri}: no page in its first {_LOOK_FOR_PAGES >> 20} MiB; give a *-pages-articles*.xml dump")


def file_ranges(source: WikipediaSource, uri: str, name: str, *, part_bytes: int) -> list[FileRange]:
    """The ranges of a dump: of about `part_bytes` as stored, or one when its only stream is small.

    Raises:
        InputError: the dump is missing, or its index belongs to another dump.
    """
    with _open(uri) as stored:
        size, is_bz2 = stored.size, _is_bz2(stored)
        index = (source.index_path or find_index(uri)) if is_bz2 else None
        is_multistream = is_bz2 and find_stream(stored, 1, min(size, _LOOK_FOR_STREAMS)) is not None
    borders = list(range(part_bytes, size, part_bytes))
    form = "streams" if is_multistream else "blocks" if is_bz2 else "plain"
    if index:
        borders, form = stream_borders(index, uri, size=size, part_bytes=part_bytes), "streams"
    elif form == "blocks" and size < 2 * part_bytes:
        borders, form = [], "streams"
    bounds = zip([0, *borders], [*borders, size], strict=True)
    return [FileRange(uri, name, start, end, form, end - start) for start, end in bounds]


def read_documents(
    source: WikipediaSource, part: FileRange, *, max_document_bytes: int
) -> Iterator[RawDocument | Quarantined]:
    """The pages of a range in their order, and what could not be read."""
    with _open(part.uri) as stored:
        pieces = _PIECES[part.form](stored, part.name, part.start, part.end)
        # The escapes of XML make a page longer than its wikitext.
        raw_bytes = 2 * max_document_bytes + _METADATA_BYTES
        for found in cut_pages(pieces, end=part.end, max_bytes=raw_bytes):
            yield found if isinstance(found, Quarantined) else _document(part.name, found, max_document_bytes)


def _document(file: str, raw: RawPage, max_bytes: int) -> RawDocument | Quarantined:
    try:
        if raw.oversized:
            raise _too_large(raw, max_bytes)
        page = parse_page(raw.xml)
        size = len(page.text) if page.text.isascii() else len(page.text.encode())
        dropped = next((reason for reason, holds in _DROP_REASONS if holds(page)), None)
        if size > max_bytes and not dropped:
            raise _too_large(raw, max_bytes)
    except UnreadableError as error:
        return Quarantined(file, raw.offset, error.reason, str(error))
    text = "" if dropped else page.text
    return RawDocument(str(page.page_id), page.title, text, size, page.page_id, page.revision_id, dropped)


def _too_large(raw: RawPage, max_bytes: int) -> UnreadableError:
    detail = f"{page_name(raw.xml)} has more than {max_bytes:,} bytes; raise max_document_mb"
    return UnreadableError("too_large", detail)


def _open(uri: str) -> StoredFile:
    stored_size(uri)
    return StoredFile(uri)


def _is_bz2(stored: StoredFile) -> bool:
    return stored.read(0, 3) == b"BZh"


def _read_plain(stored: StoredFile, name: str, start: int, end: int) -> Iterator[Piece]:
    """The bytes of a file from `start` on, with a border at `end`."""
    for begin, behind in ((start, end), (end, stored.size)):
        yield Piece(begin, b"", exact=True)
        for offset in range(begin, behind, _CHUNK):
            yield Piece(offset, stored.read(offset, min(_CHUNK, behind - offset)), exact=True)


_PIECES: Mapping[str, Callable[[StoredFile, str, int, int], Iterator[Piece | Quarantined]]] = {
    "streams": read_streams,
    "blocks": read_blocks,
    "plain": _read_plain,
}


def _head(uri: str, stored: StoredFile, is_bz2: bool) -> bytes:
    """The text of a dump up to the piece with its first page, or some MiB without one."""
    head = bytearray()
    unreadable = "the bz2 data is damaged"
    for piece in (read_streams if is_bz2 else _read_plain)(stored, uri, 0, stored.size):
        if isinstance(piece, Quarantined):
            unreadable = piece.detail
            break
        head += piece.data
        if PAGE_TAG in head or len(head) >= _LOOK_FOR_PAGES:
            break
        unreadable = ""
    before = bytes(head).partition(PAGE_TAG)[0]
    if not before and unreadable:
        raise InputError(f"{uri}: {unreadable}; fetch the dump again")
    _check_root(uri, before)
    if len(before) == len(head) and unreadable:
        raise InputError(f"{uri}: {unreadable}; fetch the dump again")
    return bytes(head)


def _check_root(uri: str, head: bytes) -> None:
    """Refuses what begins otherwise than a dump."""
    if head and not head.removeprefix(BOM_UTF8).lstrip().startswith(b"<"):
        raise InputError(f"{uri}: neither XML nor bz2; give a *-pages-articles*.xml or .xml.bz2 dump")
    roots: list[str] = []

    def refuse_doctype(*declaration: object) -> None:
        raise InputError(f"{uri}: holds a DOCTYPE, which no dump does; give a *-pages-articles*.xml dump")

    def check_encoding(version: str, encoding: str | None, standalone: int) -> None:
        if encoding and encoding.lower() != "utf-8":
            raise InputError(f"{uri}: its encoding is {encoding}, not UTF-8; give a *-pages-articles*.xml dump")

    parser = pyexpat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = lambda name, attributes: roots.append(name) if not roots else None
    parser.StartDoctypeDeclHandler = refuse_doctype
    parser.XmlDeclHandler = check_encoding
    try:
        parser.Parse(head, False)
    except pyexpat.ExpatError as error:
        raise InputError(f"{uri}: not well-formed XML ({error}); give a *-pages-articles*.xml dump") from None
    root = roots[0].rpartition(" ")[2] if roots else None
    if root and root != "mediawiki":
        raise InputError(f"{uri}: root element <{root}>, not <mediawiki>; give a *-pages-articles*.xml dump")


def _check_end(uri: str, stored: StoredFile, is_bz2: bool) -> None:
    try:
        end = last_text(stored) if is_bz2 else stored.read(max(stored.size - _TAIL_BYTES, 0), _TAIL_BYTES)
    except UnreadableError as error:
        raise InputError(f"{uri}: {error}; fetch the dump again") from None
    if end is None or not end.rstrip().endswith(_ROOT_END):
        raise InputError(f"{uri}: the {'bz2 data' if is_bz2 else 'XML'} is cut short; fetch the dump again")
