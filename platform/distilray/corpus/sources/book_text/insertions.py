"""Page numbers, pictures and footnotes inside the text of a book, which do not end a sentence around them."""

# ruff: noqa: RUF001 - quotes and dashes of running text are the subject here

import re

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
_ENDED = re.compile(r"[.!?…][\"'”’)\]_*]*$")


def without_insertions(text: str) -> str:
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
    if _ENDED.search(block) or block.isupper():
        return False
    if next(filter(str.isalpha, below), "A").islower() or block[-1] in ",;—–-":
        return True
    lines = block.split("\n")  # before a capital letter, a heading or a verse may end
    return max(map(len, lines)) >= (_PROSE_LINE if len(lines) > 1 else _LONG_BLOCK)
