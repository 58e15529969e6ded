"""Lines of a page into paragraphs of prose: lists go, and so does what is left of markup."""

# ruff: noqa: RUF001 - dashes, signs and fractions of running text are the subject here

import html
import re

from distilray.corpus.wikitext.arguments import HOLE

LIST_MARK = "\ue001"  # begins a list item; a private-use character, which no page needs

_APOSTROPHE = "\ue003"  # one that stands beside the quotes of italic
_MARKUP_LINE = re.compile(r"\{\||\|\}|\||!\s|!!|\}\}|-{4,}|={2,}")
_MARKUP_LEFT = re.compile(r"\{\{|\}\}|\{\||\|\}")

_INNERMOST_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_QUOTE_RUN = re.compile(r"'{2,}")

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]\w{1,30});")  # one that was escaped twice
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")

# Markup that the parser left: a sign that a paragraph with it has, and what to replace. White space comes after.
_LEFTOVERS: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (sign, re.compile(pattern), replacement)
    for sign, pattern, replacement in (
        ("__", r"__[A-Z]{3,}__", ""),
        ("[", r"\[(?:https?:|ftp:|mailto:)?//?\S+\s([^\[\]]*)\]", r"\1"),
        ("://", r"(?:https?|ftp)://[^\s)\]]+", HOLE),
        ("<", r"</?[a-zA-Z][a-zA-Z0-9]{0,14}(?:\s[^<>]*)?/?>", ""),
        ("[[", r"\[\[", ""),
        ("]]", r"\]\]", ""),
    )
)
# What a hole in a sentence looks like, when white space is single spaces. Most paragraphs have none of it.
_HOLE_SIGNS = (HOLE, '""', '" "', "“”", "“ ”")
_NO_BEGINNING = frozenset(",;:.)]")
_HOLES = (
    re.compile(r"[(\[](?:[ ,;:/–—)\]-]|(?:or|and) ?\))"),
    re.compile(r"[,;:–](?: ?[,;]|[)\]])"),
    re.compile(r" [,.;:!?)\]]"),
)
# How holes are mended, in this order: what one leaves the next may have to mend.
_REPAIRS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" ?\([^()]*\ufffc[^()]*\)", ""),  # an aside with something that is not words
        (r"([(\[])[ ,;:/–—-]+(?=[)\]])", r"\1"),  # brackets that hold separators only
        (r" ?(?:\( ?(?:or|and)? ?\)|\[ ?\])", ""),
        (r"([(\[]) ?(?:[,;:] ?)+", r"\1"),
        (r" ?(?:[,;:–] ?)+([)\]])", r"\1"),
        (r"([,;:])(?: ?[,;])+", r"\1"),
        (r"(?<!\S)(?:\" ?\"|“ ?”)(?!\S)", ""),
        (r" +([,.;:!?])(?=\s|$|[\"')\]])", r"\1"),
        (r"([(\[]) +", r"\1"),
        (r" +([)\]])", r"\1"),
        (r" {2,}", " "),
        (r"^[ ,;:.)\]]+(?!\.)", ""),
    )
)


def prose(text: str) -> str:
    """The paragraphs of prose of a page, each on one line, with a blank line between."""
    repaired = [_repair(paragraph) for paragraph in _paragraphs(_INVISIBLE.sub("", text).split("\n"))]
    return "\n\n".join(paragraph for paragraph in repaired if any(map(str.isalpha, paragraph)))


def _paragraphs(lines: list[str]) -> list[str]:
    paragraphs: list[str] = []
    current: list[str] = []
    for line in [*lines, ""]:
        words, is_list, _ = line.partition(LIST_MARK)
        words = _style_free(words).strip()
        is_prose = words and not _MARKUP_LINE.match(words)
        if is_prose:
            current.append(words)
        if current and (is_list or not is_prose):
            paragraphs.append(" ".join(current))
            current = []
    return paragraphs


def _style_free(line: str) -> str:
    """A line without the quotes of bold and italic. In `l'''air''` one of the three is an apostrophe."""
    if "''" not in line:
        return line
    runs = [len(run) for run in _QUOTE_RUN.findall(line)]
    if sum(run in (3, 5) for run in runs) % 2 and sum(run in (2, 5) for run in runs) % 2:
        line = _with_apostrophe(line)
    return _QUOTE_RUN.sub(lambda run: "'" if len(run[0]) == 4 else "'" * max(0, len(run[0]) - 5), line).replace(
        _APOSTROPHE, "'"
    )


def _with_apostrophe(line: str) -> str:
    """One run of three becomes an apostrophe and two, as MediaWiki chooses: after one letter, a word, else a space."""

    def rank(run: re.Match[str]) -> int:
        before = line[max(0, run.start() - 2) : run.start()]
        if before[-1:] in ("", " "):
            return 2
        return 0 if before[:1] == " " or len(before) == 1 else 1

    chosen = min((run for run in _QUOTE_RUN.finditer(line) if len(run[0]) == 3), key=rank, default=None)
    return line if chosen is None else f"{line[: chosen.start()]}{_APOSTROPHE}{line[chosen.start() + 1 :]}"


def _repair(paragraph: str) -> str:
    if "{{" in paragraph:
        before = None
        while before != paragraph:
            before, paragraph = paragraph, _INNERMOST_TEMPLATE.sub("", paragraph)
    if _MARKUP_LEFT.search(paragraph):
        return ""  # an unclosed template or table runs through it
    if "&" in paragraph:
        paragraph = _ENTITY.sub(lambda entity: html.unescape(entity[0]), paragraph)
    for sign, pattern, replacement in _LEFTOVERS:
        if sign in paragraph:
            paragraph = pattern.sub(replacement, paragraph)
    paragraph = " ".join(paragraph.split())
    if _has_hole(paragraph):
        for pattern, replacement in _REPAIRS:
            paragraph = pattern.sub(replacement, paragraph)
    return paragraph.strip()


def _has_hole(paragraph: str) -> bool:
    return (
        paragraph[:1] in _NO_BEGINNING
        or any(sign in paragraph for sign in _HOLE_SIGNS)
        or any(hole.search(paragraph) for hole in _HOLES)
    )
