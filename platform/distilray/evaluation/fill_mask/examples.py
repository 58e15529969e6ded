"""Texts with masks and their answers, and what makes a row unusable."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distilray.config.evaluation import FillMaskDataConfig
from distilray.formats.bad_rows import BadRow
from distilray.runtime.seeding import hash_integers

MASKS = re.compile(r"<mask>|\[MASK\]")
# What a decoded text has around it when its special tokens were kept, of BERT and of RoBERTa.
_OPENING = re.compile(r"\s*(?:(?:\[PAD\]|<pad>|\[CLS\]|<s>)\s*)+")
_CLOSING = re.compile(r"(?:\[SEP\]|</s>|\[PAD\]|<pad>|\s)+")
_SEPARATOR = re.compile(r"\s*</s>(?:\s*</s>)*\s*")  # of two texts, as RoBERTa has it
_STRAY = re.compile(r"\[CLS\]|\[PAD\]")
_WORD = re.compile(r"\[SEP\]|[^\W_]+(?:['\u2019-][^\W_]+)*")
_USE = 301  # what a seed is used for


@dataclass(frozen=True)
class MaskedExample:
    """A text with masks.

    Attributes:
        row: of its file, from 1: the line, or the row of Parquet.
        fragments: the text between the masks, so one more than there are masks.
        answers: what is missing at the first masks; those behind them are shown and not scored.
    """

    row: int
    fragments: tuple[str, ...]
    answers: tuple[str, ...]


def bad_row(row: int, reason: str, detail: str) -> BadRow:
    """Return a row that cannot be scored; its file is that of the part."""
    return BadRow("", 0, reason, detail, row=row)


def parse_example(row: int, text: object, answers: object, data: FillMaskDataConfig) -> MaskedExample | BadRow:
    """The example of two columns of a row: a string, and a string or a list of strings."""
    if not isinstance(text, str):
        return bad_row(row, "text_missing", f"'{data.text_column}' holds no string")
    found = [answers] if isinstance(answers, str) else answers
    if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
        return bad_row(row, "answers_missing", f"'{data.answer_column}' holds neither a string nor a list of strings")
    if not _is_text(text, *found):
        return bad_row(row, "not_utf8", "holds bytes or half of a surrogate pair, which are no characters")
    text = _without_special_tokens(text)
    stray = _STRAY.search(text)
    if stray:
        return _special_token(row, stray[0])
    fragments = tuple(MASKS.split(text))
    masks = len(fragments) - 1
    if not masks:
        return bad_row(row, "no_mask", "no <mask> or [MASK] in the text")
    if data.scored_masks == "first":
        found = found[:1] or [""]
    elif len(found) != masks:
        return bad_row(row, "mask_count", f"{masks} masks and {len(found)} answers")
    if not all(answer.strip() for answer in found):
        return bad_row(row, "answer_empty", f"answer {[bool(answer.strip()) for answer in found].index(False) + 1}")
    return MaskedExample(row, fragments, tuple(found))


def mask_line(row: int, line: str, *, fraction: float, seed: int) -> MaskedExample | BadRow:
    """A line of plain text with `fraction` of its words masked, one at least.

    Which words depends on the seed and the line alone, so neither on the file nor on who reads it. Words are letters
    and digits, with hyphens and apostrophes inside; a mask takes the whole word.
    """
    if not _is_text(line):
        return bad_row(row, "not_utf8", "a line that is not UTF-8; convert the file")
    line = _without_special_tokens(line)
    if MASKS.search(line):
        return bad_row(row, "has_mask", "plain text with a mask in it; give its answers in another format")
    if _STRAY.search(line):
        return _special_token(row, "[CLS] or [PAD]")
    words = [word for word in _WORD.finditer(line) if not word[0].startswith("[")]
    if not words:
        return bad_row(row, "no_word", "no word that could be masked")
    key = int.from_bytes(hashlib.sha256(line.encode()).digest()[:8], "little")
    order = np.argsort(hash_integers(seed, _USE, key, np.arange(len(words))), kind="stable")
    chosen = [words[index] for index in sorted(order[: max(1, round(fraction * len(words)))].tolist())]
    edges = [0, *(edge for word in chosen for edge in word.span()), len(line)]
    fragments = tuple(line[edges[at] : edges[at + 1]] for at in range(0, len(edges), 2))
    return MaskedExample(row, fragments, tuple(word.group() for word in chosen))


def _special_token(row: int, token: str) -> BadRow:
    return bad_row(row, "special_token", f"{token} inside the text; write one text, or two with [SEP] between them")


def _without_special_tokens(text: str) -> str:
    """Return a text without the special tokens and the padding around it, which the model's own tokenizer adds.

    `[SEP]` between two texts stays. `<s>` inside a text is HTML, and the text stays as it is.
    """
    opening = _OPENING.match(text)
    inner = text[opening.end() :] if opening else text
    if "<s>" in inner:
        return text
    runs = list(_CLOSING.finditer(inner))  # a search for the last one alone would try every position
    if runs and runs[-1].end() == len(inner) and runs[-1][0].strip():
        inner = inner[: runs[-1].start()]
    return _SEPARATOR.sub(" [SEP] ", inner) if opening and "<s>" in opening[0] else inner


def _is_text(*strings: str) -> bool:
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return False
    return True


def fill_masks(fragments: Sequence[str], answers: Sequence[str]) -> str:
    """The text with something at each of its masks."""
    return "".join(part for pair in zip(fragments, [*answers, ""], strict=True) for part in pair)
