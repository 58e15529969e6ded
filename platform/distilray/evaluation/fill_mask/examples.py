"""Masked texts with their answers, parsed from rows of a file or made from plain text."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distilray.config.evaluation import FillMaskDataConfig
from distilray.formats.bad_rows import BadRow
from distilray.runtime.seeding import hash_integers

MASKS = re.compile(r"<mask>|\[MASK\]")
# Special tokens of BERT and RoBERTa around a text that was decoded without removing them.
_OPENING = re.compile(r"\s*(?:(?:\[PAD\]|<pad>|\[CLS\]|<s>)\s*)+")
_CLOSING = re.compile(r"(?:\[SEP\]|</s>|\[PAD\]|<pad>|\s)+")
_SEPARATOR = re.compile(r"\s*</s>(?:\s*</s>)*\s*")  # between two texts in RoBERTa's format
_STRAY = re.compile(r"\[CLS\]|\[PAD\]")
_WORD = re.compile(r"\[SEP\]|[^\W_]+(?:['\u2019-][^\W_]+)*")
_SEED_STREAM = 301  # separates these random numbers from other uses of the seed


@dataclass(frozen=True)
class MaskedExample:
    """A text with masks and answers.

    Attributes:
        row: line or Parquet row in the file, from 1.
        fragments: text around the masks, one more than there are masks.
        answers: true answers of the first masks; further masks are in the input but not scored.
    """

    row: int
    fragments: tuple[str, ...]
    answers: tuple[str, ...]


def bad_row(row: int, reason: str, detail: str) -> BadRow:
    """Return a bad row without a file name; the chunk adds it."""
    return BadRow("", 0, reason, detail, row=row)


def parse_example(row: int, text: object, answers: object, data: FillMaskDataConfig) -> MaskedExample | BadRow:
    """Parse a row from its text, a string, and its answers, a string or a list of strings."""
    if not isinstance(text, str):
        return bad_row(row, "text_missing", f"'{data.text_column}' is not a string")
    listed = [answers] if isinstance(answers, str) else answers
    if not isinstance(listed, list) or not all(isinstance(answer, str) for answer in listed):
        return bad_row(row, "answers_missing", f"'{data.answer_column}' is neither a string nor a list of strings")
    if not _is_valid_unicode(text, *listed):
        return bad_row(row, "not_utf8", "contains invalid UTF-8 or a lone surrogate")
    text = _without_special_tokens(text)
    stray = _STRAY.search(text)
    if stray:
        return _special_token(row, stray[0])
    fragments = tuple(MASKS.split(text))
    masks = len(fragments) - 1
    if not masks:
        return bad_row(row, "no_mask", "no <mask> or [MASK] in the text")
    if data.scored_masks == "first":
        listed = listed[:1] or [""]
    elif len(listed) != masks:
        return bad_row(row, "mask_count", f"{masks} masks and {len(listed)} answers")
    if not all(answer.strip() for answer in listed):
        return bad_row(row, "answer_empty", f"answer {[bool(answer.strip()) for answer in listed].index(False) + 1}")
    return MaskedExample(row, fragments, tuple(listed))


def mask_line(row: int, line: str, *, fraction: float, seed: int) -> MaskedExample | BadRow:
    """Mask a fraction of the words in a line of plain text, but at least one.

    The choice depends only on the seed and the line, not on the file or the reader. A word consists of letters and
    digits, with hyphens and apostrophes inside, and is always masked as a whole.
    """
    if not _is_valid_unicode(line):
        return bad_row(row, "not_utf8", "the line is not UTF-8; convert the file")
    line = _without_special_tokens(line)
    if MASKS.search(line):
        return bad_row(row, "has_mask", "plain text contains a mask; use a format that also has answers")
    if _STRAY.search(line):
        return _special_token(row, "[CLS] or [PAD]")
    words = [word for word in _WORD.finditer(line) if not word[0].startswith("[")]
    if not words:
        return bad_row(row, "no_word", "no word that could be masked")
    key = int.from_bytes(hashlib.sha256(line.encode()).digest()[:8], "little")
    order = np.argsort(hash_integers(seed, _SEED_STREAM, key, np.arange(len(words))), kind="stable")
    chosen = [words[index] for index in sorted(order[: max(1, round(fraction * len(words)))].tolist())]
    edges = [0, *(edge for word in chosen for edge in word.span()), len(line)]
    fragments = tuple(line[edges[at] : edges[at + 1]] for at in range(0, len(edges), 2))
    return MaskedExample(row, fragments, tuple(word.group() for word in chosen))


def _special_token(row: int, token: str) -> BadRow:
    return bad_row(row, "special_token", f"{token} inside the text; use one text, or two with [SEP] between them")


def _without_special_tokens(text: str) -> str:
    """Remove special tokens and padding around a text, because the tokenizer adds its own.

    `[SEP]` between two texts is kept. A text that contains `<s>` further inside is HTML and is returned unchanged.
    """
    opening = _OPENING.match(text)
    inner = text[opening.end() :] if opening else text
    if "<s>" in inner:
        return text
    matches = list(_CLOSING.finditer(inner))  # a pattern anchored at the end would be retried at every position
    if matches and matches[-1].end() == len(inner) and matches[-1][0].strip():
        inner = inner[: matches[-1].start()]
    return _SEPARATOR.sub(" [SEP] ", inner) if opening and "<s>" in opening[0] else inner


def _is_valid_unicode(*strings: str) -> bool:
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return False
    return True


def fill_masks(fragments: Sequence[str], answers: Sequence[str]) -> str:
    """Return the text with an answer at each mask."""
    return "".join(part for pair in zip(fragments, [*answers, ""], strict=True) for part in pair)
