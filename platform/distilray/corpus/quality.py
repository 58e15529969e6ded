"""Two figures of a cleaned text: markup that is left, and holes where words are missing. Both are counts.

Every document is counted, so a pattern is searched for only where its sign is found.
"""

# ruff: noqa: RUF001 - dashes, signs and fractions of running text are the subject here

import re

from distilray.corpus.writing_systems import COMBINING_MARKS

# Each of these is markup wherever it stands: no sentence has one.
_MARKUP = ("[[", "]]", "{{", "}}", "|", "-->")
# A sign that a text with the piece has, and the piece.
_MARKUP_PATTERNS = tuple(
    (sign, re.compile(pattern))
    for sign, pattern in (
        ("''", r"'{2,}"),
        ("<", r"</?[a-zA-Z]|<!--"),
        ("==", r"={2,}"),
        ("__", rf"__(?:[A-Z]+|(?![ -~]*__)[\w{COMBINING_MARKS}]+)__"),  # a magic word of any language, but no __init__
        ("://", r"\b(?:https?|ftp)://"),
        ("&", r"&(?:[a-zA-Z][a-zA-Z0-9]{1,30}|#\d+|#[xX][0-9a-fA-F]+);"),
        ("formula_", r"\bformula_\d"),  # what other extractors write for a formula
        ("codice_", r"\bcodice_\d"),  # and for code
    )
)

# A separator with nothing before it, two words that need another between them, `HOLE` itself.
_HOLES = (" ,", ",,", ";;", ",;", ";,", "“”", "“ ”", " of of ", " from to ", " between and ", "\ufffc")
# The same in other languages than English.
_OTHER_HOLES = (
    "„“", "«»", "« »", "（）", "（、", "（，", "、）", "，）", "、、", "，，", "、，", "，。", "「」", "『』", "《》",
    " ،", "،،", "(،", "؛؛", " de de ", " et et ", " und und ", " von von ", " y y ", " и и ", " в в ",
)  # fmt: skip
_SPACED_SEMICOLON = " ;"  # French puts a space before the sign
# A sign again, and the hole; a bracket that is empty, or begins or ends with nothing, is one hole.
_HOLE_PATTERNS = tuple(
    (sign, re.compile(pattern))
    for sign, pattern in (
        ("(", r"(?<!\w)\((?: ?[,;:–)\]]|- ?\)| )"),
        ("[", r"(?<!\w)\[(?: ?[,;:–)\]]|- ?\]| )"),
        (" )", r"(?<!\() \)"),
        (" ]", r"(?<!\[) \]"),
        (" .", r" \.(?!\S)"),
        (" the", r" the[,.;)](?!\w)"),
        (" an", r" an[,.;)](?!\w)"),
        ('" "', r"(?<![\w\",.!?])\" \"(?![\w\"])"),
        ('""', r"(?<![\w\",.!?])\"\"(?![\w\"])"),
    )
)
_SPACES = re.compile(r"[ \t\xa0]{2,}")
# A unit without its number; "hundreds of miles" has one.
_UNIT = re.compile(r" (?:km|mi|m|cm|mm|ft|feet|miles|metres|meters|kg|lb|°C|°F|hectares|acres|км|кг|га)\b")
_NEEDS_NUMBER = re.compile(
    r"\b(?:is|was|are|were|at|about|around|over|approximately|(?<!s )of|ist|sind|beträgt|etwa|rund|est|mesure|environ"
    r"|es|mide|unos|около|примерно|составляет)\Z"
)
_LONGEST = len("s approximately")


def count_residue(text: str) -> int:
    """How many pieces of wiki or HTML markup a text still holds."""
    return sum(map(text.count, _MARKUP)) + _count(_MARKUP_PATTERNS, text)


def count_holes(text: str, language: str = "en") -> int:
    """Count the places of a text that show that something was cut out of a sentence."""
    if "  " in text:
        text = _SPACES.sub(" ", text)
    found = sum(map(text.count, _HOLES)) + _count(_HOLE_PATTERNS, text)
    if language != "en":
        found += sum(map(text.count, _OTHER_HOLES))
    if language != "fr":
        found += text.count(_SPACED_SEMICOLON)
    return found + sum(
        _NEEDS_NUMBER.search(text, max(0, unit.start() - _LONGEST), unit.start()) is not None
        for unit in _UNIT.finditer(text)
    )


def per_thousand(count: int, words: int) -> float:
    """`count` per 1,000 words, 0 without words."""
    return round(1000 * count / words, 4) if words else 0.0


def _count(patterns: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> int:
    return sum(len(pattern.findall(text)) for sign, pattern in patterns if sign in text)
