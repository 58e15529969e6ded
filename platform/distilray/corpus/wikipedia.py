"""Reading a MediaWiki dump as a stream of pages, in memory that does not grow with the dump.

The parser is expat, which `xml.etree` is built on: `iterparse` holds a page in full before one can refuse it, and a
page of a hostile file has no end.
"""

import bz2
import io
import pyexpat
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow import fs

from distilray.errors import InputError
from distilray.runtime import storage

_CHUNK = 256 << 10
_MAX_DEPTH = 64
_MIN_EXPAT = (2, 4, 1)  # the first with a limit on how far entities may expand

# Where the fields of a page lie below <page>.
_FIELDS = {
    ("title",): "title",
    ("ns",): "namespace",
    ("id",): "page_id",
    ("revision", "id"): "revision_id",
    ("revision", "text"): "text",
}


@dataclass(frozen=True)
class Page:
    """One page with its newest revision. `text` is wikitext, and empty when the page is `oversized`."""

    page_id: int
    revision_id: int | None
    namespace: int
    title: str
    redirect: bool
    text: str
    oversized: bool = False


class _CountingReader(io.RawIOBase):
    """A file that knows how many of its bytes have been read, for the progress of a compressed dump."""

    def __init__(self, file: object) -> None:
        self._file = file
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))  # type: ignore[attr-defined]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class DumpStream:
    """The XML bytes of a dump, decompressed. `position` is in bytes of the file as it is stored."""

    def __init__(self, uri: str, file: object) -> None:
        self.uri = uri
        self._raw = _CountingReader(file)
        buffered = io.BufferedReader(self._raw, 128 << 10)
        head = buffered.peek(4)[:4]
        if not head:
            raise InputError(f"{uri}: the file is empty; fetch the dump again")
        if head[:3] != b"BZh" and not head.lstrip(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
            raise InputError(f"{uri}: neither XML nor bz2; give a *-pages-articles*.xml or .xml.bz2 dump")
        self._xml = bz2.BZ2File(buffered) if head[:3] == b"BZh" else buffered

    @property
    def position(self) -> int:
        return self._raw.position

    def read(self, size: int) -> bytes:
        try:
            return self._xml.read(size)
        except EOFError:
            raise InputError(f"{self.uri}: the bz2 data is cut short; fetch the dump again") from None
        except OSError as error:
            raise InputError(f"{self.uri}: the bz2 data is damaged ({error}); fetch the dump again") from None


def open_dump(uri: str) -> DumpStream:
    """Opens a dump by path or URI: plain XML, or bz2 of one or many streams.

    Raises:
        InputError: missing, empty, or neither XML nor bz2.
    """
    found, path = storage.filesystem(uri)
    if found.get_file_info(path).type != fs.FileType.File:
        raise InputError(f"{uri}: no such file")
    return DumpStream(uri, found.open_input_stream(path, compression=None, buffer_size=0))


def read_pages(stream: DumpStream, *, max_page_bytes: int | None = None) -> Iterator[Page]:
    """The pages of a dump in its order.

    Args:
        stream: from `open_dump`.
        max_page_bytes: a page with more wikitext than this comes without its text, marked `oversized`.

    Raises:
        InputError: not a MediaWiki export, not well-formed, cut short, or damaged; names the file.
    """
    assert pyexpat.version_info >= _MIN_EXPAT, f"expat {pyexpat.version_info} does not stop entity bombs"
    handler = _PageHandler(stream.uri, max_page_bytes)
    parser = pyexpat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    parser.StartElementHandler = handler.start
    parser.EndElementHandler = handler.end
    parser.CharacterDataHandler = handler.data
    parser.StartDoctypeDeclHandler = handler.doctype
    while True:
        chunk = stream.read(_CHUNK)
        try:
            parser.Parse(chunk, not chunk)
        except pyexpat.ExpatError as error:
            raise InputError(f"{stream.uri}: {_explain(error, at_end=not chunk)}") from None
        yield from handler.take()
        if not chunk:
            return


def _explain(error: pyexpat.ExpatError, *, at_end: bool) -> str:
    if at_end:
        return "the XML is cut short; fetch the dump again"
    return f"not well-formed XML ({error}); give a *-pages-articles*.xml dump"


class _PageHandler:
    """Collects pages from the events of the parser. `path` holds the open elements without their namespace."""

    def __init__(self, uri: str, max_page_bytes: int | None) -> None:
        self._uri = uri
        self._limit = max_page_bytes
        self._path: list[str] = []
        self._pages: list[Page] = []
        self._field: str | None = None
        self._reset()

    def take(self) -> list[Page]:
        pages, self._pages = self._pages, []
        return pages

    def doctype(self, *declaration: object) -> None:
        raise InputError(f"{self._uri}: holds a DOCTYPE, which no dump does; give a *-pages-articles*.xml dump")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(" ")[2]
        if not self._path and tag != "mediawiki":
            raise InputError(f"{self._uri}: root element <{tag}>, not <mediawiki>; give a *-pages-articles*.xml dump")
        self._path.append(tag)
        if len(self._path) > _MAX_DEPTH:
            raise InputError(f"{self._uri}: elements nest deeper than {_MAX_DEPTH}, which no dump does")
        below = tuple(self._path[2:]) if self._path[1:2] == ["page"] else None
        if below == ():
            self._reset()
        elif below == ("redirect",):
            self._redirect = True
        self._field = _FIELDS.get(below) if below else None
        if self._field is not None:
            self._parts[self._field] = []  # a later revision replaces an earlier one
            self._size, self._oversized = 0, False

    def data(self, text: str) -> None:
        if self._field is None or self._oversized:
            return
        self._size += len(text) if text.isascii() else len(text.encode())
        if self._limit is not None and self._size > self._limit:
            self._oversized = True
            self._parts[self._field] = []
        else:
            self._parts[self._field].append(text)

    def end(self, name: str) -> None:
        self._path.pop()
        self._field = None
        if self._path == ["mediawiki"] and name.rpartition(" ")[2] == "page":
            self._pages.append(self._page())

    def _reset(self) -> None:
        self._parts: dict[str, list[str]] = {}
        self._redirect = self._oversized = False
        self._size = 0

    def _page(self) -> Page:
        values = {name: "".join(parts) for name, parts in self._parts.items()}
        title = values.get("title", "")
        return Page(
            page_id=self._integer(values, "page_id", title),
            revision_id=self._integer(values, "revision_id", title) if "revision_id" in values else None,
            namespace=self._integer(values, "namespace", title),
            title=title,
            redirect=self._redirect,
            text=values.get("text", ""),
            oversized=self._oversized,
        )

    def _integer(self, values: dict[str, str], name: str, title: str) -> int:
        text = values.get(name, "").strip()
        if not text.removeprefix("-").isdecimal() or len(text) > 18:
            raise InputError(
                f"{self._uri}: page '{title}' has no valid {name}; give a dump of export version 0.6 or newer"
            )
        return int(text)
