"""The language of a text by its byte n-grams (langid, Lui and Baldwin 2012); the model is in the `py3langid` wheel."""

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

from distilray.errors import InputError

# Characters that are looked at, more of them while it is in doubt: the model reads only about 2 MB/s.
_LOOKS = (128, 512, 2000)
_SURE = 0.9
_LABELS = {"nb": "no", "fil": "tl"}  # the model's codes for other names of its languages


def language_of(text: str) -> tuple[str, float]:
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
    most_likely, probability = language_of(text)
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
