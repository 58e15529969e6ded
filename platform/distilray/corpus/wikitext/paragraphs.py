"""Paragraphs of prose, assembled from lines of visible text without lists, bold headings and leftover markup.

Spaces, brackets and quotes around removed content are repaired. Everything else is unchanged: the empty brackets in
`main()` are part of the text. Each pattern matches complete runs of characters, so that the time is linear.
"""

# ruff: noqa: RUF001 - this module handles typographic characters

import html
import re

from distilray.corpus.wikitext.arguments import GAP, HOLE, UNKNOWN, UNKNOWN_PATTERN
from distilray.corpus.wikitext.extensions import mask_literal_markup, protect_markup
from distilray.corpus.writing_systems import join_lines

LIST_MARK = "\ue001"  # starts a list item or preformatted line (a private-use character)

_APOSTROPHE = "\ue003"  # an apostrophe next to the quotes of italic text
_MARKUP_LINE = re.compile(r"\{\||\|\}|\||!\s|!!|\}\}|-{4,}|={2,}")
_LEFTOVER_MARKUP = re.compile(r"\{\{|\}\}|\{\||\|\}")
_MAX_QUOTES = 20  # longer runs are not style markup
_QUOTE_RUN = re.compile(r"'{2,}")
_BOLD_LINE = re.compile(r"('''|''''')(?!')[^']+(?:'[^']+)*\1:?")
_SENTENCE_END = tuple(".!?…。！？।؟")

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]\w{1,30});")  # of doubly escaped text
_INVISIBLE = re.compile(r"[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_URL = re.compile(r"(?:https?|ftp)://[^\s)\]]+")

_UNKNOWN = re.compile(UNKNOWN_PATTERN)
# Unknown templates directly after punctuation are notes, like references; others replace words.
_UNKNOWN_NOTE = re.compile(
    rf"(?<=[.,;:!?…。、！？।؟)\"”»{GAP}])(?:{UNKNOWN_PATTERN}{GAP}*)+(?=\s|$)"
    rf"|(?<=[.!?…])\s+(?:{UNKNOWN_PATTERN}\s*)+$"
)

_PLACEHOLDER = re.compile(f"[{GAP}{HOLE}{UNKNOWN}]")
_GAPS = re.compile(f"{GAP}(?: ?{GAP})+")
# Most gaps are references between a word or punctuation and a space. They need no repair.
_PLAIN_GAP = re.compile(rf"(?<=[^\s(\[\"“]){GAP}(?=$| [^\s,.;:!?)\]–])")
_PARENTHESIS = re.compile(r"\(([^()]*)\)")
_BRACKETS = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_QUOTES = re.compile(rf"(?<!\S)[\"“] ?{GAP} ?[\"”](?!\S)")
_SEPARATORS = re.compile(f"[ ,;:/–—{GAP}-]+")
_LOOSE_PUNCTUATION = (" ,", " .", " )", "( ")
_TIGHTENED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r" ([,.])(?=\s|$|[\"')\]])(?<!\w \.(?= [a-z]))"), r"\1"),  # but "press . to repeat"
    (re.compile(r"(?<![:;])\( "), "("),  # but ":( is sad"
    (re.compile(r" \)"), ")"),
    (re.compile(r"^(?:\.{2,}|…) ?(?=\w)"), ""),
)


def prose(text: str) -> str:
    """Return the prose in the result of `visible_text`: one line per paragraph, separated by blank lines."""
    paragraphs = [_clean_paragraph(paragraph) for paragraph in _paragraphs(_INVISIBLE.sub("", text).split("\n"))]
    return "\n\n".join(paragraph for paragraph in paragraphs if any(map(str.isalpha, paragraph)))


def _paragraphs(lines: list[str]) -> list[str]:
    paragraphs: list[str] = []
    current: list[str] = []
    heading = ""  # a bold line, which is a heading unless the next line continues it in lower case
    for line in [*lines, ""]:
        words, is_list, _ = line.partition(LIST_MARK)
        words = words.strip()
        is_bold = not current and words.startswith("'''") and _is_bold_line(words)
        words = _without_style(words).strip()
        if words[:1] in (GAP, UNKNOWN) and not _UNKNOWN.sub("", words).strip(f" \t{GAP}"):
            words = ""  # templates on their own line are blocks
        is_prose = words and not _MARKUP_LINE.match(words)
        if heading and is_prose and words[0].islower():
            current.append(heading)
        heading = words if is_bold and is_prose else ""
        if is_prose and not heading:
            current.append(words)
        if current and (is_list or not is_prose):
            paragraphs.append(join_lines(current))
            current = []
    return paragraphs


def _is_bold_line(line: str) -> bool:
    bold = line.strip(f" \t{GAP}")
    return _BOLD_LINE.fullmatch(bold) is not None and not bold.strip("':").endswith(_SENTENCE_END)


