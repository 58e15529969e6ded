"""The pages of a MediaWiki dump, cut out of its text and parsed one by one.

Wikitext is escaped in a dump, so `<page>` is always a tag: a reader can begin anywhere, and one page that is not
well-formed spoils no other.
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
_MIN_EXPAT = (2, 4, 1)  # the first with a limit on how far entities may expand
_MAX_BUFFER = 1 << 20
_HEAD_BYTES = 64 << 10
_FIRST_EXTRA_NAMESPACE = 100
_TITLE = re.compile(rb"<title>([^<]{1,1024})")
_ID = re.compile(rb"<id>([0-9]{1,18})<")

# Where the fields of a page lie, by the path of their elements.
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
    """The XML of a page, or only its beginning when it is `oversized` or, with the file, `cut`.

    `offset` is that of its piece.
    """

    offset: int
    xml: bytes | bytearray
    oversized: bool = False
    cut: bool = False


def split_pages(pieces: Iterable[TextSpan | BadRow], *, end: int, max_bytes: int) -> Iterator[RawPage | BadRow]:
    """The pages that begin in the pieces before `end`; the last of them may go on behind it.

    A page ends at its end tag, at the next page, or at the end of the file. What could not be read stands between
    pieces: it is passed on when it is in the range, and the page that it breaks is dropped.

    Args:
        pieces: text in its order, from any place of a dump on.
        end: of the range, in bytes of the file as it is stored.
        max_bytes: a page with more XML is given up.
    """
    cutter = _Cutter(max_bytes)
    for piece in pieces:
        if piece.offset >= end and (isinstance(piece, BadRow) or not cutter.text):
            return
        if isinstance(piece, BadRow):
            cutter = _Cutter(max_bytes)
            yield piece
            continue
        for page in cutter.pages(piece):
            if page.offset >= end:
                return
            yield page
        if cutter.text and cutter.offset >= end:
            return
    if cutter.is_open:
        yield RawPage(cutter.offset, cutter.text, cut=not cutter.text.rstrip().endswith(ROOT_END))


class _Cutter:
    """Holds the page that is open, or the last bytes when they may begin the tag of one; they begin at `offset`."""

    def __init__(self, max_bytes: int) -> None:
        self.text = bytearray()
        self.offset = 0
        self.is_open = False
        self._searched = 0
        self._limit = max_bytes

    def pages(self, piece: TextSpan) -> Iterator[RawPage]:
        """The pages that end in the next piece."""
        carried, first = len(self.text), self.offset
        self.text += piece.data
        done = 0
        while self.is_open or (begin := self.text.find(PAGE_TAG, done)) >= 0:
            if not self.is_open:
                self.is_open, done = True, begin
                self._searched = begin + len(PAGE_TAG)
                self.offset = first if begin < carried else piece.offset + piece.exact * (begin - carried)
            behind = self._page_end()
            if behind - done > self._limit:
                yield RawPage(self.offset, self.text[done : done + _HEAD_BYTES], oversized=True)
            elif self.is_open:
                break
            else:
                yield RawPage(self.offset, self.text[done:behind])
            self.is_open, done = False, behind
        if not self.is_open:
            done = self._tag_begin(done)
            self.offset = first if done < carried else piece.offset + piece.exact * (done - carried)
        del self.text[:done]
        self._searched -= done

    def _page_end(self) -> int:
        """The place behind the open page, which is closed then; the end of the text when the page goes on."""
        close = self.text.find(PAGE_END, self._searched)
        following = self.text.find(PAGE_TAG, self._searched, close if close >= 0 else len(self.text))
        if close < 0 and following < 0:
            self._searched = max(self._searched, len(self.text) - len(PAGE_END) + 1)
            return len(self.text)
        self.is_open = False
        return following if following >= 0 else close + len(PAGE_END)

    def _tag_begin(self, done: int) -> int:
        """Where the tag of a page may begin at the end of the text; the end when none does."""
        begin = self.text.rfind(b"<", max(done, len(self.text) - len(PAGE_TAG) + 1))
        return begin if begin >= 0 and PAGE_TAG.startswith(self.text[begin:]) else len(self.text)


def parse_page(xml: bytes | bytearray, site: Site) -> Page:
    """Reads the XML of one page; a later revision replaces an earlier one.

    Dumps before version 0.6 of the export format have no `<ns>`: the namespace follows from the title.

    Raises:
        UnreadableError: `not_utf8`, or `xml_malformed`: not well-formed, or without id or title.
    """
    assert pyexpat.version_info >= _MIN_EXPAT, f"expat {pyexpat.version_info} does not stop entity bombs"
    fields = _Fields(len(xml))
    try:
        fields.parser.Parse(xml, True)
    except pyexpat.ExpatError as error:
        raise _refusal(xml, error) from None
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
    """The namespace that the prefix of a title names; 0 for any other prefix, as in `Town: The Sequel`."""
    prefix, colon, _ = title.partition(":")
    number = site.namespace_of(prefix) if colon else None
    # Namespaces from 100 on belong to some wikis only, which list them.
    exists = number in site.namespaces or (number is not None and number < _FIRST_EXTRA_NAMESPACE)
    return number if number is not None and exists else 0


def describe_page(xml: bytes | bytearray) -> str:
    """Title and id of a page for a message, as far as they stand at its beginning."""
    title, number = _TITLE.search(xml, 0, _HEAD_BYTES), _ID.search(xml, 0, _HEAD_BYTES)
    named = " ".join(title[1].decode(errors="replace").split())[:200] if title else "?"
    return f"page '{named}' (id {number[1].decode() if number else '?'})"


class _Fields:
    """The fields of a page from the events of a parser of its own."""

    def __init__(self, size: int) -> None:
        self.values: dict[str, list[str]] = {}
        self._path: tuple[str, ...] = ()
        self.parser = pyexpat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.buffer_size = min(max(size, 1 << 10), _MAX_BUFFER)
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def release(self) -> None:
        """Parts from the parser: the two hold each other, and with them the text of the page, until a collection."""
        self.parser.StartElementHandler = self.parser.EndElementHandler = self.parser.CharacterDataHandler = None
        del self.parser

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path = (*self._path, tag)
        if len(self._path) > _MAX_DEPTH:
            raise UnreadableError("xml_malformed", f"elements of a page nest deeper than {_MAX_DEPTH}")
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


def _refusal(xml: bytes | bytearray, error: pyexpat.ExpatError) -> UnreadableError:
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
