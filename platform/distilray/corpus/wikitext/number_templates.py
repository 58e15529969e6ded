"""Templates for quantities and numbers: `{{convert|1300|mi|km}}` becomes "1,300 miles"."""

# ruff: noqa: RUF001 - this module handles typographic characters

import re
from collections.abc import Sequence

from distilray.corpus.wikitext.arguments import HOLE, Arguments

_NUMBER = re.compile(r"[-−+]?[\d.,/ ⁄+]*\d[\d.,/⁄]*(?:e[-+]?\d+)?")
_ONE_AT_MOST = re.compile(r"1|\d{1,3}[/⁄]\d{1,3}")
_MIXED = re.compile(r"(?<=\d)\+(?=\d+[/⁄])")  # 5+1/2
_BETWEEN = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "to about": " to about ", "and": " and ", "or": " or ",
    "by": " by ", "x": " by ", "×": " by ", "xx": " × ", "*": " × ", "+/-": " ± ", "±": " ± ", ",": ", ",
    "and(-)": " and ", "+": " + ", "(-)": "–", "to(about)": " to about ", ", and": ", and ", ", or": ", or ",
}  # fmt: skip

# Singular and plural name by unit code.
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
    "ft2": ("square foot", "square feet"), "in2": ("square inch", "square inches"),
    "mi2": ("square mile", "square miles"), "mm2": ("square millimetre", "square millimetres"),
    "litre": ("litre", "litres"), "liter": ("litre", "litres"), "kilometre": ("kilometre", "kilometres"),
    "kilometer": ("kilometre", "kilometres"), "inch": ("inch", "inches"), "yard": ("yard", "yards"),
    "pound": ("pound", "pounds"), "kilogram": ("kilogram", "kilograms"),
    "acres": ("acre", "acres"), "miles": ("mile", "miles"), "feet": ("foot", "feet"), "metre": ("metre", "metres"),
    "meter": ("metre", "metres"), "dam": ("decametre", "decametres"), "dm": ("decimetre", "decimetres"),
    "fathom": ("fathom", "fathoms"), "furlong": ("furlong", "furlongs"), "chain": ("chain", "chains"),
    "hand": ("hand", "hands"), "pc": ("parsec", "parsecs"), "kpc": ("kiloparsec", "kiloparsecs"),
    "AU": ("astronomical unit", "astronomical units"), "μm": ("micrometre", "micrometres"),
    "µm": ("micrometre", "micrometres"), "cuin": ("cubic inch", "cubic inches"), "ft3": ("cubic foot", "cubic feet"),
    "cm3": ("cubic centimetre", "cubic centimetres"), "cc": ("cc", "cc"), "mL": ("millilitre", "millilitres"),
    "hl": ("hectolitre", "hectolitres"), "acre.ft": ("acre-foot", "acre-feet"), "acre-ft": ("acre-foot", "acre-feet"),
    "USoz": ("US fluid ounce", "US fluid ounces"), "USfloz": ("US fluid ounce", "US fluid ounces"),
    "impfloz": ("imperial fluid ounce", "imperial fluid ounces"), "USqt": ("US quart", "US quarts"),
    "USpt": ("US pint", "US pints"), "imppt": ("imperial pint", "imperial pints"), "USbsh": ("US bushel", "US bushels"),
    "oilbbl": ("barrel", "barrels"), "oilbbl/d": ("barrel per day", "barrels per day"),
    "bbl/d": ("barrel per day", "barrels per day"), "carat": ("carat", "carats"), "gr": ("grain", "grains"),
    "ozt": ("troy ounce", "troy ounces"), "cwt": ("hundredweight", "hundredweight"),
    "long ton": ("long ton", "long tons"), "short ton": ("short ton", "short tons"),
    "MT": ("metric ton", "metric tons"),
    "tonne": ("tonne", "tonnes"), "Mt": ("megatonne", "megatonnes"), "kt": ("kilotonne", "kilotonnes"),
    "knot": ("knot", "knots"), "kph": ("kilometre per hour", "kilometres per hour"),
    "km/s": ("kilometre per second", "kilometres per second"), "mi/s": ("mile per second", "miles per second"),
    "m3/s": ("cubic metre per second", "cubic metres per second"),
    "cuft/s": ("cubic foot per second", "cubic feet per second"), "bhp": ("brake horsepower", "brake horsepower"),
    "shp": ("shaft horsepower", "shaft horsepower"), "PS": ("metric horsepower", "metric horsepower"),
    "ihp": ("indicated horsepower", "indicated horsepower"), "GW": ("gigawatt", "gigawatts"),
    "kWh": ("kilowatt-hour", "kilowatt-hours"), "MJ": ("megajoule", "megajoules"), "N": ("newton", "newtons"),
    "kN": ("kilonewton", "kilonewtons"), "lbf": ("pound-force", "pounds-force"),
    "Nm": ("newton-metre", "newton-metres"),
    "lbft": ("pound-foot", "pound-feet"), "hPa": ("hectopascal", "hectopascals"), "mbar": ("millibar", "millibars"),
    "GPa": ("gigapascal", "gigapascals"), "inHg": ("inch of mercury", "inches of mercury"),
    "mpgus": ("mile per US gallon", "miles per US gallon"), "ft/min": ("foot per minute", "feet per minute"),
    "lb/ft3": ("pound per cubic foot", "pounds per cubic foot"), "g/cm3": ("gram per cubic centimetre",
    "grams per cubic centimetre"), "kg/m3": ("kilogram per cubic metre", "kilograms per cubic metre"),
    "ftin": ("foot", "feet"), "lboz": ("pound", "pounds"), "stlb": ("stone", "stone"), "USgal/min":
    ("US gallon per minute", "US gallons per minute"), "lb/sqin": ("pound per square inch", "pounds per square inch"),
    "rpm": ("revolution per minute", "revolutions per minute"), "year": ("year", "years"), "month": ("month", "months"),
    "week": ("week", "weeks"), "day": ("day", "days"), "h": ("hour", "hours"), "min": ("minute", "minutes"), "s":
    ("second", "seconds"), "mpg-US": ("mile per US gallon", "miles per US gallon"), "mpgimp":
    ("mile per imperial gallon", "miles per imperial gallon"), "L/100 km": ("litre per 100 kilometres",
    "litres per 100 kilometres"), "l/100 km": ("litre per 100 kilometres", "litres per 100 kilometres"), "m/s2":
    ("metre per second squared", "metres per second squared"), "V": ("volt", "volts"), "Hz": ("hertz", "hertz"),
    "kgf": ("kilogram-force", "kilograms-force"), "floz": ("fluid ounce", "fluid ounces"),
    "/ha": ("per hectare", "per hectare"), "/acre": ("per acre", "per acre"),
}  # fmt: skip
_WRITTEN_OUT = {name: names for names in _NAMES.values() for name in names}
# Prefixes of a code, as in `e6acre` for millions of acres. Some non-metric units use a letter, as in `Toilbbl`.
_MULTIPLES = {
    "e3": "thousand", "e6": "million", "e9": "billion", "e12": "trillion", "k": "thousand", "M": "million",
    "G": "billion", "T": "trillion",
}  # fmt: skip
_MULTIPLE = re.compile(r"e3|e6|e9|e12|[kMGT](?=oilbbl|bbl|cuft|ft3|cuyd|USgal|impgal|carat)")
_MULTIPLE_NAME = re.compile("thousand|million|billion|trillion")  # "1 million acres"
_SYMBOLS = re.compile(r"[A-Za-zµμ°]+\d?(?:[/.·][A-Za-z]+\d?)+")
_TOGETHER = {("ft", "in"), ("foot", "in"), ("lb", "oz"), ("st", "lb"), ("mi", "ft"), ("yd", "ft")}

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


