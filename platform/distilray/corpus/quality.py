"""Two figures of a cleaned text: markup that is left, and holes where words are missing. Both are counts."""

# ruff: noqa: RUF001 - dashes, signs and fractions of running text are the subject here

import re

_RESIDUE = re.compile(
    r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|\||'{2,}|</?[a-zA-Z]|={2,}|__[A-Z]+__|https?://|&[a-zA-Z]+;|&#\d+;"
)
_UNIT = r"(?:km|mi|m|cm|mm|ft|feet|miles|metres|meters|kg|lb|°C|°F|square|sq|hectares|acres)\b"
_HOLES = re.compile(
    r"[(\[]\s*[,;:–-]*\s*[)\]]"  # empty brackets
    r"|\s[,;](?=\s|$)"  # a comma that stands alone
    r"|[(\[]\s*[,;:]"  # a bracket that begins with a separator
    rf"|\b(?:is|was|are|were|of|at|about|around|over|approximately)\s+{_UNIT}"  # a unit without its number
    r"|\b(?:of|the|an|than)\s*[,.;)](?!\w)"  # an article or preposition with nothing behind it
    r"|(?<![\w\"])\"\s*\"(?!\w)"  # empty quotes
)


def count_residue(text: str) -> int:
    """How many pieces of wiki or HTML markup a text still holds."""
    return len(_RESIDUE.findall(text))


def count_holes(text: str) -> int:
    """How many places of a text show that something was cut out of a sentence."""
    return len(_HOLES.findall(text))


def per_thousand(count: int, words: int) -> float:
    """`count` per 1,000 words, 0 without words."""
    return round(1000 * count / words, 4) if words else 0.0
