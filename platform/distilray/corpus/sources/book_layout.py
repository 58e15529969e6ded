"""The layout of a book into paragraphs: wrapped lines are joined, and what is no running text is left out.

Page numbers, pictures and footnotes inside the text of a book, which do not end a sentence around them.
"""


# ruff: noqa: RUF001 - quotes and dashes of running text are the subject here

import re

# ruff: noqa: RUF001 - quotes and dashes of running text are the subject here
from itertools import pairwise

from distilray.corpus.writing_systems import join_lines

_CONTEXT = 400  # characters
_SHORT_BLOCK = 20  # a heading such as `CHAPTER`, which may have its number below it
_PROSE_LINE = 50  # lines of verse are shorter
_LONG_BLOCK = 60

_PAGE = r"(?:pages?|pg\.?|p\.|seite|s\.|p[aá]g(?:ina)?\.?)"
# What an editor put into the text; captions may hold one bracket more.
_BRACKETED = (
    r"\[(?:illustrations?|frontispiece|sidenote|footnotes?|decoration|music|map|plate|blank page|abbildung(?:en)?"
    r"|fu(?:ß|ss)noten?|notes?(?= \d{1,4}:))\b"
    r"(?:[^\[\]]|\[[^\[\]]{0,200}\]){0,4000}\]"
    rf"|[\[{{](?:{_PAGE}[ _:]{{0,2}}\w{{1,5}}|p\d{{1,4}})(?:[-–]\w{{1,5}})? ?[\]}}]"
    rf"|\{{\d{{1,4}}[a-z]?\}}|\[\d{{1,4}}\]"
)
# A page number on a line of its own. Four digits alone may be a year, capital letters a chapter.
_LONE = (
    rf"{_PAGE} ?\d{{1,4}}(?: (?:of|von|sur|de) \d{{1,4}})?"
    rf"|\d{{1,3}}|[-–—~*=|<(]+ ?(?:{_PAGE} ?)?(?:\d{{1,4}}|[ivxl]{{1,7}}) ?[-–—~*=|>)]+"
    r"|\[[ivxl]{1,7}\]"
    r"|(?-i:(?=[ivxl]{2})(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,3}))"
)
_INSERTION = re.compile(_BRACKETED, re.IGNORECASE)
_BETWEEN_LINES = re.compile(rf"(?<=\S)[ \t]*\n\s*(?:(?:{_BRACKETED}|{_LONE})[ \t]*\n\s*)+(?=\S)", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_PARAGRAPH_ENDED = re.compile(r"[.!?…][\"'”’)\]_*]*$")


def remove_insertions(text: str) -> str:
    """Leave out page numbers and what stands in an editor's brackets, and join the sentences that they divide."""
    return _INSERTION.sub("", _BETWEEN_LINES.sub(_join, text))


def _join(match: re.Match[str]) -> str:
    above = match.string[max(0, match.start() - _CONTEXT) : match.start()]
    below = match.string[match.end() : match.end() + _CONTEXT]
    block = _BLANK_LINE.split(above)[-1].strip()
    if not _BLANK_LINE.search(match[0]):  # between lines that follow each other
        return "\n" if len(block) > _SHORT_BLOCK else match[0]
    return "\n" if _goes_on(block, below) else match[0]


def _goes_on(block: str, below: str) -> bool:
    """Return whether a sentence continues below the insertion under `block`."""
    if _PARAGRAPH_ENDED.search(block) or block.isupper():
        return False
    if next(filter(str.isalpha, below), "A").islower() or block[-1] in ",;—–-":
        return True
    lines = block.split("\n")  # before a capital letter, a heading or a verse may end
    return max(map(len, lines)) >= (_PROSE_LINE if len(lines) > 1 else _LONG_BLOCK)


_MAX_WRAPPED = 100  # characters; Project Gutenberg wraps at 60 to 75, others at 80
_WRAPPED_SHARE = 0.98  # of the lines are that short
_MAX_ENDED_SHARE = 0.5  # of wrapped lines with a line below, 0.1 end like a sentence; of paragraphs nearly all do
_MAX_HEADING = 160  # characters
_MAX_HEADING_LINES = 4
_CONTENTS_SHARE = 0.6

_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")
_ENDED = re.compile(r"[.!?…。！？।؟۔։][\"'”’»«“)\]」』）_*]*$")
_INDENT = re.compile(r"^[ \t]*")

_EMPHASIS = re.compile(r"(?<![^\W_])_([^_]{1,2000}?)_(?![^\W_])")
_BROKEN_WORD = re.compile(r"(?<=\w)(-|--|—)\n(?=\w)")

_DIGIT = r"(?:one|two|three|four|five|six|seven|eight|nine)"
_NUMBER = (
    r"(?:\d{1,3}|[ivxlc]{1,8}|the (?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last)"
    r"|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    rf"|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    rf"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:[- ]{_DIGIT})?"
    rf"|{_DIGIT})"
)
_DIVISION = r"(?:chapter|chap\.|book|part|volume|vol\.|canto|act|scene|letter|stave|section|appendix)"
_NUMBERED = re.compile(rf"_?{_DIVISION}\s+{_NUMBER}\b(?!['’-])(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(
    r"[\W_]*(?:table of contents|contents|(?:list of )?illustrations|(?:author['’]s )?(?:preface|foreword|introduction"
    r"|note)|prologue|epilogue|interlude|afterword|dedication|conclusion|index|footnotes|notes|appendix|chapter"
    r"|(?:the )?end(?: of (?:the )?(?:first |second |third )?(?:book|part|vol(?:ume|\.))[^.!?]{0,20})?|finis)[\W_]*",
    re.IGNORECASE,
)
_BARE_NUMBER = re.compile(
    r"[\s.*_()\[\]–—-]*(?:(?:page|pg\.?|p\.) ?)?"
    r"(?:\d{1,4}|(?=[ivxlc])c{0,3}(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,3}))[\s.*_()\[\]–—-]*",
    re.IGNORECASE,
)
_ENTRY = re.compile(
    rf"\s*(?:{_DIVISION}\s+{_NUMBER}\b|(?:\d{{1,3}}|[ivxlc]{{1,8}})[.)]\s+\S.*[^.!?\s]\s*$)", re.IGNORECASE
)
_PAGE_AT_END = re.compile(r"(?:\s{2}|\t|\.\s?\.\s?\.)\s*(?:\d{1,4}|[ivxlc]{1,6})$", re.IGNORECASE)
_QUOTES = "\"'“‘«"
_PAGE_SIGNS = frozenset("0123456789ivxlcIVXLC")
_IMPRINT = re.compile(r"[\W_]*(?:copyright,? (?:\W|\d|by\b)|all rights reserved\b).*", re.IGNORECASE | re.DOTALL)
_BYLINE = re.compile(r"by (?:\b\w\.|[^.!?]){2,60}(?<!\.)", re.IGNORECASE)


def book_prose(text: str) -> str:
    """The running text of a book, paragraphs on one line each with a blank line between.

    Left out, where it is certain: headings, contents, page numbers, rows of asterisks, captions, notes in brackets,
    marks of emphasis. A hyphen at the end of a line is kept: whether it belongs to the word cannot be told.
    """
    cleaned = remove_insertions(text)
    wrapped = is_wrapped(cleaned)
    paragraphs = [part for block in _BLANK.split(cleaned) if block.strip() for part in _split_block(block, wrapped)]
    return "\n\n".join(_on_one_line(part) for part in paragraphs if not _is_furniture(part))


def is_wrapped(text: str) -> bool:
    """Whether the lines of a text end at a width and not with a paragraph."""
    lines = [line.strip() for line in text.split("\n")]
    filled = [line for line in lines if line]
    short = sum(len(line) <= _MAX_WRAPPED for line in filled)
    if short < _WRAPPED_SHARE * len(filled):
        return False
    inner = [line for line, below in pairwise(lines) if line and below]
    return sum(bool(_ENDED.search(line)) for line in inner) <= _MAX_ENDED_SHARE * len(inner)


def _on_one_line(paragraph: str) -> str:
    """The words of a paragraph. The patterns are slow, and most paragraphs need none."""
    if "_" in paragraph:
        paragraph = _EMPHASIS.sub(r"\1", paragraph)
    if "-\n" in paragraph or "—\n" in paragraph:
        paragraph = _BROKEN_WORD.sub(r"\1", paragraph)
    return join_lines(" ".join(words) for words in map(str.split, paragraph.split("\n")) if words)


def _split_block(block: str, wrapped: bool) -> list[str]:
    """The paragraphs of a block without blank lines."""
    lines = [line for line in block.split("\n") if line.strip()]
    if _is_contents(lines):
        return []
    if not wrapped:
        return lines
    if not any(line[0].isspace() for line in lines):
        return ["\n".join(map(str.rstrip, lines))]
    margin = min(map(_indent, lines))
    paragraphs = [[lines[0]]]
    for above, line in pairwise(lines):
        if _indent(line) >= margin + 2 and _indent(above) != _indent(line) and _ENDED.search(above.rstrip()):
            paragraphs.append([])
        paragraphs[-1].append(line)
    return ["\n".join(map(str.strip, paragraph)) for paragraph in paragraphs]


def _indent(line: str) -> int:
    match = _INDENT.match(line)
    assert match is not None
    return len(match[0].expandtabs())


def _is_contents(lines: list[str]) -> bool:
    found = sum(bool(_ENTRY.match(line[:_MAX_HEADING])) or _ends_in_page(line.rstrip()) for line in lines)
    return len(lines) > 1 and found >= _CONTENTS_SHARE * len(lines)


def _ends_in_page(line: str) -> bool:
    return line[-1:] in _PAGE_SIGNS and bool(_PAGE_AT_END.search(line[-40:]))


def _is_furniture(paragraph: str) -> bool:
    """Whether a paragraph is a heading, a number or an ornament."""
    text = paragraph.strip()
    if not any(map(str.isalpha, text)) or _BARE_NUMBER.fullmatch(text):
        return True
    if len(text) > _MAX_HEADING or text.count("\n") >= _MAX_HEADING_LINES:
        return False
    numbered = _NUMBERED.fullmatch(text)
    if numbered:
        return _is_title(numbered["rest"])
    if any(pattern.fullmatch(text) for pattern in (_NAMED, _BYLINE, _IMPRINT)):
        return True
    return text.isupper() and text[0] not in _QUOTES and not _ENDED.search(text)


def _is_title(rest: str) -> bool:
    """Whether what follows `Chapter 1` is nothing or a title: behind a sign or a line break, or in capital letters."""
    words = rest.strip(" _*")
    return not words or words[0] in ".:,;—–-\n(" or words.isupper()
