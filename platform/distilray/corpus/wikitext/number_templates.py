"""Templates for quantities and numbers: `{{convert|1300|mi|km}}` becomes "1,300 miles"."""

# ruff: noqa: RUF001 - this module handles typographic characters

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from distilray.corpus.wikitext.arguments import HOLE, Arguments

_NUMBER = re.compile(r"[-−+]?[\d.,/ ⁄+]*\d[\d.,/⁄]*(?:e[-+]?\d+)?")
_TAKES_SINGULAR = re.compile(r"1|\d{1,3}[/⁄]\d{1,3}")
_MIXED = re.compile(r"(?<=\d)\+(?=\d+[/⁄])")  # 5+1/2
_CONNECTORS = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "to about": " to about ", "and": " and ", "or": " or ",
    "by": " by ", "x": " by ", "×": " by ", "xx": " × ", "*": " × ", "+/-": " ± ", "±": " ± ", ",": ", ",
    "and(-)": " and ", "+": " + ", "(-)": "–", "to(about)": " to about ", ", and": ", and ", ", or": ", or ",
}  # fmt: skip

_UNITS: Mapping[str, Sequence[str]] = yaml.safe_load(Path(__file__).with_name("units.yaml").read_text(encoding="utf-8"))
# Singular and plural name, by unit code.
_UNIT_NAMES = {code: (singular, plural) for code, (singular, plural) in _UNITS.items()}
_BY_UNIT_NAME = {name: names for names in _UNIT_NAMES.values() for name in names}
# Prefixes of a code, as in `e6acre` for millions of acres. Some non-metric units use a letter, as in `Toilbbl`.
_MULTIPLES = {
    "e3": "thousand", "e6": "million", "e9": "billion", "e12": "trillion", "k": "thousand", "M": "million",
    "G": "billion", "T": "trillion",
}  # fmt: skip
_MULTIPLE = re.compile(r"e3|e6|e9|e12|[kMGT](?=oilbbl|bbl|cuft|ft3|cuyd|USgal|impgal|carat)")
_MULTIPLE_NAME = re.compile("thousand|million|billion|trillion")  # "1 million acres"
_SYMBOLS = re.compile(r"[A-Za-zµμ°]+\d?(?:[/.·][A-Za-z]+\d?)+")
_COMPOUND_UNITS = {("ft", "in"), ("foot", "in"), ("lb", "oz"), ("st", "lb"), ("mi", "ft"), ("yd", "ft")}

_SUPERSCRIPTS = str.maketrans("0123456789+-−n()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ⁽⁾")
_LONG_NUMBER = re.compile(r"(?<![\d.,A-Za-z])\d{4,30}(?=(?:\.\d+)?$)")
_ALPHANUMERIC = re.compile(r"[0-9A-Za-z]")
_PARTIAL_DISPLAYS = {
    "out", "output only", "number", "output number only", "unit", "unit2", "unit or text", "preunit",
}  # fmt: skip
_SMALL_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINAL_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}


def converted_quantity(arguments: Arguments) -> str:
    """Render `convert`: the original quantity, without the conversion in brackets."""
    parts, adjective = arguments.positional(), arguments.get("adj")
    spelling = arguments.get("spell")
    if arguments.get("disp") in _PARTIAL_DISPLAYS or adjective == "pre":
        return HOLE
    has_inserted_words = adjective == "mid" and len(parts) > 2 and (len(parts) > 3 or parts[-1].startswith("-"))
    inserted = parts.pop() if has_inserted_words else ""
    american = arguments.get("sp") == "us" or spelling.lower() == "us"
    text = quantity_text(parts, adjective=adjective in ("on", "mid"), american=american, inserted=inserted)
    return _spell_out(text, spelling) if spelling.lower() in ("in", "on", "us") else text


def _spell_out(text: str, spelling: str) -> str:
    """Spell out the number in `text`, capitalized if `spelling` is."""
    number = re.match(r"\d{1,2}(?![\d.,/⁄])", text)
    if number is None:
        return HOLE
    tens, ones = divmod(int(number[0]), 10)
    if tens < 2:
        words = _SMALL_NUMBERS[int(number[0])]
    else:
        words = f"{_TENS[tens]}-{_SMALL_NUMBERS[ones]}" if ones else _TENS[tens]
    return (words.capitalize() if spelling[0].isupper() else words) + text[number.end() :]


