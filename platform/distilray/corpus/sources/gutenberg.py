"""Removal of Project Gutenberg boilerplate (header, credits, license) and of other notices around a book."""

# ruff: noqa: RUF001 - this module handles typographic characters

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORK = r"(?:the |this )?Project Gutenberg(?:'s|’s)?"
_FLAGS = re.IGNORECASE | re.MULTILINE
_HEADER_LIMIT = 60_000  # characters; the longest old "small print" has 15,000
_LICENSE_LIMIT = 60_000  # characters; the license has 19,000
_NEAR = 1_000  # characters between the plain-text end mark and the one with asterisks
_HEADER_PARAGRAPHS = 80
_SHORTEST_BOOK = 40  # characters

# The closing asterisks may be two lines later, after a long title, or missing.
_START = re.compile(
    rf"^[ \t]*\*\*\*[ \t]*START OF {_WORK} E-?(?:BOOK|TEXT)(?:[^*\n]*(?:\n[^*\n]+){{0,2}}\*\*)?[^\n]*\n", _FLAGS
)
# A block of "small print": before the book until 2001, after it in 2002 and 2003.
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
# Header paragraphs of an etext without a start mark. Some are repeated after the book.
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

_EDGE = 40  # paragraphs at either end that may contain notices
_CREDITS_EDGE = 12  # paragraphs; smaller, since the pattern for credits is less specific
_MAX_INDENTED = 12  # paragraphs of a note under its heading
_MAX_LICENSE = 2_500  # characters; a longer block without blank lines contains text as well
_MAX_WRAPPED = 100  # characters; a longer line is a paragraph

PARAGRAPH_BREAK = re.compile(r"\n(?:[ \t]*\n)+")


def _pattern(source: str) -> re.Pattern[str]:
    """Compile a pattern whose spaces match any whitespace, since lines may be wrapped."""
    return re.compile(source.replace(" ", r"\s+"), re.IGNORECASE | re.MULTILINE)


_CREDITS = _pattern(
    r"[\W_]*(?:(?:this )?(?:e-?(?:text|book)|file|book)s? (?:was |were )?|html version )?"
    r"(?:(?:produced|prepared|transcribed|scanned|created|typed|proofread|digiti[sz]ed) (?:and \w+ )?(?:by|from)\b"
    r"|credits:)"
)
_OF = r"(?:by|from|on|zur|zu|der|des|von|du|de|sur|del|della|di|do|da|van)(?: (?:the|der|la|de))?"
_NOTE = (
    r"(?:(?:transcribers?['’]?s?['’]?|transcription)(?: \w+)? notes?\b"
    rf"|(?:notes?|anmerkung(?:en)?|hinweise?|bemerkung(?:en)?|remarques?|notas?|opmerking(?:en)?) {_OF} "
    r"(?:trans[ck]r|trascr)\w+(?=\s*(?:[.:;\]—–-]|$))"
    r"|proofreaders?['’]?s?['’]? notes?\b|opmerkingen? van de bewerker"
    r"|the (?:book )?cover (?:image )?(?:for this \w+ )?was (?:created|made|produced|modified) by the transcriber"
    r"|notes? au lecteur de ce fichier(?: \w+)?|cette version [ée]lectronique reproduit)"
)
_NOTE_BEGIN = _pattern(rf"[\W_]*{_NOTE}")
_NOTE_HEADING = _pattern(rf"[\W_]*{_NOTE}[\W_]*")
_NOTE_IN_BRACKETS = _pattern(rf"\[{_NOTE}[^\[\]]{{0,4000}}\]")
# A reference to another edition of the book.
_EDITION = _pattern(
    r"[\W_]*(?:(?:note\b[\s:.—-]*)?(?:project gutenberg (?:also )?has|images of the original pages|an? html version"
    r"|there is an? (?:improved|illustrated|html|newer) (?:edition|version))\b|note:[^\0]{0,600}\bgutenberg\b)"
)
_LINK = _pattern(r"[\W_]*(?:(?:see|or)\b)?[\W_]*(?:https?://|www\.|\d+-h\b)")

