"""Header of a dump: encoding, root element and siteinfo."""

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
_SUPPORTED_ENCODINGS = {"utf-8", "ascii"}  # ASCII is a subset of UTF-8
# First bytes of files in other encodings: a byte order mark, or `<` padded with zero bytes. UTF-32 comes before UTF-16,
# whose mark is a prefix of it.
_OTHER_ENCODINGS = (
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
    """Header of a dump.

    Attributes:
        site: wiki described by the siteinfo; the default if there is none.
        has_page: whether a page follows.
        is_complete: whether the header is shorter than `MAX_HEADER_BYTES`.
    """

    site: Site
    has_page: bool
    is_complete: bool


def read_dump_header(uri: str, spans: Iterable[TextSpan | BadRow], *, only_site: bool = False) -> DumpHeader:
    """Read a dump up to its first page.

    Args:
        uri: URI of the dump, for messages.
        spans: text of the dump from its start.
        only_site: stop after the siteinfo; `has_page` is then undefined.

    Raises:
        InputError: if the header is damaged, has another encoding, or does not belong to a dump.
    """
    header = bytearray()
    damage = "the bz2 data is damaged"
    for span in spans:
        if isinstance(span, BadRow):
            damage = span.detail
            break
        header += span.data
        damage = ""
        if PAGE_TAG in header or len(header) >= MAX_HEADER_BYTES or (only_site and _SITEINFO_END in header):
            break
    before_pages = bytes(header).partition(PAGE_TAG)[0]
    if not before_pages and damage:
        raise InputError(f"{uri}: {damage}; download the dump again")
    site = _parse(uri, before_pages)
    has_page = len(before_pages) < len(header)
    if not has_page and damage:
        raise InputError(f"{uri}: {damage}; download the dump again")
    return DumpHeader(site, has_page, is_complete=len(header) < MAX_HEADER_BYTES)


def _parse(uri: str, header: bytes) -> Site:
    """Parse the XML before the first page."""
    for first_bytes, encoding in _OTHER_ENCODINGS:
        if header.startswith(first_bytes):
            raise _other_encoding(uri, encoding)
    if header and not header.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        raise InputError(f"{uri}: neither XML nor bz2; use a *-pages-articles*.xml or .xml.bz2 dump")
    path: list[str] = []
    language = "en"
    names: dict[int, list[str]] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal language
        path.append(name)
        if len(path) == 1:
            if name != "mediawiki":
                raise InputError(f"{uri}: root element <{name}>, not <mediawiki>; use a *-pages-articles*.xml dump")
            language = attributes.get("xml:lang") or language
        elif path == ["mediawiki", "siteinfo", "namespaces", "namespace"]:
            key = attributes.get("key", "")
            if key.removeprefix("-").isdecimal() and len(key) <= 9:
                parser.CharacterDataHandler = names.setdefault(int(key), []).append

    def end(name: str) -> None:
        path.pop()
        parser.CharacterDataHandler = None

    def refuse_doctype(*declaration: object) -> None:
        raise InputError(f"{uri}: contains a DOCTYPE, which dumps do not have; use a *-pages-articles*.xml dump")

    def check_encoding(version: str, encoding: str | None, standalone: int) -> None:
        if encoding and not _is_supported(encoding):
            raise _other_encoding(uri, encoding)

    parser = pyexpat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse_doctype
    parser.XmlDeclHandler = check_encoding
    try:
        parser.Parse(header, False)
    except pyexpat.ExpatError as error:
        raise InputError(f"{uri}: not well-formed XML ({error}); use a *-pages-articles*.xml dump") from None
    return Site(language, {number: "".join(parts).strip() for number, parts in names.items()})


def _is_supported(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in _SUPPORTED_ENCODINGS
    except LookupError:
        return False


def _other_encoding(uri: str, encoding: str) -> InputError:
    return InputError(
        f"{uri}: its encoding is {encoding}, not UTF-8; convert it with iconv -f {encoding} -t UTF-8 and declare UTF-8 "
        "in its XML declaration"
    )
