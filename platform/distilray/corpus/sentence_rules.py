"""Rules of languages for the full stop: abbreviations, initials and ordinals, read from `sentence_rules.yaml`."""

# ruff: noqa: RUF001 - dashes and letters of many languages are the subject here

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

_BEFORE_WORD = re.compile(r".*[–—/'’]|^[(\[\"'„“«]+")
_NUMBER = re.compile(r"[(\[]?(?:[A-Z]?\d|[IVX]{2,}\b|[B-HJ-Z]\b(?!\.))")
_SMALL_NUMBER = re.compile(r"\d{1,3}(?!\d|\.)")
_INITIALS = re.compile(r"(?:[^\W\d_]\.-)+[^\W\d_]\.")
_FIRST_INITIALS = re.compile(r"(?:[^\W\d_]\. ?)*[^\W\d_]\.")
_MAX_INITIALS = 20
_CONSONANTS = "b-df-hj-np-tv-xzçčćďđłńňřśšşťźżžб-джзк-нп-тф-щ"
# A title or a name cut short, such as "Hl." or "Кн."; not the capital letters of "BMW."
_WITHOUT_VOWEL = re.compile(rf"[{_CONSONANTS.upper()}][{_CONSONANTS}]{{1,3}}\.")
_CUT_SHORT = re.compile(rf"[A-ZÀ-ÞĀ-ŽА-Я][^\W\d_]{{1,2}}\.|[{_CONSONANTS}]{{1,4}}\.")  # "Pág." or "str."
_ORDINAL = re.compile(r"(?:\d{1,3}|[IVXLC]+)\.")
_CAPITAL = r"[\"„“«(]?[A-ZÀ-ÖØ-ÞČĆĐİŁŚŞȘŠŽŹŻΆ-ΫА-ЯЁЄІЇ]"
_FIRST_WORD = re.compile(r"[\"'„“«»‘’(\[]*(\w+['’]?)")
_SAINTS = "ss."  # "SS. Peter and Paul"
_SEVERAL_NAMES = re.compile(r"[A-Z]\w+(?:, [A-Z]\w+)*,? (?:and|&) [A-Z]")


@dataclass(frozen=True)
class SentenceRules:
    """The rules of a language; the YAML file explains its keys.

    Attributes:
        known: last words of all abbreviations in lower case.
        boundary: an abbreviation that ends a sentence, before what begins one; None without such abbreviations.
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
        """Rules from an entry of the YAML file."""
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
        """Split a text behind each abbreviation that ends a sentence."""
        start = 0
        for end in self.boundary.finditer(sentence) if self.boundary else ():
            yield sentence[start : end.end() - 1]
            start = end.end()
        yield sentence[start:]

    def is_abbreviated(self, sentence: str, following: str) -> bool:
        """Return whether the full stop of `sentence` belongs to its last word, and `following` continues it."""
        start = sentence.rfind(" ") + 1
        last = sentence[start:]
        if len(sentence) < _MAX_INITIALS and _FIRST_INITIALS.fullmatch(sentence):
            return True  # "G. Verdi" begins with it
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
        if not self.always.isdisjoint(words) or (lower == _SAINTS and _SEVERAL_NAMES.match(following)):
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
        return bool(_WITHOUT_VOWEL.fullmatch(last) or (_CUT_SHORT.fullmatch(last) and _SMALL_NUMBER.match(following)))


@cache
def sentence_rules(language: str) -> SentenceRules:
    """Return the rules of a language by its ISO 639 code; empty ones for a language without an entry."""
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