_BOOK = r"(?:free )?(?:e-?book|book|story|short story|novel|novella|work|title|publication)"
_STORE = _pattern(
    r"[\s*_#~=-]*(?:"
    r"(?:an? |the |first )?smashwords (?:e-?book )?edition\b(?=\W*(?:$|licen|copyright|published|by\b|\d))"
    r"|(?:smashwords )?licen[sc]e (?:notes?|statement)\b(?=\W*$|:)|smashwords licen[sc]e\b"
    r"|(?:published|distributed) [^\n!?]{0,80}\bsmashwords\b(?:\.com|,? inc\.?)?(?: by [^\n,;!?]{1,40})?\W*$"
    r"|[^\n\"“]{0,200}\b(?:(?:at|on) smashwords(?:\.com)?|smashwords (?:e-?book )?edition)\W*$"
    r"|(?:discover|find) other titles by [^\n]{1,60}$"
    r"|your support and respect for the property of th(?:is|e) author|the author retains the copyright"
    r"|this (?:book |novel |story )?is a work of fiction\W{0,3} ?(?:names|any|all|$)"
    rf"|(?:the (?:material|contents?) (?:in|of) )?(?:this|the) {_BOOK} is (?:being )?licen[sc]ed (?:for|to) you"
    rf"|(?:this|the) {_BOOK} (?:may|can) not be (?:re-?sold|sold|given away|redistributed|reproduced|copied)"
    rf"|thank you for (?:downloading|purchasing|buying) (?:this|my) {_BOOK}"
    r"|thank you for respecting the (?:hard )?work of"
    rf"|if you(?:['’]d| would|) (?:like|want|wish) to share this {_BOOK}"
    rf"|if you(?:['’]re| are) reading this {_BOOK} and did(?:n['’]t| not)"
    r"|(?:please )?(?:purchase|buy) an additional copy"
    rf"|(?:this|your) {_BOOK} remains the copyrighted property"
    r"|(?:discover|find) (?:other|more) (?:titles|books|works) by [^\n]{0,100}\bsmashwords\b"
    r"|smashwords(?: (?:profile|author page|interview))?:"
    r"|[^\n\"“]{0,300}\b(?:smashwords\.com/|licen[sc]ed for your personal|may not be re-?sold|purchase your own copy)"
    r")"
)


@dataclass(frozen=True)
class Book:
    """A book without boilerplate. `title` is empty if the file has no header."""

    title: str
    body: str


def read_book(text: str) -> Book:
    """Return the title and body of a book. Files from other publishers are returned whole, except for notices.

    Start and end marks count only at the start of a line and near the edges of the file, so that books that mention
    Project Gutenberg stay complete.

    Args:
        text: content of the file, with LF line endings.
    """
    end = _body_end(text)
    start = max((match.end() for match in _START.finditer(text, 0, min(end, _HEADER_LIMIT))), default=0)
    has_start = start > 0
    start, end = _without_small_print(text, start, end)
    if not has_start:
        start, end = _without_header(text, start, end)
    if start == 0 and end == len(text):
        return Book("", remove_notices(text))
    return Book(_title(text[:start]), remove_notices(text[start:end], remove_credits=True).strip("\n"))