def converted_quantity(arguments: Arguments) -> str:
    """Render `convert`: the original quantity, without the conversion in brackets."""
    parts, adjective = arguments.positional(), arguments.get("adj")
    spelling = arguments.get("spell")
    if arguments.get("disp") in _NOT_THE_QUANTITY or adjective == "pre":
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
        arguments: unnamed arguments of the template: number, unit, and others. A range has a word or sign and a second
            number before the unit.
        adjective: whether to use the adjective form, as in "a 10-mile run".
        american: whether to spell "meter" and "liter".
        inserted: text after the unit of an adjective, as in "a 10-mile-long road".
    """
    parts = [part.strip() for part in arguments]
    if not parts or not _NUMBER.fullmatch(parts[0]):
        return HOLE
    numbers, last, rest = _parse_numbers(parts)
    if not rest or not _names_of(rest[0]):
        return HOLE
    unit = rest[0]
    if adjective:
        numbers = numbers.replace(" to ", "-to-").replace(" by ", "-by-")
    text = _with_unit(numbers, unit, last, adjective)
    if len(rest) > 2 and (unit, rest[2]) in _TOGETHER and _NUMBER.fullmatch(rest[1]):
        text = f"{text}{'-' if adjective else ' '}{_with_unit(rest[1], rest[2], rest[1], adjective)}"
    if american:
        text = text.replace("metre", "meter").replace("litre", "liter")
    return f"{text}{'' if inserted[:1] in ('', '-') else ' '}{inserted}"


def _parse_numbers(parts: list[str]) -> tuple[str, str, list[str]]:
    """Return the text of a number or range, its last number, and the remaining arguments."""
    text, index = _grouped(parts[0]), 1
    while index + 1 < len(parts) and parts[index] in _BETWEEN and _NUMBER.fullmatch(parts[index + 1]):
        text += _BETWEEN[parts[index]] + _grouped(parts[index + 1])
        index += 2
    return text, parts[index - 1], parts[index:]


def _with_unit(numbers: str, code: str, last: str, adjective: bool) -> str:
    singular, plural = _names_of(code) or (code, code)
    if adjective and singular[0].isalpha():
        return f"{numbers}-{singular.replace(' ', '-')}"
    is_one = numbers == last and _ONE_AT_MOST.fullmatch(last) and not _MULTIPLE_NAME.match(singular)
    return f"{numbers} {singular if is_one else plural}"


def _names_of(code: str) -> tuple[str, str] | None:
    """Return singular and plural name of a unit. Compound symbols such as `km3/s` are their own name."""
    british = code.replace("meter", "metre").replace("liter", "litre").replace("US gal", "USgal")
    if names := _NAMES.get(code) or _NAMES.get(british) or _WRITTEN_OUT.get(british):
        return names
    multiple = _MULTIPLE.match(code)
    if multiple is not None and code[multiple.end() :] in _NAMES:
        singular, plural = _NAMES[code[multiple.end() :]]
        return f"{_MULTIPLES[multiple[0]]} {singular}", f"{_MULTIPLES[multiple[0]]} {plural}"
    return (code, code) if _SYMBOLS.fullmatch(code) else None


def _grouped(number: str) -> str:
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
    ending = "th" if number[-2:-1] == "1" else _ENDINGS.get(int(number[-1]), "th")
    return thousands(number) + ending


def height(arguments: Arguments) -> str:
    """Render `height`, such as "6 ft 2 in" or "1.88 m"."""
    return " ".join(f"{arguments.get(unit)} {unit}" for unit in ("ft", "in", "m", "cm") if arguments.get(unit))


def superscript(text: str) -> str:
    """Return `text` in superscript characters, or unchanged if they do not exist for all of it."""
    translated = text.strip().translate(_SUPERSCRIPTS)
    return text if _ORDINARY.search(translated) else translated


def thousands(number: str) -> str:
    """Add thousands separators to a number with four or more integer digits. Other text is unchanged."""
    return _LONG_NUMBER.sub(lambda digits: f"{int(digits[0]):,}", number) if number.isascii() else number
