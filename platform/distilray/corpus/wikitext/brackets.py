"""Bracket matching of wikitext, and the visible text of links.

Matching takes a single pass, so that unclosed brackets do not make parsing slow.
"""

import re
from collections.abc import Callable

from distilray.corpus.wikitext.sites import CATEGORY, FILE, MEDIA, SITES, Site

# Lookaheads are bounded to keep the pass linear. Page titles have at most 255 bytes.
_TOKEN = re.compile(
    r"(\[\[[^\[\]{}\n<]{1,300}\]\]|\{\{[^\[\]{}\n<]{1,300}\}\})"  # the common case: no nested brackets
    r"|\{\{+|\}\}+"  # templates and arguments
    r"|\[\[(?=[^\[\]{}|\n]{0,300}(?:\||\]\]|\{\{))"  # links
    r"|\[(?=(?:(?:https?|ftp):)?//[^\n\]]{1,2000}\]|mailto:[^\n\]]{1,2000}\])"  # external links
    r"|\]+"
    r"|\n[ \t:]*(?:\{\||\|\}(?!\}))"  # tables
    r"|<(/?)((?i:table|ul|ol|dl|tr|td|th|caption|s|del|strike|sup|includeonly|h[1-6]|rt|rp|div|span|p|small|li))"
    r"(?=[\s/>])[^<>]{0,1000}>"
)

Closings = dict[int, tuple[int, int]]
"""Start and end of the closing bracket, by the position of the opening one."""

_LANGUAGES = frozenset(SITES["language_codes"].split())
_NOT_IN_PIPE_TRICK = re.compile(r"^:?[^:]*:|\s*\([^()]*\)$|,.*$")


def match_brackets(text: str) -> Closings:
    """Match `{{`, `{{{`, `[[`, `[http:`, tables, and tags that enclose text.

    A closing bracket matches the nearest open one of its kind; brackets opened in between remain unclosed. Tags cannot
    extend beyond the brackets around them.
    """
    return _BracketMatcher().match(text)


class _BracketMatcher:
    def __init__(self) -> None:
        self.closings: Closings = {}
        self._open: list[tuple[str, int]] = []  # kind and position
        self._counts = {"{": 0, "[": 0, "[[": 0, "{|": 0}  # open brackets by kind
        self._braces: list[int] = []  # lengths of the open runs of braces
        self._tags: dict[str, list[int]] = {}  # positions of open tags by name

    def match(self, text: str) -> Closings:
        for token in _TOKEN.finditer(text):
            if token[1]:
                start, end = token.span()
                self.closings[start] = (end - 2, end)
                continue
            first_char = token[0][0]
            if first_char == "{":
                self._push("{", token.start())
                self._braces.append(len(token[0]))
            elif first_char == "}":
                self._close_braces(token.start(), len(token[0]))
            elif first_char == "[":
                self._push(token[0], token.start())
            elif first_char == "]":
                self._close_links(token.start(), len(token[0]))
            elif first_char == "<":
                self._tag(token)
            elif token[0].endswith("{|"):
                self._push("{|", token.start())
            elif self._counts["{|"]:
                self.closings[self._pop("{|")] = (token.start(), token.end())
        return self.closings

    def _push(self, kind: str, position: int) -> None:
        self._open.append((kind, position))
        self._counts[kind] += 1

    def _pop(self, wanted: str) -> int:
        """Remove all brackets down to the nearest one of a kind, and return its position."""
        while True:
            kind, position = self._open.pop()
            self._counts[kind] -= 1
            if kind == wanted:
                return position
            if kind == "{":
                self._braces.pop()

    def _close_braces(self, position: int, length: int) -> None:
        while length >= 2 and self._counts["{"]:
            start, opened = self._pop("{"), self._braces.pop()
            size = min(3, opened, length)
            self.closings[start + opened - size] = (position, position + size)
            position, length = position + size, length - size
            if opened - size >= 2:
                self._push("{", start)
                self._braces.append(opened - size)

    def _close_links(self, position: int, length: int) -> None:
        while length:
            is_external = self._open[-1:] and self._open[-1][0] == "["
            if is_external and (length != 2 or not self._counts["[["]):
                kind = "["
            elif length >= 2 and self._counts["[["]:
                kind = "[["
            else:
                return
            self.closings[self._pop(kind)] = (position, position + len(kind))
            position, length = position + len(kind), length - len(kind)

    def _tag(self, token: re.Match[str]) -> None:
        positions = self._tags.setdefault(token[3].lower(), [])
        outer = self._open[-1][1] if self._open else -1
        if not token[2]:
            if not token[0].endswith("/>"):
                positions.append(token.start())
        elif positions and positions[-1] > outer:
            self.closings[positions.pop()] = (token.start(), token.end())


def link_text(target: str, label: Callable[[], str | None], site: Site) -> str:
    """Return the visible text of a link; empty for images, categories and interlanguage links.

    Args:
        target: title of the linked page.
        label: returns the text after the separator, or None if there is none. Called only if the link is visible.
        site: wiki with the names of its namespaces.
    """
    target = target.strip()
    prefix, colon, _ = target.partition(":")
    namespace = site.namespace_of(prefix) if colon and prefix else None
    if namespace in (FILE, CATEGORY) or (colon and namespace is None and prefix.strip().lower() in _LANGUAGES):
        return ""
    text = label()
    if text is None:
        return "" if namespace == MEDIA else target.removeprefix(":")
    return text or _NOT_IN_PIPE_TRICK.sub("", target)  # [[Rome (city)|]] shows "Rome"


def is_image_link(target: str, site: Site) -> bool:
    """Return True if a link shows an image."""
    prefix, colon, _ = target.partition(":")
    return bool(colon) and site.namespace_of(prefix) == FILE
