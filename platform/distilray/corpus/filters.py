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
_NON_LETTERS = bytes(set(range(256)) - set(string.ascii_letters.encode()))
_SPACES_AND_NON_ASCII = bytes(code for code in range(256) if code >= 128 or chr(code).isspace())
_ENDS = (".", "!", "?", "…")
_CLOSING = "\"')]}”’»›“‘«‹）」』】》〉〕］"  # noqa: RUF001
# Sentence ends in other scripts. Greek uses a semicolon as question mark; Thai and related scripts do not mark it.
_NON_LATIN_END = re.compile(rf"(?:[。！？｡．‼⁇⁈⁉।॥؟۔։።፧။។៕།༎᠃꓿]|[\u0370-\u03ff];|[{SOUTH_EAST_ASIAN}])\Z")  # noqa: RUF001
_MARK = re.compile(f"[{COMBINING_MARKS}]")

# Characters that form their own token: punctuation of ASCII and other scripts, and Han characters.
_SEPARATE_CHARACTERS = r"!-/:-@\[-`{-~¡§«¶·»¿‐-‧‰-⁞、-〃〈-】！？㐀-䶿一-鿿豈-﫿"  # noqa: RUF001
_BASIC_TOKEN = re.compile(rf"[{_SEPARATE_CHARACTERS}]|[^\s{_SEPARATE_CHARACTERS}]+")
_ASCII_PUNCTUATION = string.punctuation.encode()
_PUNCTUATION_TO_SPACES = bytes.maketrans(_ASCII_PUNCTUATION, b" " * len(_ASCII_PUNCTUATION))
_NON_PUNCTUATION = bytes(set(range(256)) - set(_ASCII_PUNCTUATION))

# Prefix lengths in characters, tried until the model is confident, because it only processes about 2 MB/s.
_PREFIX_LENGTHS = (128, 512, 2000)
_CONFIDENT_PROBABILITY = 0.9
_MODEL_CODES = {"nb": "no", "fil": "tl"}  # language codes that differ in the model


def text_drop_reason(sentences: Sequence[str], config: FilterConfig) -> str | None:
    """Return the first reason to drop a cleaned text, or None to keep it."""
    return next((reason for reason, applies in TEXT_REASONS if applies(sentences, config)), None)


def count_basic_tokens(sentences: Sequence[str]) -> int:
    """Count the tokens of BERT's basic tokenizer, words and punctuation, before WordPiece (Devlin et al. 2019)."""
    others = " ".join(sentence for sentence in sentences if not sentence.isascii())
    # ASCII is counted as bytes, for speed.
    text = " ".join(sentence for sentence in sentences if sentence.isascii()).encode()
    words = len(text.translate(_PUNCTUATION_TO_SPACES).split())
    return len(_BASIC_TOKEN.findall(others)) + words + len(text.translate(None, _NON_PUNCTUATION))


def histogram_bin(words: int) -> int:
    """Return the lower bound of the bin of a word count: 0, 1, 2, 4, 8, ..."""
    return 1 << (words.bit_length() - 1) if words else 0


def _letter_fraction(sentences: Sequence[str]) -> float:
    # ASCII is counted as bytes, for speed.
    text = "".join(sentences).encode(errors="replace")
    others = text.translate(None, _ASCII).decode()
    characters = len(text.translate(None, _SPACES_AND_NON_ASCII)) + sum(not char.isspace() for char in others)
    letters = len(text.translate(None, _NON_LETTERS)) + sum(map(str.isalpha, others)) + len(_MARK.findall(others))
    return letters / characters if characters else 0.0


def _list_fraction(sentences: Sequence[str]) -> float:
    return 1 - sum(map(_has_end, sentences)) / len(sentences) if sentences else 0.0


def _has_end(sentence: str) -> bool:
    closed = sentence.rstrip(_CLOSING)
    return closed.endswith(_ENDS) or (not closed.isascii() and _NON_LATIN_END.search(closed) is not None)


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
        if probability >= _CONFIDENT_PROBABILITY or len(text) <= length:
            break
    return language, probability


def is_language(text: str, language: str, *, min_probability: float) -> bool:
    """Return True if a text is in a language with at least the given probability."""
    most_likely, probability = detect_language(text)
    return most_likely == _MODEL_CODES.get(language, language) and probability >= min_probability


def check_language(language: str) -> None:
    """Check a language of the recipe before work starts.

    Raises:
        InputError: if the model does not know the language.
    """
    known = sorted({*_identifier().labels, *_MODEL_CODES})
    if language not in known:
        raise InputError(f"filters.language: '{language}' is not a known language; choose one of {', '.join(known)}")


@cache
def _identifier() -> LanguageIdentifier:
    # Loading takes half a second and 120 MB, so it is done once per process and only if a recipe sets a language.
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
