"""Which cleaned texts become documents: a table of reasons to drop one, and the first that holds is counted.

The language of a text by its byte n-grams (langid, Lui and Baldwin 2012); the model is in the `py3langid` wheel.
"""

import re
import string
from collections.abc import Callable, Sequence
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

from distilray.config.corpus import FilterConfig
from distilray.corpus.writing_systems import COMBINING_MARKS, SOUTH_EAST_ASIAN, count_words
from distilray.errors import InputError

# Characters that are looked at, more of them while it is in doubt: the model reads only about 2 MB/s.
_LOOKS = (128, 512, 2000)
_SURE = 0.9
_LABELS = {"nb": "no", "fil": "tl"}  # the model's codes for other names of its languages


def detect_language(text: str) -> tuple[str, float]:
    """The most likely language by its ISO 639 code, and the probability of it among the languages of the model.

    Only the beginning of a text is read. One without letters is of no language: the probability is about 0.01.
    """
    for look in _LOOKS:
        language, probability = _identifier().classify(text[:look])
        if probability >= _SURE or len(text) <= look:
            break
    return language, probability


def is_language(text: str, language: str, *, min_probability: float) -> bool:
    """Return whether a text is of a language, with at least this probability."""
    most_likely, probability = detect_language(text)
    return most_likely == _LABELS.get(language, language) and probability >= min_probability


def check_language(language: str) -> None:
    """Finds a recipe's mistake before the work begins.

    Raises:
        InputError: the model does not know the language.
    """
    known = sorted({*_identifier().labels, *_LABELS})
    if language not in known:
        raise InputError(f"filters.language: '{language}' is not one of the languages known: {', '.join(known)}")


@cache
def _identifier() -> LanguageIdentifier:
    # Half a second and 120 MB, hence once for each process and only where a recipe names a language.
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


_ASCII = bytes(range(128))
_NO_LETTERS = bytes(set(range(256)) - set(string.ascii_letters.encode()))
_SPACES_AND_OTHERS = bytes(code for code in range(256) if code >= 128 or chr(code).isspace())
_ENDS = (".", "!", "?", "…")
_CLOSING = "\"')]}”’»›“‘«‹）」』】》〉〕］"  # noqa: RUF001 - the signs themselves
# Ends of sentences in other scripts; Greek asks with a semicolon, and Thai and its neighbours need no sign.
_OTHER_END = re.compile(rf"(?:[。！？｡．‼⁇⁈⁉।॥؟۔։።፧။។៕།༎᠃꓿]|[\u0370-\u03ff];|[{SOUTH_EAST_ASIAN}])\Z")  # noqa: RUF001
_MARK = re.compile(f"[{COMBINING_MARKS}]")

# Signs that stand alone: ASCII and other punctuation, and Han characters.
_SIGNS = r"!-/:-@\[-`{-~¡§«¶·»¿‐-‧‰-⁞、-〃〈-】！？㐀-䶿一-鿿豈-﫿"  # noqa: RUF001
_BASIC_TOKEN = re.compile(rf"[{_SIGNS}]|[^\s{_SIGNS}]+")
_ASCII_SIGNS = string.punctuation.encode()
_SIGNS_TO_SPACES = bytes.maketrans(_ASCII_SIGNS, b" " * len(_ASCII_SIGNS))
_NO_SIGNS = bytes(set(range(256)) - set(_ASCII_SIGNS))


def count_basic_tokens(sentences: Sequence[str]) -> int:
    """Words and single signs, as BERT's basic tokenizer divides a text before WordPiece (Devlin et al. 2019)."""
    others = " ".join(sentence for sentence in sentences if not sentence.isascii())
    # ASCII is counted as bytes, for speed.
    text = " ".join(sentence for sentence in sentences if sentence.isascii()).encode()
    words = len(text.translate(_SIGNS_TO_SPACES).split())
    return len(_BASIC_TOKEN.findall(others)) + words + len(text.translate(None, _NO_SIGNS))


def histogram_bin(words: int) -> int:
    """The lower bound of the bin that holds a count: 0, 1, 2, 4, 8, ..."""
    return 1 << (words.bit_length() - 1) if words else 0


def text_drop_reason(sentences: Sequence[str], config: FilterConfig) -> str | None:
    """Why a cleaned text is no document, None when it is one."""
    return next((reason for reason, holds in TEXT_REASONS if holds(sentences, config)), None)


def _letter_fraction(sentences: Sequence[str]) -> float:
    # ASCII is counted as bytes, for speed.
    text = "".join(sentences).encode(errors="replace")
    others = text.translate(None, _ASCII).decode()
    signs = len(text.translate(None, _SPACES_AND_OTHERS)) + sum(not sign.isspace() for sign in others)
    letters = len(text.translate(None, _NO_LETTERS)) + sum(map(str.isalpha, others)) + len(_MARK.findall(others))
    return letters / signs if signs else 0.0


def _list_fraction(sentences: Sequence[str]) -> float:
    return 1 - sum(map(_has_end, sentences)) / len(sentences) if sentences else 0.0


def _has_end(sentence: str) -> bool:
    closed = sentence.rstrip(_CLOSING)
    return closed.endswith(_ENDS) or (not closed.isascii() and _OTHER_END.search(closed) is not None)


def _repeated_fraction(sentences: Sequence[str]) -> float:
    different = len({sentence.casefold() for sentence in sentences})
    return 1 - different / len(sentences) if sentences else 0.0


def _is_of_another_language(sentences: Sequence[str], config: FilterConfig) -> bool:
    if config.language is None:
        return False
    text = " ".join(sentences)
    return not is_language(text, config.language, min_probability=config.min_language_probability)


# Decided on the sentences that are left after cleaning, the cheapest first.
TEXT_REASONS: tuple[tuple[str, Callable[[Sequence[str], FilterConfig], bool]], ...] = (
    ("too_few_sentences", lambda sentences, config: len(sentences) < config.min_sentences),
    ("too_short", lambda sentences, config: count_words(sentences) < config.min_words),
    ("list_like", lambda sentences, config: _list_fraction(sentences) > config.max_list_fraction),
    ("too_few_letters", lambda sentences, config: _letter_fraction(sentences) < config.min_letter_fraction),
    ("repeated_lines", lambda sentences, config: _repeated_fraction(sentences) > config.max_repeated_fraction),
    ("wrong_language", _is_of_another_language),
)
