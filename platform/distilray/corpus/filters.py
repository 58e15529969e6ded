"""Which pages become documents: a table of reasons to drop one, and the first that holds is counted."""

import re
from collections.abc import Callable, Sequence

from distilray.config.corpus import FilterConfig
from distilray.corpus.wikipedia import Page

_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:disambig\w*|disamb|dab|hndis|geodis|surname|given name|set index article|sia|shipindex|"
    r"[\w ]+ disambiguation|disambiguation[\w ]*)\s*[|}]",
    re.IGNORECASE,
)


def _is_disambiguation(page: Page) -> bool:
    return page.title.endswith("(disambiguation)") or _DISAMBIGUATION.search(page.text) is not None


# Decided on the page as it is stored, before any cleaning.
PAGE_REASONS: tuple[tuple[str, Callable[[Page], bool]], ...] = (
    ("not_an_article", lambda page: page.namespace != 0),
    ("redirect", lambda page: page.redirect or _REDIRECT.match(page.text) is not None),
    ("page_too_large", lambda page: page.oversized),
    ("disambiguation", _is_disambiguation),
)


def count_words(sentences: Sequence[str]) -> int:
    """Words between white space."""
    return sum(len(sentence.split()) for sentence in sentences)


def _letter_fraction(sentences: Sequence[str]) -> float:
    characters = [character for sentence in sentences for character in sentence if not character.isspace()]
    return sum(map(str.isalpha, characters)) / len(characters) if characters else 0.0


# Decided on the sentences that are left after cleaning.
TEXT_REASONS: tuple[tuple[str, Callable[[Sequence[str], FilterConfig], bool]], ...] = (
    ("too_few_sentences", lambda sentences, config: len(sentences) < config.min_sentences),
    ("too_short", lambda sentences, config: count_words(sentences) < config.min_words),
    ("too_few_letters", lambda sentences, config: _letter_fraction(sentences) < config.min_letter_fraction),
)

MARKUP_UNREADABLE = "markup_unreadable"  # the wikitext parser gave up


def page_drop_reason(page: Page) -> str | None:
    """Why a page is not worth cleaning, None when it is."""
    return next((reason for reason, holds in PAGE_REASONS if holds(page)), None)


def text_drop_reason(sentences: Sequence[str], config: FilterConfig) -> str | None:
    """Why a cleaned page is no document, None when it is one."""
    return next((reason for reason, holds in TEXT_REASONS if holds(sentences, config)), None)
