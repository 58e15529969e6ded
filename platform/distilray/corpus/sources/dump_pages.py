"""Pages of a MediaWiki dump, located in its text and parsed one by one.

Wikitext is escaped in a dump, so `<page>` is always a tag. Reading can therefore start anywhere, and a malformed page
does not affect the others.
"""

import pyexpat
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from distilray.corpus.sources.bz2_ranges import TextSpan
from distilray.corpus.wikitext.sites import Site
from distilray.formats.bad_rows import BadRow
from distilray.formats.streams import UnreadableError

PAGE_TAG = b"<page>"
PAGE_END = b"</page>"
ROOT_END = b"</mediawiki>"
_MAX_DEPTH = 64
_MIN_EXPAT = (2, 4, 1)  # first version that limits entity expansion
_MAX_BUFFER = 1 << 20
_HEAD_BYTES = 64 << 10
_FIRST_EXTRA_NAMESPACE = 100
_TITLE = re.compile(rb"<title>([^<]{1,1024})")
_ID = re.compile(rb"<id>([0-9]{1,18})<")

# Fields of a page by element path.
_FIELDS = {
    ("page", "title"): "title",
    ("page", "ns"): "ns",
    ("page", "id"): "id",
    ("page", "redirect"): "redirect",
    ("page", "revision", "id"): "revision id",
    ("page", "revision", "text"): "text",
}


@dataclass(frozen=True)
class Page:
    """One page with its newest revision; `text` is wikitext."""

    page_id: int
    revision_id: int | None
    namespace: int
    title: str
    redirect: bool
    text: str


@dataclass(frozen=True)
class RawPage:
    """XML of a page. Incomplete if the page is `oversized`, or `truncated` by the end of the file.

    `offset` is the offset of the text span in which the page starts.
    """

    offset: int
    xml: bytes | bytearray
    oversized: bool = False
    truncated: bool = False


def split_pages(spans: Iterable[TextSpan | BadRow], *, end: int, max_bytes: int) -> Iterator[RawPage | BadRow]:
    """Yield the pages that start before `end`, including a last one that extends beyond it.

    A page ends at its end tag, at the next page, or at the end of the file. A `BadRow` in the range is passed on, and
    the page that it interrupts is dropped.

    Args:
        spans: consecutive text, starting anywhere in a dump.
        end: end of the range, in bytes of the stored file.
        max_bytes: pages with more XML are returned as `oversized`.
    """
    splitter = _PageSplitter(max_bytes)
    for span in spans:
        if span.offset >= end and (isinstance(span, BadRow) or not splitter.text):
            return
        if isinstance(span, BadRow):
            splitter = _PageSplitter(max_bytes)
            yield span
            continue
        for page in splitter.pages(span):
            if page.offset >= end:
                return
            yield page
        if splitter.text and splitter.offset >= end:
            return
    if splitter.is_open:
        yield RawPage(splitter.offset, splitter.text, truncated=not splitter.text.rstrip().endswith(ROOT_END))


class _PageSplitter:
    """Buffer for the unfinished page, or for trailing bytes that may start a page tag. `offset` is its start."""

    def __init__(self, max_bytes: int) -> None:
        self.text = bytearray()
        self.offset = 0
        self.is_open = False
        self._searched = 0
        self._limit = max_bytes

    def pages(self, span: TextSpan) -> Iterator[RawPage]:
        """Yield the pages that end in the next span."""
        carried, first = len(self.text), self.offset
        self.text += span.data
        done = 0
        while self.is_open or (start := self.text.find(PAGE_TAG, done)) >= 0:
            if not self.is_open:
                self.is_open, done = True, start
                self._searched = start + len(PAGE_TAG)
                self.offset = first if start < carried else span.offset + span.exact * (start - carried)
            end = self._page_end()
            if end - done > self._limit:
                yield RawPage(self.offset, self.text[done : done + _HEAD_BYTES], oversized=True)
            elif self.is_open:
                break
            else:
                yield RawPage(self.offset, self.text[done:end])
            self.is_open, done = False, end
        if not self.is_open:
            done = self._partial_tag(done)
            self.offset = first if done < carried else span.offset + span.exact * (done - carried)
        del self.text[:done]
        self._searched -= done

    def _page_end(self) -> int:
        """Close the open page and return its end, or return the end of the text if the page is unfinished."""
        close = self.text.find(PAGE_END, self._searched)
        following = self.text.find(PAGE_TAG, self._searched, close if close >= 0 else len(self.text))
        if close < 0 and following < 0:
            self._searched = max(self._searched, len(self.text) - len(PAGE_END) + 1)
            return len(self.text)
        self.is_open = False
        return following if following >= 0 else close + len(PAGE_END)

    def _partial_tag(self, done: int) -> int:
        """Return the position of a partial page tag at the end of the text, or the end of the text."""
        start = self.text.rfind(b"<", max(done, len(self.text) - len(PAGE_TAG) + 1))
        return start if start >= 0 and PAGE_TAG.startswith(self.text[start:]) else len(self.text)


