"""Notices before and after the text of a book: credits, notes of the transcriber, the licence of a shop."""

# ruff: noqa: RUF001 - the apostrophe of running text is one of the subjects here

import re

_EDGE = 40  # paragraphs at either end in which notices stand
_CREDITS_EDGE = 12  # a credit is less certain
_MAX_INDENTED = 12  # paragraphs of a note under its heading
_MAX_LICENCE = 2_500  # characters; a longer block without blank lines holds text too
_MAX_WRAPPED = 100  # characters; a longer line is a paragraph

PARAGRAPH_BREAK = re.compile(r"\n(?:[ \t]*\n)+")


def _pattern(source: str) -> re.Pattern[str]:
    """A pattern whose spaces stand for any white space, as lines may be wrapped."""
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
# Another edition of the book, and where it is.
_EDITION = _pattern(
    r"[\W_]*(?:(?:note\b[\s:.—-]*)?(?:project gutenberg (?:also )?has|images of the original pages|an? html version"
    r"|there is an? (?:improved|illustrated|html|newer) (?:edition|version))\b|note:[^\0]{0,600}\bgutenberg\b)"
)
_LINK = _pattern(r"[\W_]*(?:(?:see|or)\b)?[\W_]*(?:https?://|www\.|\d+-h\b)")

_BOOK = r"(?:free )?(?:e-?book|book|story|short story|novel|novella|work|title|publication)"
_SHOP = _pattern(
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


def without_notices(text: str, *, credited: bool = False) -> str:
    """Leave out notices, where these are certain.

    Args:
        text: of a book, whose lines may be wrapped.
        credited: those who made the file are named, as Project Gutenberg does.

    Returns:
        The rest with one blank line between its paragraphs; the same text if it has no notice.
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
            skip = _length_of_note(paragraphs[number + 1 : end])
        elif _EDITION.match(paragraph):
            skip = int(number + 1 < end and _LINK.match(paragraphs[number + 1]) is not None)
        elif _NOTE_BEGIN.match(paragraph) or (credited and number < _CREDITS_EDGE and _CREDITS.match(paragraph)):
            continue
        elif rest := _without_licence(paragraph):
            kept.append(rest)
    return "\n\n".join(kept).strip("\n") if kept != PARAGRAPH_BREAK.split(text.strip("\n")) else text


def _length_of_note(following: list[str]) -> int:
    """Return how many paragraphs belong to the heading above them: the next one, and indented ones after it."""
    indented = [all(line.startswith("    ") for line in part.split("\n")) for part in following[1:_MAX_INDENTED]]
    return min(len(following), 1 + (indented.index(False) if False in indented else len(indented)))


def _without_licence(paragraph: str) -> str:
    """The lines above the first one of a shop's notice; where each line is a paragraph, the lines that are none."""
    lines = paragraph.split("\n")
    if len(paragraph) > _MAX_LICENCE or max(map(len, lines)) > _MAX_WRAPPED:
        return "\n".join(line for line in lines if not _SHOP.match(line))
    first = next((at for at in range(len(lines)) if _SHOP.match("\n".join(lines[at:]))), len(lines))
    return "\n".join(lines[:first])
