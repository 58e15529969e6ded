"""Sentence splitter: `sentencex`, corrected by full-stop rules for each language from `sentences.yaml`."""

# ruff: noqa: RUF001 - this module handles typographic characters

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import sentencex
import yaml

from distilray.corpus.writing_systems import join_lines

DEFAULT_LANGUAGE = "en"

_BEFORE_WORD = re.compile(r".*[–—/'’]|^[(\[\"'„“«]+")
_NUMBER = re.compile(r"[(\[]?(?:[A-Z]?\d|[IVX]{2,}\b|[B-HJ-Z]\b(?!\.))")
_SMALL_NUMBER = re.compile(r"\d{1,3}(?!\d|\.)")
_INITIALS = re.compile(r"(?:[^\W\d_]\.-)+[^\W\d_]\.")
_FIRST_INITIALS = re.compile(r"(?:[^\W\d_]\. ?)*[^\W\d_]\.")
_MAX_INITIALS = 20
_CONSONANTS = "b-df-hj-np-tv-xzçčćďđłńňřśšşťźżžб-джзк-нп-тф-щ"
# An abbreviated title or name such as "Hl." or "Кн.", but not an acronym such as "BMW."
_WITHOUT_VOWEL = re.compile(rf"[{_CONSONANTS.upper()}][{_CONSONANTS}]{{1,3}}\.")
_ABBREVIATED = re.compile(rf"[A-ZÀ-ÞĀ-ŽА-Я][^\W\d_]{{1,2}}\.|[{_CONSONANTS}]{{1,4}}\.")  # "Pág." or "str."
_ORDINAL = re.compile(r"(?:\d{1,3}|[IVXLC]+)\.")
_CAPITAL = r"[\"„“«(]?[A-ZÀ-ÖØ-ÞČĆĐİŁŚŞȘŠŽŹŻΆ-ΫА-ЯЁЄІЇ]"
_FIRST_WORD = re.compile(r"[\"'„“«»‘’(\[]*(\w+['’]?)")
_SAINTS = "ss."  # "SS. Peter and Paul"
_LIST_OF_NAMES = re.compile(r"[A-Z]\w+(?:, [A-Z]\w+)*,? (?:and|&) [A-Z]")


@dataclass(frozen=True)
class SentenceRules:
    """Rules of one language. The YAML file describes the keys.

    Attributes:
        known: last words of all abbreviations, in lower case.
        boundary: matches an abbreviation that ends a sentence; None if there are no such abbreviations.
    """

    always: frozenset[str]
    number: frozenset[str]
    closing: frozenset[str]
    final: frozenset[str]
    openers: frozenset[str]
    ordinals: bool
    known: frozenset[str]
    boundary: re.Pattern[str] | None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "SentenceRules":
        """Create the rules from an entry of the YAML file."""
        lists = {key: values.get(key, ()) for key in ("always", "number", "closing", "final")}
        openers = values.get("openers", ())
        return cls(
            **{key: frozenset(word.replace(" ", "") for word in words) for key, words in lists.items()},
            openers=frozenset(openers),
            ordinals=bool(values.get("ordinals")),
            known=frozenset(word.lower().rpartition(" ")[2] for word in (_SAINTS, *chain(*lists.values()))),
            boundary=_boundary(lists["closing"], openers, lists["final"]),
        )

    def split(self, sentence: str) -> Iterator[str]:
        """Split a text after each abbreviation that ends a sentence."""
        start = 0
        for end in self.boundary.finditer(sentence) if self.boundary else ():
            yield sentence[start : end.end() - 1]
            start = end.end()
        yield sentence[start:]

    def is_abbreviated(self, sentence: str, following: str) -> bool:
        """Return True if the full stop of `sentence` ends an abbreviation and `following` continues the sentence."""
        start = sentence.rfind(" ") + 1
        last = sentence[start:]
        if len(sentence) < _MAX_INITIALS and _FIRST_INITIALS.fullmatch(sentence):
            return True  # as in "G. Verdi"
        if not last[:-1].isalpha():
            if _INITIALS.fullmatch(last):
                return True
            last = _BEFORE_WORD.sub("", last)
        lower = last.lower()
        if lower not in self.known and not self.openers:
            return False
        words = [last, lower]
        if sentence[start - 2 : start - 1] == ".":  # "z. B." is listed as "z.b."
            before = sentence[sentence.rfind(" ", 0, start - 1) + 1 : start - 1]
            pair = _BEFORE_WORD.sub("", before) + last
            words += [pair, pair.lower()]
        if not self.always.isdisjoint(words) or (lower == _SAINTS and _LIST_OF_NAMES.match(following)):
            return True
        if not self.number.isdisjoint(words) and _NUMBER.match(following):
            return True
        if not self.openers or not self.final.isdisjoint(words):
            return False
        opener = _FIRST_WORD.match(following)
        if opener is not None and opener[1] in self.openers:
            return False
        if not self.closing.isdisjoint(words) or (self.ordinals and _ORDINAL.fullmatch(last)):
            return True
        return bool(_WITHOUT_VOWEL.fullmatch(last) or (_ABBREVIATED.fullmatch(last) and _SMALL_NUMBER.match(following)))


