"""Text into sentences."""

import re

import sentencex

_LANGUAGE = "en"
# Abbreviations that never end a sentence: what they belong to comes next. `sentencex` knows most others.
_ALWAYS_BEFORE = frozenset(
    {"approx.", "ca.", "cca.", "cf.", "e.g.", "est.", "esp.", "ft.", "i.e.", "incl.", "resp.", "viz.", "vol.", "vols."}
)
# Those that end a sentence, but not before a number.
_BEFORE_NUMBER = frozenset(
    {"art.", "ch.", "chap.", "ed.", "lit.", "nos.", "opp.", "para.", "pt.", "ser.", "sp.", "v.", "vers."}
)
# A sentence that ends inside brackets, before one that begins; the word is too long for an abbreviation.
_AFTER_BRACKET = re.compile(r"(?:(?<=[a-z0-9]{4}[.!?][)\]])|(?<=[a-z0-9]{3}\)[.!?]\))) (?=[\"“(]?[A-Z])")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, with single spaces inside; none goes across a paragraph break (a blank line).

    What goes on in lower case or with a closing sign after a full stop is one sentence: an abbreviation or a quoted
    question came before.
    """
    return [sentence for paragraph in _paragraphs(text) for sentence in _split_paragraph(paragraph)]


def _paragraphs(text: str) -> list[str]:
    paragraphs, current = [], []
    for line in [*text.split("\n"), ""]:
        if words := line.split():
            current += words
        elif current:
            paragraphs.append(" ".join(current))
            current = []
    return paragraphs


def _split_paragraph(paragraph: str) -> list[str]:
    sentences: list[str] = []
    gap = ""  # what stands between the piece before and this one
    for piece in sentencex.segment(_LANGUAGE, paragraph):  # pieces keep the spaces between them
        sentence = piece.strip()
        if not sentence:
            continue
        if sentences and _goes_on(sentences[-1], sentence):
            sentence = sentences.pop() + gap + sentence
        if ") " in sentence or "] " in sentence:
            sentences += _AFTER_BRACKET.split(sentence)
        else:
            sentences.append(sentence)
        gap = " " if piece[-1].isspace() else ""
    return sentences


def _goes_on(before: str, piece: str) -> bool:
    """Whether a piece belongs to the sentence before it."""
    first = piece[0]
    if first.islower() or first in ",;:)]" or not any(map(str.isalnum, piece)):
        return True
    last = before[before.rfind(" ") + 1 :].lstrip("([\"'").lower()
    return last in _ALWAYS_BEFORE or (last in _BEFORE_NUMBER and first.isdigit())
