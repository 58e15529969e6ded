"""Quality metrics of cleaned text: leftover markup ("residue") and gaps where words are missing ("holes").

These run on every document. Each pattern therefore has a plain substring that every match contains, which is searched
for first.
"""

# ruff: noqa: RUF001 - this module handles typographic characters

import re

from distilray.corpus.writing_systems import COMBINING_MARKS

# These never occur in plain sentences.
_MARKUP = ("[[", "]]", "{{", "}}", "|", "-->")
# (substring, pattern)
_MARKUP_PATTERNS = tuple(
    (substring, re.compile(pattern))
    for substring, pattern in (
        ("''", r"'{2,}"),
        ("<", r"</?[a-zA-Z]|<!--"),
        ("==", r"={2,}"),
        ("__", rf"__(?:[A-Z]+|(?![ -~]*__)[\w{COMBINING_MARKS}]+)__"),  # a magic word of any language, but not __init__
        ("://", r"\b(?:https?|ftp)://"),
        ("&", r"&(?:[a-zA-Z][a-zA-Z0-9]{1,30}|#\d+|#[xX][0-9a-fA-F]+);"),
        ("formula_", r"\bformula_\d"),  # placeholder for a formula in the output of other extractors
        ("codice_", r"\bcodice_\d"),  # placeholder for code
    )
)

# Separators with nothing before them, words that need another word between them, and `HOLE` itself.
_HOLES = (" ,", ",,", ";;", ",;", ";,", "“”", "“ ”", " of of ", " from to ", " between and ", "\ufffc")
# The same in other languages.
_OTHER_HOLES = (
    "„“", "«»", "« »", "（）", "（、", "（，", "、）", "，）", "、、", "，，", "、，", "，。", "「」", "『』", "《》",
    " ،", "،،", "(،", "؛؛", " de de ", " et et ", " und und ", " von von ", " y y ", " и и ", " в в ",
)  # fmt: skip
_SPACED_SEMICOLON = " ;"  # French puts a space before a semicolon
# (substring, pattern). A bracket that is empty, or starts or ends with a separator, is one hole.
_HOLE_PATTERNS = tuple(
    (substring, re.compile(pattern))
    for substring, pattern in (
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
# Units, which are holes after a word that requires a number ("hundreds of miles" is complete).
_UNIT = re.compile(r" (?:km|mi|m|cm|mm|ft|feet|miles|metres|meters|kg|lb|°C|°F|hectares|acres|км|кг|га)\b")
_NEEDS_NUMBER = re.compile(
    r"\b(?:is|was|are|were|at|about|around|over|approximately|(?<!s )of|ist|sind|beträgt|etwa|rund|est|mesure|environ"
    r"|es|mide|unos|около|примерно|составляет)\Z"
)
_NEEDS_NUMBER_LENGTH = len("s approximately")


def count_residue(text: str) -> int:
    """Count the fragments of wiki or HTML markup that remain in a text."""
    return sum(map(text.count, _MARKUP)) + _count(_MARKUP_PATTERNS, text)


def count_holes(text: str, language: str = "en") -> int:
    """Count the positions where something was evidently removed from a sentence."""
    if "  " in text:
        text = _SPACES.sub(" ", text)
    count = sum(map(text.count, _HOLES)) + _count(_HOLE_PATTERNS, text)
    if language != "en":
        count += sum(map(text.count, _OTHER_HOLES))
    if language != "fr":
        count += text.count(_SPACED_SEMICOLON)
    return count + sum(
        _NEEDS_NUMBER.search(text, max(0, unit.start() - _NEEDS_NUMBER_LENGTH), unit.start()) is not None
        for unit in _UNIT.finditer(text)
    )


def per_thousand(count: int, words: int) -> float:
    """Return `count` per 1,000 words, or 0 if there are no words."""
    return round(1000 * count / words, 4) if words else 0.0


def _count(patterns: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> int:
    return sum(len(pattern.findall(text)) for substring, pattern in patterns if substring in text)
