"""What Project Gutenberg puts around a book: header, credits, licence."""

# ruff: noqa: RUF001 - the apostrophe of running text is one of the subjects here

import re
from dataclasses import dataclass

_WORK = r"(?:the |this )?Project Gutenberg(?:'s|’s)?"
_FLAGS = re.IGNORECASE | re.MULTILINE
_HEADER_LIMIT = 60_000  # characters; the longest old "small print" has 15,000
_LICENCE_LIMIT = 60_000  # characters; the licence has 19,000
_NEAR = 1_000  # characters between the two ways to say that a book ends
_EDGE_PARAGRAPHS = 12  # notes of the transcriber stand among the first
_LATE_PARAGRAPHS = 40  # or under a heading among the last

# The stars may close on the line after the next, behind a long title, or never.
_START = re.compile(
    rf"^[ \t]*\*\*\*[ \t]*START OF {_WORK} E-?(?:BOOK|TEXT)(?:[^*\n]*(?:\n[^*\n]+){{0,2}}\*\*)?[^\n]*\n", _FLAGS
)
_SMALL_PRINT = re.compile(r"^[ \t]*\*+[ \t]*END[ \t]*\*+[ \t]*THE SMALL PRINT[^\n]*\n", _FLAGS)
_END = re.compile(rf"^[ \t]*\*\*\*[ \t]*END OF {_WORK} E-?(?:BOOK|TEXT)", _FLAGS)
_PLAIN_END = re.compile(rf"\n[ \t]*\n[ \t]*End of {_WORK}[ \t]", _FLAGS)

_TITLE = re.compile(r"^Title:[ \t]*(\S[^\n]*(?:\n[ \t]+\S[^\n]*)*)", _FLAGS)
_CREDITS = re.compile(
    r"[\W_]*(?:(?:this )?e-?(?:text|book)s? (?:was |were )?)?"
    r"(?:produced|prepared|transcribed|scanned|created|typed|proofread) (?:and \w+ )?(?:by|from)\b",
    re.IGNORECASE,
)
_NOTE = re.compile(r"[\W_]*transcribers?['’]?s?['’]?(?: \w+)? notes?\b", re.IGNORECASE)
_NOTES_HEADING = re.compile(r"[\W_]*transcribers?['’]?s?['’]?(?: \w+)? notes?[\W_]*", re.IGNORECASE)
_BRACKETED_NOTE = re.compile(r"\[transcriber['’]?s['’]? notes?[^\[\]]{0,4000}\]", re.IGNORECASE)
_PARAGRAPH_BREAK = re.compile(r"\n(?:[ \t]*\n)+")


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
    start = _body_start(text[: min(end, _HEADER_LIMIT)])
    if start == 0 and end == len(text):
        return Book("", text)
    return Book(_title(text[:start]), _without_notes(text[start:end]))


def _body_start(text: str) -> int:
    found = [match.end() for pattern in (_START, _SMALL_PRINT) for match in pattern.finditer(text)]
    return max(found, default=0)


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


def _without_notes(body: str) -> str:
    """The body without credits and notes of the transcriber, where these are certain."""
    paragraphs = _PARAGRAPH_BREAK.split(_BRACKETED_NOTE.sub("", body).strip("\n"))
    late = range(max(len(paragraphs) // 2, len(paragraphs) - _LATE_PARAGRAPHS), len(paragraphs))
    end = next((number for number in late if _NOTES_HEADING.fullmatch(paragraphs[number])), len(paragraphs))
    edge = [part for part in paragraphs[: min(_EDGE_PARAGRAPHS, end)] if not _is_note(part)]
    return "\n\n".join([*edge, *paragraphs[_EDGE_PARAGRAPHS:end]]).strip("\n")


def _is_note(paragraph: str) -> bool:
    return bool(_CREDITS.match(paragraph) or _NOTE.match(paragraph))
