"""What Project Gutenberg puts around a book: header, credits, licence."""

# ruff: noqa: RUF001 - the apostrophe of running text is one of the subjects here

import re
from collections.abc import Iterator
from dataclasses import dataclass

from distilray.corpus.sources.book_text.notices import PARAGRAPH_BREAK, without_notices

_WORK = r"(?:the |this )?Project Gutenberg(?:'s|’s)?"
_FLAGS = re.IGNORECASE | re.MULTILINE
_HEADER_LIMIT = 60_000  # characters; the longest old "small print" has 15,000
_LICENCE_LIMIT = 60_000  # characters; the licence has 19,000
_NEAR = 1_000  # characters between the two ways to say that a book ends
_HEADER_PARAGRAPHS = 80
_SHORTEST_BOOK = 40  # characters

# The stars may close on the line after the next, behind a long title, or never.
_START = re.compile(
    rf"^[ \t]*\*\*\*[ \t]*START OF {_WORK} E-?(?:BOOK|TEXT)(?:[^*\n]*(?:\n[^*\n]+){{0,2}}\*\*)?[^\n]*\n", _FLAGS
)
# A block of "small print", before the book until 2001 and after it in 2002 and 2003.
_SMALL_PRINT = re.compile(
    r"^[ \t]*\*+[ \t]*START[ \t*]*THE SMALL PRINT(?:[^\n]*\n)+?[ \t]*\*+[ \t]*END[ \t*]*THE SMALL PRINT[^\n]*\n?"
    r"|^[ \t]*\*+[ \t]*END[ \t*]*THE SMALL PRINT[^\n]*\n?",
    _FLAGS,
)
_END = re.compile(rf"^[ \t]*\*\*\*[ \t]*END OF {_WORK} E-?(?:BOOK|TEXT)", _FLAGS)
_PLAIN_END = re.compile(
    rf"\n[ \t]*\n[ \t*]*(?:The )?End of {_WORK}[ \t]"
    r"|\n[ \t]*\n[ \t*]*(?:Ende|Fin|Fine) (?:de|du|des|dieses|dell)\b[^\n]{0,20} Proje[ck]t Gutenberg\b",
    _FLAGS,
)
_ETEXT = re.compile(rf"^[\W_]*(?:this is )?{_WORK}\b", _FLAGS)
_NAMED_ETEXT = re.compile(rf"^[\W_]*(?:this is )?{_WORK}\s[^\n]{{0,40}}E-?(?:text|book)", _FLAGS)
# Paragraphs of the header of an etext without a start mark. Some stand after its book, too.
_HEADER = re.compile(
    r"[\W_]*(?:(?:this is )?(?:the )?project gutenberg(?:'s|’s)?\b|copyright laws are changing|this header should be"
    r"|please (?:take a look at the important|do not (?:change|remove)|note:? neither this)|to encourage this, we have"
    r"|(?:these|this) e-?(?:text|book)s? (?:is|are|was|were) prepared by (?:hundreds|thousands)|welcome to the world of"
    r"|e-?(?:text|book)s readable by both|information (?:on|about|prepared by)\b.{0,20}\bproject gutenberg"
    r"|we (?:produce about|need your donations|are now trying to release|would prefer to send)|yes, we are"
    r"|(?:title|author|editor|translator|illustrator|edition|language|character set(?: encoding)?|\w+ date):"
    r"|this file (?:should be named|was first posted)|corrected editions of|versions based on separate"
    r"|the [\"“]?legal small print|more information about this book is|the goal of project gutenberg"
    r"|most people start at|just search by|example (?:command-line )?ftp"
    r"|if you have an ftp program|all donations should)",
    re.IGNORECASE | re.DOTALL,
)

_TITLE = re.compile(r"^Title:[ \t]*(\S[^\n]*(?:\n[ \t]+\S[^\n]*)*)", _FLAGS)


@dataclass(frozen=True)
class Book:
    """A book without what was put around it. `title` is empty when no header gives it."""

    title: str
    body: str


def read_book(text: str) -> Book:
    """The title and the body of a file, whose line breaks are line feeds; a file from elsewhere is all body.

    A mark counts only where it begins a line and stands near the end it belongs to, so that a book that mentions
    Project Gutenberg is whole.
    """
    end = _body_end(text)
    start = max((match.end() for match in _START.finditer(text, 0, min(end, _HEADER_LIMIT))), default=0)
    has_start = start > 0
    start, end = _without_small_print(text, start, end)
    if not has_start:
        start, end = _without_header(text, start, end)
    if start == 0 and end == len(text):
        return Book("", without_notices(text))
    return Book(_title(text[:start]), without_notices(text[start:end], credited=True).strip("\n"))


def _without_small_print(text: str, start: int, end: int) -> tuple[int, int]:
    """The bounds of the text behind the small print, or before it when that stands at the end."""
    everywhere = [match.span() for match in _SMALL_PRINT.finditer(text, start, end)]
    blocks = [block for block in everywhere if block[1] - start < _HEADER_LIMIT or end - block[0] < _LICENCE_LIMIT]
    if not blocks:
        return start, end
    first, behind = blocks[0][0], blocks[-1][1]
    is_at_the_end = len(text[behind:end].strip()) < _SHORTEST_BOOK and text[start:first].strip()
    return (start, first) if is_at_the_end else (behind, end)


def _without_header(text: str, start: int, end: int) -> tuple[int, int]:
    """The longest part between paragraphs of the header of an etext, some of which are repeated behind the book."""
    paragraphs = list(_paragraphs(text, start, end))
    edges = [*paragraphs[:_HEADER_PARAGRAPHS], *paragraphs[_HEADER_PARAGRAPHS:][-_HEADER_PARAGRAPHS:]]
    blocks = [(begin, behind) for begin, behind in edges if _HEADER.match(text, begin, behind)]
    if not _ETEXT.search(text, 0, _NEAR) or (len(blocks) < 2 and not _NAMED_ETEXT.search(text, 0, _NEAR)):
        return start, end
    longest, begin = (start, start), start
    for first, behind in [*blocks, (end, end)]:
        if len(text[begin:first].strip()) > len(text[slice(*longest)].strip()):
            longest = begin, first
        begin = behind
    return longest


def _paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = start
    for gap in PARAGRAPH_BREAK.finditer(text, start, end):
        yield begin, gap.start()
        begin = gap.end()
    yield begin, end


def _body_end(text: str) -> int:
    """Where the last end mark begins; with the sentence in plain words that old files have above it."""
    first = max(0, len(text) - _LICENCE_LIMIT)
    ends = [match.start() for match in _END.finditer(text, first)]
    end = max(ends, default=len(text))
    plain = [match.start() for match in _PLAIN_END.finditer(text, max(0, end - _NEAR) if ends else first, end)]
    return plain[-1] if plain else end


def _title(header: str) -> str:
    match = _TITLE.search(header)
    return " ".join(match[1].split()) if match else ""