def parse_page(xml: bytes | bytearray, site: Site) -> Page:
    """Parse the XML of one page. If it has several revisions, the last one is used.

    Dumps in export format before 0.6 have no `<ns>`; their namespace is derived from the title.

    Raises:
        UnreadableError: with reason `not_utf8`, or `xml_malformed` (not well-formed, or without id or title).
    """
    assert pyexpat.version_info >= _MIN_EXPAT, f"expat {pyexpat.version_info} does not stop entity bombs"
    fields = _Fields(len(xml))
    try:
        fields.parser.Parse(xml, True)
    except pyexpat.ExpatError as error:
        raise _parse_error(xml, error) from None
    finally:
        fields.release()
    values = {name: "".join(parts) for name, parts in fields.values.items()}
    title = values.get("title", "")
    if not title:
        raise UnreadableError("xml_malformed", f"{describe_page(xml)} has no title")
    return Page(
        page_id=_integer(xml, values, "id"),
        revision_id=_integer(xml, values, "revision id") if "revision id" in values else None,
        namespace=_integer(xml, values, "ns") if "ns" in values else _namespace_of_title(title, site),
        title=title,
        redirect="redirect" in values,
        text=values.get("text", ""),
    )


def _namespace_of_title(title: str, site: Site) -> int:
    """Return the namespace of the prefix of a title; 0 for other prefixes, as in `Town: The Sequel`."""
    prefix, colon, _ = title.partition(":")
    number = site.namespace_of(prefix) if colon else None
    # Namespaces from 100 on exist only on wikis that list them.
    exists = number in site.namespaces or (number is not None and number < _FIRST_EXTRA_NAMESPACE)
    return number if number is not None and exists else 0


def describe_page(xml: bytes | bytearray) -> str:
    """Return the title and id of a page, if they are near its start, for messages."""
    title, number = _TITLE.search(xml, 0, _HEAD_BYTES), _ID.search(xml, 0, _HEAD_BYTES)
    name = " ".join(title[1].decode(errors="replace").split())[:200] if title else "?"
    return f"page '{name}' (id {number[1].decode() if number else '?'})"


class _Fields:
    """Collects the fields of a page from the events of an XML parser."""

    def __init__(self, size: int) -> None:
        self.values: dict[str, list[str]] = {}
        self._path: tuple[str, ...] = ()
        self.parser = pyexpat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.buffer_size = min(max(size, 1 << 10), _MAX_BUFFER)
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def release(self) -> None:
        """Break the reference cycle with the parser, which would keep the text of the page until garbage collection."""
        self.parser.StartElementHandler = self.parser.EndElementHandler = self.parser.CharacterDataHandler = None
        del self.parser

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path = (*self._path, tag)
        if len(self._path) > _MAX_DEPTH:
            raise UnreadableError("xml_malformed", f"elements of a page are nested deeper than {_MAX_DEPTH}")
        if self._path == ("page", "revision"):
            self.values.pop("revision id", None)
            self.values.pop("text", None)
        name = _FIELDS.get(self._path)
        if name:
            self.values[name] = []
        self.parser.CharacterDataHandler = self.values[name].append if name else None

    def _end(self, tag: str) -> None:
        self._path = self._path[:-1]
        self.parser.CharacterDataHandler = None


def _parse_error(xml: bytes | bytearray, error: pyexpat.ExpatError) -> UnreadableError:
    try:
        xml.decode()
    except UnicodeDecodeError:
        return UnreadableError("not_utf8", f"{describe_page(xml)} is not UTF-8")
    return UnreadableError("xml_malformed", f"{describe_page(xml)} is not well-formed XML ({error})")


def _integer(xml: bytes | bytearray, values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "").strip()
    if not text.removeprefix("-").isdecimal() or len(text) > 18:
        raise UnreadableError("xml_malformed", f"{describe_page(xml)} has no valid {name}")
    return int(text)