def _without_style(line: str) -> str:
    """Remove the quotes for bold and italic. In `l'''air''`, one of the first three is an apostrophe."""
    if "''" not in line:
        return line
    runs = [len(run) for run in _QUOTE_RUN.findall(line)]
    if sum(run in (3, 5) for run in runs) % 2 and sum(run in (2, 5) for run in runs) % 2:
        line = _with_apostrophe(line)
    return _QUOTE_RUN.sub(_without_quotes, line).replace(_APOSTROPHE, "'")


def _without_quotes(run: re.Match[str]) -> str:
    length = len(run[0])
    return "'" if length == 4 else HOLE if length > _MAX_QUOTES else "'" * max(0, length - 5)


def _with_apostrophe(line: str) -> str:
    """Turn one run of three into an apostrophe and two quotes. As in MediaWiki, prefer one after a single letter."""

    def rank(run: re.Match[str]) -> int:
        before = line[max(0, run.start() - 2) : run.start()]
        if before[-1:] in ("", " "):
            return 2
        return 0 if before[:1] == " " or len(before) == 1 else 1

    chosen = min((run for run in _QUOTE_RUN.finditer(line) if len(run[0]) == 3), key=rank, default=None)
    return line if chosen is None else f"{line[: chosen.start()]}{_APOSTROPHE}{line[chosen.start() + 1 :]}"


def _clean_paragraph(paragraph: str) -> str:
    if _LEFTOVER_MARKUP.search(paragraph):
        return ""  # part of an unclosed template or table
    if "&" in paragraph:
        paragraph = _ENTITY.sub(lambda entity: protect_markup(html.unescape(entity[0])), paragraph)
    if "://" in paragraph:
        paragraph = _URL.sub(HOLE, paragraph)
    if ("[[" in paragraph or "]]" in paragraph) and paragraph.count("[") != paragraph.count("]"):
        paragraph = paragraph.replace("[[", HOLE).replace("]]", HOLE)  # half of a link
    paragraph = mask_literal_markup(" ".join(paragraph.split()))
    if UNKNOWN in paragraph:
        paragraph = _UNKNOWN_NOTE.sub(GAP, paragraph)
    return repair_gaps(paragraph).strip()


def repair_gaps(paragraph: str) -> str:
    """Remove gaps, and parentheses with a hole, from a paragraph with single spaces."""
    if _PLACEHOLDER.search(paragraph):
        paragraph = _PARENTHESIS.sub(_remove_parenthesis_with_hole, paragraph)
        paragraph = _PLAIN_GAP.sub("", _GAPS.sub(_merge_gaps, paragraph))
    if GAP in paragraph:
        paragraph = _QUOTES.sub(GAP, _BRACKETS.sub(_remove_empty_brackets, paragraph))
        paragraph = _SEPARATORS.sub(
            _join_separators, paragraph.lstrip(f" ,;:)]{GAP}") if _starts_with_gap(paragraph) else paragraph
        )
    if any(loose in paragraph for loose in _LOOSE_PUNCTUATION) or paragraph.startswith(("..", "…")):
        for pattern, replacement in _TIGHTENED:
            paragraph = pattern.sub(replacement, paragraph)
    return paragraph


def _starts_with_gap(paragraph: str) -> bool:
    return paragraph.lstrip(" ,;:)]").startswith(GAP)


def _merge_gaps(gaps: re.Match[str]) -> str:
    return f"{GAP} " if " " in gaps[0] else GAP


def _remove_parenthesis_with_hole(parenthesis: re.Match[str]) -> str:
    return GAP if HOLE in parenthesis[1] or UNKNOWN in parenthesis[1] else parenthesis[0]


def _remove_empty_brackets(brackets: re.Match[str]) -> str:
    """Replace brackets that contain only separators with a gap."""
    is_empty = GAP in brackets[1] and brackets[1].strip(f" ,;:/–—{GAP}-") in ("", "or", "and")
    return GAP if is_empty else brackets[0]


def _join_separators(separators: re.Match[str]) -> str:
    """Merge the separators on both sides of a gap."""
    run, text = separators[0], separators.string
    if GAP not in run:
        return run
    following = text[separators.end() : separators.end() + 2]
    if text[separators.start() - 1 : separators.start()] in ("(", "[") or following[:1] in (")", "]"):
        return ""
    parts = run.split(GAP)
    visible = [part for part in parts if part.strip()]
    if not visible:
        is_end = following[:1] in (".", "!", "?") and not following[1:].isalnum()
        return " " if " " in run and not (is_end and parts[0]) else ""
    first, separator = visible[0], visible[0].strip()
    if len(visible) > 1 and separator[-1] in ",;:" and visible[-1].strip()[0] not in ",;:":
        return first.rstrip() + visible[-1]  # e.g. a comma and a dash, which are both needed
    before, _, after = run.partition(separator)
    is_spaced = " " in before and (separator[0] not in ",;:" or (separator[0] != "," and not parts[0].isspace()))
    return f"{' ' if is_spaced else ''}{separator}{' ' if ' ' in after else ''}"