@cache
def sentence_rules(language: str) -> SentenceRules:
    """Return the rules of a language by its ISO 639 code; empty rules if it has no entry."""
    return SentenceRules.from_values(_entries().get(language, {}))


@cache
def _entries() -> dict[str, Any]:
    entries: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return entries


def _boundary(closing: Sequence[str], openers: Sequence[str], final: Sequence[str]) -> re.Pattern[str] | None:
    alternatives = []
    if closing and openers:
        alternatives.append(rf"{_any_of(closing)} (?=(?:{'|'.join(map(re.escape, openers))})\b)")
    if final:
        alternatives.append(rf"{_any_of(final)} (?={_CAPITAL})")
    return re.compile(rf"(?<![\w.])(?:{'|'.join(alternatives)})") if alternatives else None


def _any_of(words: Sequence[str]) -> str:
    return rf"(?i:{'|'.join(re.escape(word).replace(' ', ' ?') for word in words)})"


_CONTINUING = frozenset(",;:)]，、；：）」』】》〉")
_DASHES = "—–-"
# End of a sentence inside brackets, before another sentence. The last word must be too long for an abbreviation.
_BRACKET = re.compile(r"[.!?][)\]] ")
_AFTER_BRACKET = re.compile(r"(?:(?<=[a-z0-9]{4}[.!?][)\]])|(?<=[a-z0-9]{3}\)[.!?]\))) (?=[\"“(]?[A-Z])")

_BEFORE_NUMBER = re.compile(r"[。！？][」』”’）》]*(?=[0-9０-９])")
# Limits in characters, so that the time is linear.
_MAX_JOINED = 5000  # longer sentences are not joined with the next piece
_MAX_BRACKET = 1000  # an unclosed bracket is ignored after this distance
_WIDE_BRACKETS = (("（", "）"), ("「", "」"), ("『", "』"), ("“", "”"), ("《", "》"))
# The sentence continues after a quotation or a name if a particle (Japanese) or a verb of speaking (Chinese) follows.
_PARTICLE = re.compile(
    r"と(?!ころ|き|ても|もに|くに|りわけ)|の(?!ち)|は(?!い|じめ|る)|が(?!ん)|を|に(?!ほん|も)|へ|で(?!も|は|す)|って|という"
    r"|も(?!し|ちろん|う|っと|とも)|や(?!が|は)|など|か(?!つ|れ|の|な)|・"
)
_AFTER_NAME = re.compile(r"[のはがを](?![ちいじん])")
_SPEAKING = re.compile(r"[^，。！？]{0,6}[说說道问問喊叫答称稱]|的")

# Thai and Lao do not mark the end of a sentence. A space ends a clause; a clause of this length counts as a sentence.
_MIN_CLAUSE = 40  # characters
_CLAUSE_END = re.compile(
    r"(?<=[\u0e01-\u0e3a\u0e40-\u0e45\u0e47-\u0e4e\u0e81-\u0ecd]) (?=[\u0e01-\u0e44\u0e81-\u0ec4])"
)

_WITHOUT_FULL_STOP = frozenset(("th", "lo"))  # languages that use it only in abbreviations

# Khmer and Tibetan punctuation.
_KHMER_OR_TIBETAN_END = re.compile(r"(?<=[។៕།༎])(?![។៕།༎]) ?(?=\S)")


def split_sentences(text: str, language: str = DEFAULT_LANGUAGE) -> list[str]:
    """Split a text into sentences with single spaces. Sentences do not extend across paragraph breaks (blank lines).

    A sentence continues if the text after a full stop or question mark starts in lower case or with closing
    punctuation, since the mark then belongs to an abbreviation or a quotation.

    Args:
        text: paragraphs separated by blank lines.
        language: ISO 639 code, or a longer tag such as `zh-Hant`. Languages without rules use only `sentencex`.
    """
    language = language.lower().partition("-")[0]
    rules = sentence_rules(language)
    return [sentence for paragraph in _paragraphs(text) for sentence in _split_paragraph(paragraph, language, rules)]


