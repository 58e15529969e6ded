"""The words of a `convert` template: `{{convert|1300|mi|km}}` shows "1,300 miles"."""

# ruff: noqa: RUF001 - dashes, signs and fractions of running text are the subject here

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[-−+]?[\d.,/ ⁄+]*\d[\d.,/⁄]*(?:e[-+]?\d+)?")
_BETWEEN = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "to about": " to about ", "and": " and ", "or": " or ",
    "by": " by ", "x": " × ", "×": " × ", "xx": " × ", "*": " × ", "+/-": " ± ", "±": " ± ", ",": ", ",
    "and(-)": " and ", "+": " + ",
}  # fmt: skip

# Code of a unit: singular and plural name.
_NAMES = {
    "in": ("inch", "inches"), "ft": ("foot", "feet"), "foot": ("foot", "feet"), "yd": ("yard", "yards"),
    "mi": ("mile", "miles"), "mile": ("mile", "miles"), "nmi": ("nautical mile", "nautical miles"),
    "mm": ("millimetre", "millimetres"), "cm": ("centimetre", "centimetres"), "m": ("metre", "metres"),
    "km": ("kilometre", "kilometres"), "um": ("micrometre", "micrometres"), "nm": ("nanometre", "nanometres"),
    "ly": ("light-year", "light-years"), "au": ("astronomical unit", "astronomical units"),
    "sqin": ("square inch", "square inches"), "sqft": ("square foot", "square feet"),
    "sqyd": ("square yard", "square yards"), "sqmi": ("square mile", "square miles"), "acre": ("acre", "acres"),
    "ha": ("hectare", "hectares"), "cm2": ("square centimetre", "square centimetres"),
    "m2": ("square metre", "square metres"), "km2": ("square kilometre", "square kilometres"),
    "sqm": ("square metre", "square metres"), "sqkm": ("square kilometre", "square kilometres"),
    "cuft": ("cubic foot", "cubic feet"), "cuyd": ("cubic yard", "cubic yards"), "m3": ("cubic metre", "cubic metres"),
    "km3": ("cubic kilometre", "cubic kilometres"), "cumi": ("cubic mile", "cubic miles"), "L": ("litre", "litres"),
    "l": ("litre", "litres"), "ml": ("millilitre", "millilitres"), "USgal": ("US gallon", "US gallons"),
    "impgal": ("imperial gallon", "imperial gallons"), "oz": ("ounce", "ounces"), "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"), "st": ("stone", "stone"), "g": ("gram", "grams"), "mg": ("milligram", "milligrams"),
    "kg": ("kilogram", "kilograms"), "t": ("tonne", "tonnes"), "LT": ("long ton", "long tons"),
    "ST": ("short ton", "short tons"), "mph": ("mile per hour", "miles per hour"), "kn": ("knot", "knots"),
    "km/h": ("kilometre per hour", "kilometres per hour"), "ft/s": ("foot per second", "feet per second"),
    "m/s": ("metre per second", "metres per second"), "hp": ("horsepower", "horsepower"), "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"), "J": ("joule", "joules"),
    "kJ": ("kilojoule", "kilojoules"), "kcal": ("kilocalorie", "kilocalories"), "psi": ("psi", "psi"),
    "Pa": ("pascal", "pascals"), "kPa": ("kilopascal", "kilopascals"), "MPa": ("megapascal", "megapascals"),
    "atm": ("atmosphere", "atmospheres"), "bar": ("bar", "bars"), "bbl": ("barrel", "barrels"),
    "/sqmi": ("inhabitant per square mile", "inhabitants per square mile"),
    "/km2": ("inhabitant per square kilometre", "inhabitants per square kilometre"),
    "PD/sqmi": ("inhabitant per square mile", "inhabitants per square mile"),
    "PD/km2": ("inhabitant per square kilometre", "inhabitants per square kilometre"),
    "F": ("°F", "°F"), "°F": ("°F", "°F"), "C": ("°C", "°C"), "°C": ("°C", "°C"), "K": ("K", "K"),
    "C-change": ("°C", "°C"), "F-change": ("°F", "°F"),
}  # fmt: skip
_TOGETHER = {("ft", "in"), ("foot", "in"), ("lb", "oz"), ("st", "lb"), ("mi", "ft"), ("yd", "ft")}


def quantity(arguments: Sequence[str], *, adjective: bool) -> str:
    """The quantity that is converted, with its unit in words; the conversion itself is left out.

    Args:
        arguments: the template's arguments without a name: number, unit, and what follows; a range has a word or sign
            and another number before the unit.
        adjective: as in "a 10-mile run".
    """
    parts = [part.strip() for part in arguments]
    if not parts or not _NUMBER.fullmatch(parts[0]):
        return parts[0] if parts else ""
    words, last, rest = _numbers(parts)
    if not rest:
        return words
    unit = rest[0]
    if len(rest) > 2 and (unit, rest[2]) in _TOGETHER and _NUMBER.fullmatch(rest[1]):
        return f"{_with_unit(words, unit, last, adjective)} {_with_unit(rest[1], rest[2], rest[1], adjective)}"
    return _with_unit(words, unit, last, adjective)


def _numbers(parts: list[str]) -> tuple[str, str, list[str]]:
    """The numbers in words, the last of them, and the arguments behind."""
    words, at = _grouped(parts[0]), 1
    while at + 1 < len(parts) and parts[at] in _BETWEEN and _NUMBER.fullmatch(parts[at + 1]):
        words += _BETWEEN[parts[at]] + _grouped(parts[at + 1])
        at += 2
    return words, parts[at - 1], parts[at:]


def _with_unit(words: str, code: str, last: str, adjective: bool) -> str:
    singular, plural = _NAMES.get(code, (code, code))
    if adjective and singular[0].isalpha():
        return f"{words}-{singular.replace(' ', '-')}"
    return f"{words} {singular if words == last == '1' else plural}"


def _grouped(number: str) -> str:
    whole, dot, decimals = number.partition(".")
    if whole.isascii() and whole.isdecimal() and len(whole) in range(4, 30):
        return f"{int(whole):,}{dot}{decimals}"
    return number
