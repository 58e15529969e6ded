"""The words of the templates of amounts, and numbers as they are written in running text."""

# ruff: noqa: RUF001 - signs and fractions of running text are the subject here

import re

from distilray.corpus.wikitext.arguments import HOLE, Arguments
from distilray.corpus.wikitext.units import quantity

_SUPERSCRIPTS = str.maketrans("0123456789+-−n()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ⁽⁾")
_LONG_NUMBER = re.compile(r"(?<![\d.,A-Za-z])\d{4,30}(?=(?:\.\d+)?$)")
_ORDINARY = re.compile(r"[0-9A-Za-z]")
_NOT_THE_QUANTITY = {
    "out", "output only", "number", "output number only", "unit", "unit2", "unit or text", "preunit",
}  # fmt: skip
_SMALL_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def superscript(text: str) -> str:
    """`text` in superscript digits where all of it has them, unchanged otherwise."""
    raised = text.strip().translate(_SUPERSCRIPTS)
    return raised if not _ORDINARY.search(raised) else text


def thousands(number: str) -> str:
    """A number of four digits and more before its point with commas; any other text as it is."""
    return _LONG_NUMBER.sub(lambda whole: f"{int(whole[0]):,}", number) if number.isascii() else number


def converted(arguments: Arguments) -> str:
    """The quantity of `convert` that is converted; the conversion in brackets is left out."""
    parts, adjective = arguments.positional(), arguments.get("adj")
    spelling = arguments.get("spell")
    if arguments.get("disp") in _NOT_THE_QUANTITY or adjective == "pre":
        return HOLE
    has_words = adjective == "mid" and len(parts) > 2 and (len(parts) > 3 or parts[-1].startswith("-"))
    inserted = parts.pop() if has_words else ""
    american = arguments.get("sp") == "us" or spelling.lower() == "us"
    shown = quantity(parts, adjective=adjective in ("on", "mid"), american=american, inserted=inserted)
    return _spelled(shown, spelling) if spelling.lower() in ("in", "on", "us") else shown


def _spelled(shown: str, spelling: str) -> str:
    """`shown` with its number in words, which begin with a capital letter if `spelling` does."""
    number = re.match(r"\d{1,2}(?![\d.,/⁄])", shown)
    if number is None:
        return HOLE
    tens, ones = divmod(int(number[0]), 10)
    if tens < 2:
        words = _SMALL_NUMBERS[int(number[0])]
    else:
        words = f"{_TENS[tens]}-{_SMALL_NUMBERS[ones]}" if ones else _TENS[tens]
    return (words.capitalize() if spelling[0].isupper() else words) + shown[number.end() :]


def fraction(arguments: Arguments) -> str:
    """Of three arguments "1 3/4", of two "3/4", of one "1/2"."""
    parts = arguments.positional()
    if len(parts) == 3:
        return f"{parts[0]} {parts[1]}/{parts[2]}"
    return f"{parts[0]}/{parts[1]}" if len(parts) == 2 else f"1/{arguments.get('1') or '2'}"


def value(arguments: Arguments) -> str:
    """A measured value with its error, power of ten and unit."""
    error, exponent, unit = arguments.get("2"), arguments.get("e"), arguments.get("u", "ul")
    divisor = arguments.get("up", "upl")
    if arguments.get("3"):
        return HOLE  # two errors, one above the other
    power = f"×10{superscript(exponent)}" if exponent else ""
    plus_minus = "±" if error and not error.startswith("(") else ""
    shown = f"{arguments.get('p')}{thousands(arguments.get('1'))}{plus_minus}{error}{arguments.get('s')}"
    return f"{shown}{power}{' ' if unit else ''}{unit}{'/' if divisor else ''}{divisor}{arguments.get('end')}"


def ordinal(arguments: Arguments) -> str:
    """Of 22 it is "22nd"."""
    number = arguments.get("1")
    if not (number.isascii() and number.isdecimal() and len(number) < 30):
        return number
    ending = "th" if number[-2:-1] == "1" else _ENDINGS.get(int(number[-1]), "th")
    return thousands(number) + ending


def height(arguments: Arguments) -> str:
    """As "6 ft 2 in", or "1.88 m"."""
    return " ".join(f"{arguments.get(unit)} {unit}" for unit in ("ft", "in", "m", "cm") if arguments.get(unit))
