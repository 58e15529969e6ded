"""The words of a link to another page, a picture, a category or another wiki."""

import re
from collections.abc import Callable

from distilray.corpus.wikitext.sites import CATEGORY, FILE, MEDIA, SITES, Site

_LANGUAGES = frozenset(SITES["language_codes"].split())
_NOT_IN_PIPE_TRICK = re.compile(r"^:?[^:]*:|\s*\([^()]*\)$|,.*$")


def link_words(target: str, label: Callable[[], str | None], site: Site) -> str:
    """Return the words that a link shows; none for pictures, categories and the same article in another language.

    Args:
        target: the page that is linked.
        label: reads the words behind the separator; None without one. It is called only if the link shows words.
        site: the wiki, which knows the names of namespaces.
    """
    target = target.strip()
    prefix, colon, _ = target.partition(":")
    namespace = site.namespace_of(prefix) if colon and prefix else None
    if namespace in (FILE, CATEGORY) or (colon and namespace is None and prefix.strip().lower() in _LANGUAGES):
        return ""
    words = label()
    if words is None:
        return "" if namespace == MEDIA else target.removeprefix(":")
    return words or _NOT_IN_PIPE_TRICK.sub("", target)  # [[Rome (city)|]] shows "Rome"


def is_silent_file(target: str, site: Site) -> bool:
    """Return whether a link shows a picture."""
    prefix, colon, _ = target.partition(":")
    return bool(colon) and site.namespace_of(prefix) == FILE
