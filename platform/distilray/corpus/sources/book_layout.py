"""Book layout: joins wrapped lines into paragraphs and removes everything that is not running text."""

# ruff: noqa: RUF001 - this module handles typographic characters

import re
from itertools import pairwise

from distilray.corpus.writing_systems import join_lines

_MAX_WRAPPED = 100  # characters; Project Gutenberg wraps at 60 to 75, others at 80
_WRAPPED_FRACTION = 0.98  # minimum fraction of lines within that limit
_MAX_ENDED_FRACTION = 0.5  # lines that end a sentence: about 0.1 if lines are wrapped, nearly 1 if not
_MAX_HEADING = 160  # characters
_MAX_HEADING_LINES = 4
_CONTENTS_FRACTION = 0.6

_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")
_SENTENCE_ENDED = re.compile(r"[.!?…。！？।؟۔։][\"'”’»«“)\]」』）_*]*$")
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
_PAGE_CHARACTERS = frozenset("0123456789ivxlcIVXLC")
_IMPRINT = re.compile(r"[\W_]*(?:copyright,? (?:\W|\d|by\b)|all rights reserved\b).*", re.IGNORECASE | re.DOTALL)
_BYLINE = re.compile(r"by (?:\b\w\.|[^.!?]){2,60}(?<!\.)", re.IGNORECASE)

_CONTEXT = 400  # characters
_SHORT_BLOCK = 20  # a heading such as `CHAPTER`, whose number may be on the next line
_PROSE_LINE = 50  # lines of verse are shorter
_LONG_BLOCK = 60

_PAGE = r"(?:pages?|pg\.?|p\.|seite|s\.|p[aá]g(?:ina)?\.?)"
# Insertions by an editor. Captions may contain nested brackets, one level deep.
_BRACKETED = (
    r"\[(?:illustrations?|frontispiece|sidenote|footnotes?|decoration|music|map|plate|blank page|abbildung(?:en)?"
    r"|fu(?:ß|ss)noten?|notes?(?= \d{1,4}:))\b"
    r"(?:[^\[\]]|\[[^\[\]]{0,200}\]){0,4000}\]"
    rf"|[\[{{](?:{_PAGE}[ _:]{{0,2}}\w{{1,5}}|p\d{{1,4}})(?:[-–]\w{{1,5}})? ?[\]}}]"
    rf"|\{{\d{{1,4}}[a-z]?\}}|\[\d{{1,4}}\]"
)
# A page number on its own line. Four bare digits may be a year; Roman numerals in capitals may be a chapter.
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


def book_prose(text: str) -> str:
    """Return the running text of a book: one line per paragraph, separated by blank lines.

    Headings, tables of contents, page numbers, rows of asterisks, captions, bracketed notes and emphasis markup are
    removed if they are unambiguous. A hyphen at the end of a line is kept, since the word may be spelled with one.
    """
    cleaned = remove_insertions(text)
    wrapped = is_wrapped(cleaned)
    blocks = [block for block in _BLANK.split(cleaned) if block.strip()]
    paragraphs = [paragraph for block in blocks for paragraph in _split_block(block, wrapped)]
    return "\n\n".join(_unwrap(paragraph) for paragraph in paragraphs if not _is_not_prose(paragraph))


def is_wrapped(text: str) -> bool:
    """Return True if lines are wrapped at a fixed width, False if each line is a paragraph."""
    lines = [line.strip() for line in text.split("\n")]
    nonblank = [line for line in lines if line]
    short = sum(len(line) <= _MAX_WRAPPED for line in nonblank)
    if short < _WRAPPED_FRACTION * len(nonblank):
        return False
    inner = [line for line, below in pairwise(lines) if line and below]
    return sum(bool(_SENTENCE_ENDED.search(line)) for line in inner) <= _MAX_ENDED_FRACTION * len(inner)


def _unwrap(paragraph: str) -> str:
    # Most paragraphs do not need these slow patterns.
    if "_" in paragraph:
        paragraph = _EMPHASIS.sub(r"\1", paragraph)
    if "-\n" in paragraph or "—\n" in paragraph:
        paragraph = _BROKEN_WORD.sub(r"\1", paragraph)
    return join_lines(" ".join(words) for words in map(str.split, paragraph.split("\n")) if words)


def _split_block(block: str, wrapped: bool) -> list[str]:
    """Split a block without blank lines into paragraphs."""
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
        if _indent(line) >= margin + 2 and _indent(above) != _indent(line) and _SENTENCE_ENDED.search(above.rstrip()):
            paragraphs.append([])
        paragraphs[-1].append(line)
    return ["\n".join(map(str.strip, paragraph)) for paragraph in paragraphs]


def _indent(line: str) -> int:
    match = _INDENT.match(line)
    assert match is not None
    return len(match[0].expandtabs())


def _is_contents(lines: list[str]) -> bool:
    entries = sum(bool(_ENTRY.match(line[:_MAX_HEADING])) or _ends_in_page(line.rstrip()) for line in lines)
    return len(lines) > 1 and entries >= _CONTENTS_FRACTION * len(lines)


def _ends_in_page(line: str) -> bool:
    return line[-1:] in _PAGE_CHARACTERS and bool(_PAGE_AT_END.search(line[-40:]))


def _is_not_prose(paragraph: str) -> bool:
    """Return True if a paragraph is a heading, a number, an imprint or an ornament."""
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
    return text.isupper() and text[0] not in _QUOTES and not _SENTENCE_ENDED.search(text)


def _is_title(rest: str) -> bool:
    """Return True if the text after `Chapter 1` is empty, in capitals, or set off by punctuation or a line break."""
    words = rest.strip(" _*")
    return not words or words[0] in ".:,;—–-\n(" or words.isupper()


def remove_insertions(text: str) -> str:
    """Remove page numbers and bracketed insertions of an editor, and join the sentences that they interrupt."""
    return _INSERTION.sub("", _BETWEEN_LINES.sub(_join, text))


def _join(match: re.Match[str]) -> str:
    above = match.string[max(0, match.start() - _CONTEXT) : match.start()]
    below = match.string[match.end() : match.end() + _CONTEXT]
    block = _BLANK_LINE.split(above)[-1].strip()
    if not _BLANK_LINE.search(match[0]):  # between lines that follow each other
        return "\n" if len(block) > _SHORT_BLOCK else match[0]
    return "\n" if _continues(block, below) else match[0]


def _continues(block: str, below: str) -> bool:
    """Return True if the last sentence of `block` continues in the text below the insertion."""
    if _PARAGRAPH_ENDED.search(block) or block.isupper():
        return False
    if next(filter(str.isalpha, below), "A").islower() or block[-1] in ",;—–-":
        return True
    lines = block.split("\n")  # a capital letter may also follow a heading or a line of verse
    return max(map(len, lines)) >= (_PROSE_LINE if len(lines) > 1 else _LONG_BLOCK)