def _paragraphs(text: str) -> list[str]:
    paragraphs: list[str] = []
    current: list[str] = []
    for line in [*text.split("\n"), ""]:
        if words := line.split():
            current.append(" ".join(words))
        elif current:
            paragraphs.append(current[0] if len(current) == 1 else join_lines(current))
            current = []
    return paragraphs


def _split_paragraph(paragraph: str, language: str, rules: SentenceRules) -> list[str]:
    sentences: list[str] = []
    gap = ""  # whitespace between the previous piece and this one
    for piece in _pieces(paragraph, language):  # pieces include the spaces between them
        sentence = piece.strip()
        if not sentence:
            continue
        if piece[0].isspace():
            gap = " "
        is_short = bool(sentences) and len(sentences[-1]) < _MAX_JOINED
        if is_short and _continues(sentences[-1], gap, sentence, language, rules):
            sentence = sentences.pop() + gap + sentence
        if (") " in sentence or "] " in sentence) and _BRACKET.search(sentence):
            sentences += _AFTER_BRACKET.split(sentence)
        else:
            sentences.append(sentence)
        gap = " " if piece[-1].isspace() else ""
    if rules.boundary is None:
        return sentences
    return [piece for sentence in sentences for piece in rules.split(sentence)]


def _pieces(paragraph: str, language: str) -> Iterator[str]:
    pieces: Iterator[str] = sentencex.segment(language, paragraph)
    if language in _SPLITTERS:
        return (sentence for piece in pieces for sentence in _SPLITTERS[language](piece))
    return pieces


def _before_numbers(piece: str) -> Iterator[str]:
    """Split Chinese or Japanese text before sentences that start with a number, outside brackets and quotes."""
    start = 0
    for end in _BEFORE_NUMBER.finditer(piece):
        sentence = piece[start : end.end()]
        if len(sentence) > _MAX_BRACKET or all(sentence.count(a) == sentence.count(b) for a, b in _WIDE_BRACKETS):
            yield sentence
            start = end.end()
    yield piece[start:]


def _clauses(piece: str) -> Iterator[str]:
    """Split Thai or Lao text at the spaces that end a clause."""
    start = 0
    for space in _CLAUSE_END.finditer(piece):
        if min(space.start() - start, len(piece) - space.end()) >= _MIN_CLAUSE:
            yield piece[start : space.end()]
            start = space.end()
    yield piece[start:]


_SPLITTERS: Mapping[str, Callable[[str], Iterable[str]]] = {
    **dict.fromkeys(("zh", "yue", "wuu", "ja"), _before_numbers),
    **dict.fromkeys(("th", "lo"), _clauses),
    **dict.fromkeys(("km", "bo", "dz"), _KHMER_OR_TIBETAN_END.split),
}


def _continues(before: str, gap: str, piece: str, language: str, rules: SentenceRules) -> bool:
    """Return True if a piece continues the sentence before it."""
    first = piece[0]
    if first.islower() and not "\u10d0" <= first <= "\u10ff":  # Georgian has no capital letters
        return True
    if not first.isalnum():
        if first in _CONTINUING or not any(map(str.isalnum, piece)):
            return True
        if first in _DASHES:
            return not gap or piece[1:].lstrip()[:1].islower()
    if before[-1] != ".":
        continues = _CONTINUES_AFTER_QUOTE.get(language)
        return continues(before, piece) if continues else not gap and language == "ko"
    if language in _WITHOUT_FULL_STOP:
        return True
    is_number = first.isdigit() and before[-2:-1].isdigit()
    if not gap and (is_number or language == "ko" or before[-2:-1] in ("", " ") or piece[1:2] == "."):
        return True  # the full stop is inside a number, starts a name (.NET) or is one of several (a.C.)
    if is_number and language == "ko":
        return True  # 1990. 5. 3.
    return rules.is_abbreviated(before, piece)


def _continues_in_japanese(before: str, piece: str) -> bool:
    return bool((_AFTER_NAME if before[-1] == "。" else _PARTICLE).match(piece))


def _continues_in_chinese(before: str, piece: str) -> bool:
    return before[-1] in "》〉" or (before[-1] in "”’」』" and _SPEAKING.match(piece) is not None)


_CONTINUES_AFTER_QUOTE: Mapping[str, Callable[[str, str], bool]] = {
    "ja": _continues_in_japanese,
    "zh": _continues_in_chinese,
    "yue": _continues_in_chinese,
    "wuu": _continues_in_chinese,
}