def quantity_text(arguments: Sequence[str], *, adjective: bool, american: bool = False, inserted: str = "") -> str:
    """Return the original quantity with its unit in words, or `HOLE` if the number or unit is not recognized.

    Args:
        arguments: unnamed arguments of the template: number, unit, and others. A range has a word or symbol and a
            second number before the unit.
        adjective: whether to use the adjective form, as in "a 10-mile run".
        american: whether to spell "meter" and "liter".
        inserted: text after the unit of an adjective, as in "a 10-mile-long road".
    """
    parts = [part.strip() for part in arguments]
    if not parts or not _NUMBER.fullmatch(parts[0]):
        return HOLE
    numbers, last, rest = _parse_numbers(parts)
    if not rest or not _unit_names(rest[0]):
        return HOLE
    unit = rest[0]
    if adjective:
        numbers = numbers.replace(" to ", "-to-").replace(" by ", "-by-")
    text = _with_unit(numbers, unit, last, adjective)
    if len(rest) > 2 and (unit, rest[2]) in _COMPOUND_UNITS and _NUMBER.fullmatch(rest[1]):
        text = f"{text}{'-' if adjective else ' '}{_with_unit(rest[1], rest[2], rest[1], adjective)}"
    if american:
        text = text.replace("metre", "meter").replace("litre", "liter")
    return f"{text}{'' if inserted[:1] in ('', '-') else ' '}{inserted}"


def _parse_numbers(parts: list[str]) -> tuple[str, str, list[str]]:
    """Return the text of a number or range, its last number, and the remaining arguments."""
    text, index = _group_digits(parts[0]), 1
    while index + 1 < len(parts) and parts[index] in _CONNECTORS and _NUMBER.fullmatch(parts[index + 1]):
        text += _CONNECTORS[parts[index]] + _group_digits(parts[index + 1])
        index += 2
    return text, parts[index - 1], parts[index:]


def _with_unit(numbers: str, code: str, last: str, adjective: bool) -> str:
    singular, plural = _unit_names(code) or (code, code)
    if adjective and singular[0].isalpha():
        return f"{numbers}-{singular.replace(' ', '-')}"
    is_one = numbers == last and _TAKES_SINGULAR.fullmatch(last) and not _MULTIPLE_NAME.match(singular)
    return f"{numbers} {singular if is_one else plural}"


def _unit_names(code: str) -> tuple[str, str] | None:
    """Return singular and plural name of a unit. Compound symbols such as `km3/s` serve as their own names."""
    british = code.replace("meter", "metre").replace("liter", "litre").replace("US gal", "USgal")
    if names := _UNIT_NAMES.get(code) or _UNIT_NAMES.get(british) or _BY_UNIT_NAME.get(british):
        return names
    multiple = _MULTIPLE.match(code)
    if multiple is not None and code[multiple.end() :] in _UNIT_NAMES:
        singular, plural = _UNIT_NAMES[code[multiple.end() :]]
        return f"{_MULTIPLES[multiple[0]]} {singular}", f"{_MULTIPLES[multiple[0]]} {plural}"
    return (code, code) if _SYMBOLS.fullmatch(code) else None


def _group_digits(number: str) -> str:
    number = _MIXED.sub(" ", number)
    whole, dot, decimals = number.partition(".")
    if whole.isascii() and whole.isdecimal() and len(whole) in range(4, 30):
        return f"{int(whole):,}{dot}{decimals}"
    return number


def fraction(arguments: Arguments) -> str:
    """Render `frac`: "1/2", "3/4" or "1 3/4" for one, two or three arguments."""
    parts = arguments.positional()
    if len(parts) == 3:
        return f"{parts[0]} {parts[1]}/{parts[2]}"
    return f"{parts[0]}/{parts[1]}" if len(parts) == 2 else f"1/{arguments.get('1') or '2'}"


def value(arguments: Arguments) -> str:
    """Render `val`: a measured value with error, power of ten and unit."""
    error, exponent, unit = arguments.get("2"), arguments.get("e"), arguments.get("u", "ul")
    divisor = arguments.get("up", "upl")
    if arguments.get("3"):
        return HOLE  # separate upper and lower errors are stacked
    power = f"×10{superscript(exponent)}" if exponent else ""
    plus_minus = "±" if error and not error.startswith("(") else ""
    number = f"{arguments.get('p')}{thousands(arguments.get('1'))}{plus_minus}{error}{arguments.get('s')}"
    return f"{number}{power}{' ' if unit else ''}{unit}{'/' if divisor else ''}{divisor}{arguments.get('end')}"


def ordinal(arguments: Arguments) -> str:
    """Render `ordinal`, such as "22nd"."""
    number = arguments.get("1")
    if not (number.isascii() and number.isdecimal() and len(number) < 30):
        return number
    ending = "th" if number[-2:-1] == "1" else _ORDINAL_SUFFIXES.get(int(number[-1]), "th")
    return thousands(number) + ending


def height(arguments: Arguments) -> str:
    """Render `height`, such as "6 ft 2 in" or "1.88 m"."""
    return " ".join(f"{arguments.get(unit)} {unit}" for unit in ("ft", "in", "m", "cm") if arguments.get(unit))


def superscript(text: str) -> str:
    """Return `text` in superscript characters, or unchanged if some of them do not exist."""
    translated = text.strip().translate(_SUPERSCRIPTS)
    return text if _ALPHANUMERIC.search(translated) else translated


def thousands(number: str) -> str:
    """Add thousands separators to a number with four or more integer digits. Other text is unchanged."""
    return _LONG_NUMBER.sub(lambda digits: f"{int(digits[0]):,}", number) if number.isascii() else number
