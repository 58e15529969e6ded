"""Document filters: a table of reasons to drop a cleaned text. The first reason that applies is counted.

Languages are identified by byte n-grams (langid.py, Lui and Baldwin 2012). The `py3langid` wheel contains the model.
"""

import re
import string
from collections.abc import Callable, Sequence
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

from distilray.config.corpus import FilterConfig
from distilray.corpus.writing_systems import COMBINING_MARKS, SOUTH_EAST_ASIAN, count_words
from distilray.errors import InputError

_ASCII = bytes(range(128))
_NO_LETTERS = bytes(set(range(256)) - set(string.ascii_letters.encode()))
_SPACES_AND_OTHERS = bytes(code for code in range(256) if code >= 128 or chr(code).isspace())
_ENDS = (".", "!", "?", "…")
_CLOSING = "\"')]}”’»›“‘«‹）」』】》〉〕］"  # noqa: RUF001 - the signs themselves
# Sentence ends in other scripts. Greek uses a semicolon as question mark; Thai and related scripts need no sign.
_OTHER_END = re.compile(rf"(?:[。！？｡．‼⁇⁈⁉।॥؟۔։።፧။។៕།༎᠃꓿]|[\u0370-\u03ff];|[{SOUTH_EAST_ASIAN}])\Z")  # noqa: RUF001
_MARK = re.compile(f"[{COMBINING_MARKS}]")

# Signs that are tokens of their own: ASCII and other punctuation, and Han characters.
_SIGNS = r"!-/:-@\[-`{-~¡§«¶·»¿‐-‧‰-⁞、-〃〈-】！？㐀-䶿一-鿿豈-﫿"  # noqa: RUF001
_BASIC_TOKEN = re.compile(rf"[{_SIGNS}]|[^\s{_SIGNS}]+")
_ASCII_SIGNS = string.punctuation.encode()
_SIGNS_TO_SPACES = bytes.maketrans(_ASCII_SIGNS, b" " * len(_ASCII_SIGNS))
_NO_SIGNS = bytes(set(range(256)) - set(_ASCII_SIGNS))

# Prefix lengths in characters, tried until the model is confident. It only reads about 2 MB/s.
_PREFIX_LENGTHS = (128, 512, 2000)
_CONFIDENT = 0.9
_LABELS = {"nb": "no", "fil": "tl"}  # codes that the model spells differently


def text_drop_reason(sentences: Sequence[str], config: FilterConfig) -> str | None:
    """Return the first reason to drop a cleaned text, or None to keep it."""
    return next((reason for reason, applies in TEXT_REASONS if applies(sentences, config)), None)


def count_basic_tokens(sentences: Sequence[str]) -> int:
    """Count the tokens of BERT's basic tokenizer, words and single signs, before WordPiece (Devlin et al. 2019)."""
    others = " ".join(sentence for sentence in sentences if not sentence.isascii())
    # ASCII is counted as bytes, for speed.
    text = " ".join(sentence for sentence in sentences if sentence.isascii()).encode()
    words = len(text.translate(_SIGNS_TO_SPACES).split())
    return len(_BASIC_TOKEN.findall(others)) + words + len(text.translate(None, _NO_SIGNS))


def histogram_bin(words: int) -> int:
    """Return the lower bound of the bin of a word count: 0, 1, 2, 4, 8, ..."""
    return 1 << (words.bit_length() - 1) if words else 0


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
    unique = len({sentence.casefold() for sentence in sentences})
    return 1 - unique / len(sentences) if sentences else 0.0


def _is_in_other_language(sentences: Sequence[str], config: FilterConfig) -> bool:
    if config.language is None:
        return False
    text = " ".join(sentences)
    return not is_language(text, config.language, min_probability=config.min_language_probability)


# Applied to the sentences that remain after cleaning, the cheapest first.
TEXT_REASONS: tuple[tuple[str, Callable[[Sequence[str], FilterConfig], bool]], ...] = (
    ("too_few_sentences", lambda sentences, config: len(sentences) < config.min_sentences),
    ("too_short", lambda sentences, config: count_words(sentences) < config.min_words),
    ("list_like", lambda sentences, config: _list_fraction(sentences) > config.max_list_fraction),
    ("too_few_letters", lambda sentences, config: _letter_fraction(sentences) < config.min_letter_fraction),
    ("repeated_lines", lambda sentences, config: _repeated_fraction(sentences) > config.max_repeated_fraction),
    ("wrong_language", _is_in_other_language),
)


def detect_language(text: str) -> tuple[str, float]:
    """Return the ISO 639 code of the most likely language and its probability.

    Only the start of the text is read. A text without letters has a probability of about 0.01.
    """
    for length in _PREFIX_LENGTHS:
        language, probability = _identifier().classify(text[:length])
        if probability >= _CONFIDENT or len(text) <= length:
            break
    return language, probability


def is_language(text: str, language: str, *, min_probability: float) -> bool:
    """Return True if a text is in a language with at least the given probability."""
    most_likely, probability = detect_language(text)
    return most_likely == _LABELS.get(language, language) and probability >= min_probability


def check_language(language: str) -> None:
    """Check a language of the recipe before work starts.

    Raises:
        InputError: if the model does not know the language.
    """
    known = sorted({*_identifier().labels, *_LABELS})
    if language not in known:
        raise InputError(f"filters.language: '{language}' is not a known language; choose one of {', '.join(known)}")


@cache
def _identifier() -> LanguageIdentifier:
    # Loading takes half a second and 120 MB: once per process, and only if a recipe sets a language.
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
