"""The head of a dump: its encoding, its root element and its siteinfo."""

import codecs
import pyexpat
from collections.abc import Iterable
from dataclasses import dataclass

from distilray.corpus.sources.bz2_ranges import TextSpan
from distilray.corpus.sources.dump_pages import PAGE_TAG
from distilray.corpus.wikitext.sites import Site
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow

MAX_HEADER_BYTES = 16 << 20
_SITEINFO_END = b"</siteinfo>"
_READABLE = {"utf-8", "ascii"}  # ASCII is UTF-8
# The byte order mark of UTF-32 begins with that of UTF-16, so it comes first. Without a mark, `<` stands beside zeros.
_UNREADABLE = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
    (b"<\0\0\0", "UTF-32LE"),
    (b"\0\0\0<", "UTF-32BE"),
    (b"<\0", "UTF-16LE"),
    (b"\0<", "UTF-16BE"),
)


@dataclass(frozen=True)
class DumpHeader:
    """The beginning of a dump.

    Attributes:
        site: what its siteinfo says; the default where it has none.
        has_page: the first page follows.
        is_whole: all of a dump without pages was read, not only its first MiB.
    """

    site: Site
    has_page: bool
    is_whole: bool


def read_dump_header(uri: str, pieces: Iterable[TextSpan | BadRow], *, only_site: bool = False) -> DumpHeader:
    """Read a dump up to its first page, or with `only_site` up to the end of its siteinfo.

    Args:
        uri: of the dump, for messages.
        pieces: the text of the dump from its beginning.
        only_site: leaves `has_page` open.

    Raises:
        InputError: the head is damaged, in another encoding, or not that of a dump.
    """
    head = bytearray()
    damage = "the bz2 data is damaged"
    for piece in pieces:
        if isinstance(piece, BadRow):
            damage = piece.detail
            break
        head += piece.data
        damage = ""
        if PAGE_TAG in head or len(head) >= MAX_HEADER_BYTES or (only_site and _SITEINFO_END in head):
            break
    before = bytes(head).partition(PAGE_TAG)[0]
    if not before and damage:
        raise InputError(f"{uri}: {damage}; fetch the dump again")
    site = _parse(uri, before)
    has_page = len(before) < len(head)
    if not has_page and damage:
        raise InputError(f"{uri}: {damage}; fetch the dump again")
    return DumpHeader(site, has_page, is_whole=len(head) < MAX_HEADER_BYTES)


def _parse(uri: str, head: bytes) -> Site:
    """The siteinfo of the XML in front of the first page."""
    for mark, encoding in _UNREADABLE:
        if head.startswith(mark):
            raise _other_encoding(uri, encoding)
    if head and not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        raise InputError(f"{uri}: neither XML nor bz2; give a *-pages-articles*.xml or .xml.bz2 dump")
    path: list[str] = []
    language = "en"
    names: dict[int, list[str]] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal language
        path.append(name)
        if len(path) == 1:
            if name != "mediawiki":
                raise InputError(f"{uri}: root element <{name}>, not <mediawiki>; give a *-pages-articles*.xml dump")
            language = attributes.get("xml:lang") or language
        elif path == ["mediawiki", "siteinfo", "namespaces", "namespace"]:
            key = attributes.get("key", "")
            if key.removeprefix("-").isdecimal() and len(key) <= 9:
                parser.CharacterDataHandler = names.setdefault(int(key), []).append

    def end(name: str) -> None:
        path.pop()
        parser.CharacterDataHandler = None

    def refuse_doctype(*declaration: object) -> None:
        raise InputError(f"{uri}: holds a DOCTYPE, which no dump does; give a *-pages-articles*.xml dump")

    def check_encoding(version: str, encoding: str | None, standalone: int) -> None:
        if encoding and not _is_readable(encoding):
            raise _other_encoding(uri, encoding)

    parser = pyexpat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse_doctype
    parser.XmlDeclHandler = check_encoding
    try:
        parser.Parse(head, False)
    except pyexpat.ExpatError as error:
        raise InputError(f"{uri}: not well-formed XML ({error}); give a *-pages-articles*.xml dump") from None
    return Site(language, {number: "".join(parts).strip() for number, parts in names.items()})


def _is_readable(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in _READABLE
    except LookupError:
        return False


def _other_encoding(uri: str, encoding: str) -> InputError:
    return InputError(
        f"{uri}: its encoding is {encoding}, not UTF-8; convert it with iconv -f {encoding} -t UTF-8 and name UTF-8 in "
        "its XML declaration"
    )