def _without_small_print(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the bounds of the text after the small print, or before it if the small print is at the end."""
    all_blocks = [match.span() for match in _SMALL_PRINT.finditer(text, start, end)]
    blocks = [block for block in all_blocks if block[1] - start < _HEADER_LIMIT or end - block[0] < _LICENSE_LIMIT]
    if not blocks:
        return start, end
    first, last = blocks[0][0], blocks[-1][1]
    is_at_end = len(text[last:end].strip()) < _SHORTEST_BOOK and text[start:first].strip()
    return (start, first) if is_at_end else (last, end)


def _without_header(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the bounds of the longest text between header paragraphs, some of which are repeated after the book."""
    paragraphs = list(_paragraphs(text, start, end))
    edges = [*paragraphs[:_HEADER_PARAGRAPHS], *paragraphs[_HEADER_PARAGRAPHS:][-_HEADER_PARAGRAPHS:]]
    blocks = [bounds for bounds in edges if _HEADER.match(text, *bounds)]
    if not _ETEXT.search(text, 0, _NEAR) or (len(blocks) < 2 and not _NAMED_ETEXT.search(text, 0, _NEAR)):
        return start, end
    longest = (start, start)
    for block_start, block_end in [*blocks, (end, end)]:
        if len(text[start:block_start].strip()) > len(text[slice(*longest)].strip()):
            longest = (start, block_start)
        start = block_end
    return longest


def _paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for gap in PARAGRAPH_BREAK.finditer(text, start, end):
        yield start, gap.start()
        start = gap.end()
    yield start, end


def _body_end(text: str) -> int:
    """Return the position of the last end mark, including the plain-text one that precedes it in old files."""
    first = max(0, len(text) - _LICENSE_LIMIT)
    ends = [match.start() for match in _END.finditer(text, first)]
    end = max(ends, default=len(text))
    plain = [match.start() for match in _PLAIN_END.finditer(text, max(0, end - _NEAR) if ends else first, end)]
    return plain[-1] if plain else end


def _title(header: str) -> str:
    match = _TITLE.search(header)
    return " ".join(match[1].split()) if match else ""


def remove_notices(text: str, *, remove_credits: bool = False) -> str:
    """Remove unambiguous notices.

    Args:
        text: text of a book, whose lines may be wrapped.
        remove_credits: whether to remove the credits of volunteers, as in files of Project Gutenberg.

    Returns:
        The remaining paragraphs, separated by single blank lines; the unchanged text if it has no notices.
    """
    paragraphs = PARAGRAPH_BREAK.split(_NOTE_IN_BRACKETS.sub("", text).strip("\n"))
    count = len(paragraphs)
    half = range(max(count // 2, count - _EDGE), count)
    end = next((number for number in half if _NOTE_HEADING.fullmatch(paragraphs[number])), count)
    kept: list[str] = []
    skip = 0  # paragraphs that belong to the notice before them
    for number, paragraph in enumerate(paragraphs[:end]):
        is_edge = number < _EDGE or number >= half.start
        if skip:
            skip -= 1
        elif not is_edge:
            kept.append(paragraph)
        elif _NOTE_HEADING.fullmatch(paragraph):
            skip = _note_length(paragraphs[number + 1 : end])
        elif _EDITION.match(paragraph):
            skip = int(number + 1 < end and _LINK.match(paragraphs[number + 1]) is not None)
        elif _NOTE_BEGIN.match(paragraph) or (remove_credits and number < _CREDITS_EDGE and _CREDITS.match(paragraph)):
            continue
        elif rest := _without_license(paragraph):
            kept.append(rest)
    return "\n\n".join(kept).strip("\n") if kept != PARAGRAPH_BREAK.split(text.strip("\n")) else text


def _note_length(following: list[str]) -> int:
    """Return the number of paragraphs in a note: the one after its heading, and indented ones after that."""
    indented = [all(line.startswith("    ") for line in text.split("\n")) for text in following[1:_MAX_INDENTED]]
    return min(len(following), 1 + (indented.index(False) if False in indented else len(indented)))


def _without_license(paragraph: str) -> str:
    """Remove a store's notice: all lines from its first one, or if lines are not wrapped, each line that matches."""
    lines = paragraph.split("\n")
    if len(paragraph) > _MAX_LICENSE or max(map(len, lines)) > _MAX_WRAPPED:
        return "\n".join(line for line in lines if not _STORE.match(line))
    first = next((row for row in range(len(lines)) if _STORE.match("\n".join(lines[row:]))), len(lines))
    return "\n".join(lines[:first])
