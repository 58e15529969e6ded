"""Templates that carry visible words: a table from a template's name to what a reader sees of it.

Every other template (info boxes, citations, notices, navigation) shows nothing inside a sentence and is dropped. One
that shows something which cannot be told from the page alone (a formula, a price of today) is `HOLE`.
"""

# ruff: noqa: RUF001 - dashes, signs and fractions of running text are the subject here

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distilray.corpus.wikitext.units import quantity

HOLE = "\ufffc"  # "object replacement character": something that is not words stood here
PARAGRAPH = "\n\n"

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_SUPERSCRIPTS = str.maketrans("0123456789+-−n()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ⁽⁾")


@dataclass(frozen=True)
class Arguments:
    """The arguments of one use of a template as plain text: `values["1"]` is the first without a name."""

    values: Mapping[str, str]

    def get(self, *names: str) -> str:
        """The first of these arguments that is not empty, else the empty string."""
        return next((self.values[name] for name in names if self.values.get(name)), "")

    def positional(self) -> list[str]:
        """The arguments without a name, up to the first that is missing."""
        found: list[str] = []
        while (value := self.values.get(str(len(found) + 1))) is not None:
            found.append(value)
        return found


Rule = Callable[[Arguments], str]


def template_words(name: str, arguments: Callable[[], Arguments]) -> str:
    """What a reader sees of a template inside running text; empty for most.

    Args:
        name: as written in the page.
        arguments: called only when the template is one that shows words.
    """
    key = " ".join(name.replace("_", " ").split()).lower()
    if key.startswith("formatnum:"):
        return _thousands(key.removeprefix("formatnum:").strip())
    rule = RULES.get(key) or next((rule for prefix, rule in PREFIX_RULES if key.startswith(prefix)), None)
    return rule(arguments()) if rule else ""


def superscript(text: str) -> str:
    """`text` in superscript digits where all of it has them, unchanged otherwise."""
    raised = text.strip().translate(_SUPERSCRIPTS)
    return raised if not re.search(r"[0-9A-Za-z]", raised) else text


def _show(*names: str) -> Rule:
    return lambda arguments: arguments.get(*names)


def _literal(text: str) -> Rule:
    return lambda arguments: text


def _last(arguments: Arguments) -> str:
    return next((value for value in reversed(arguments.positional()) if value), "")


def _joined(separator: str, *, first: int | None = None) -> Rule:
    return lambda arguments: separator.join(value for value in arguments.positional()[:first] if value)


def _before(prefix: str) -> Rule:
    return lambda arguments: f"{prefix}{arguments.get('1')}"


def _quote(arguments: Arguments) -> str:
    return f"{PARAGRAPH}{arguments.get('1', 'text', 'quote')}{PARAGRAPH}"


def _fraction(arguments: Arguments) -> str:
    parts = arguments.positional()
    if len(parts) == 3:
        return f"{parts[0]} {parts[1]}/{parts[2]}"
    return f"{parts[0]}/{parts[1]}" if len(parts) == 2 else f"1/{arguments.get('1') or '2'}"


def _value(arguments: Arguments) -> str:
    exponent, unit = arguments.get("e"), arguments.get("u", "ul")
    power = f"×10{superscript(exponent)}" if exponent else ""
    return f"{_thousands(arguments.get('1'))}{power}{' ' if unit else ''}{unit}"


def _thousands(number: str) -> str:
    return f"{int(number):,}" if number.isascii() and number.isdecimal() and len(number) in range(4, 30) else number


def _date(arguments: Arguments) -> str:
    parts = arguments.positional()[:3]
    month = _month(parts[1]) if len(parts) > 1 else ""
    year = parts[0] if parts else ""
    day = parts[2].lstrip("0") if len(parts) > 2 else ""
    if arguments.get("df") or not day:
        return " ".join(part for part in (day, month, year) if part)
    return f"{month} {day}, {year}"


def _month(text: str) -> str:
    number = int(text) if text.isdecimal() and len(text) <= 2 else 0
    return _MONTHS[number - 1] if 1 <= number <= 12 else text


def _as_of(arguments: Arguments) -> str:
    if arguments.get("alt"):
        return arguments.get("alt")
    words = "since" if arguments.get("since") else "as of"
    shown = words if arguments.get("lc") else words.capitalize()
    return f"{shown} {_date(Arguments({**arguments.values, 'df': 'y'}))}"


def _music(arguments: Arguments) -> str:
    return {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮"}.get(arguments.get("1").lower(), HOLE)


# Names that show the same, separated by "|", and what they show.
_TABLE: tuple[tuple[str, Rule], ...] = (
    # an argument, in another look
    ("nowrap|nobr|nobreak|small|smaller|big|bigger|large|larger|midsize|sc|sc2|smallcaps|nobold|noitalic|em|strong|sub|"
     "abbr|tooltip|mvar|var|vanchor|visible anchor|unicode|polytonic|ipa|hebrew|not a typo|flag|flagu|flagcountry|"
     "nastaliq|railgauge|track gauge|kbd|format price|formatnum|w|aut|sic", _show("1")),
    ("sup", lambda arguments: superscript(arguments.get("1"))),
    ("lang|rtl-lang|script|color|colour|font color|fontcolor|langx|bdo", _show("2", "text")),
    ("ill|interlanguage link", _show("lt", "1")),
    ("nihongo|nihongo2|nihongo3|nihongo krt", _show("1", "3", "2")),
    ("transl|transliteration|tlit|linktext", _last),
    ("angbr|angle bracket", lambda arguments: f"⟨{arguments.get('1')}⟩"),
    ("chem|chem2|chemf", _joined("")),
    ("ship|bibleref|bibleverse|bibleref2", _joined(" ", first=2)),
    ("oldstyledate|oldstyledatedy", _joined(" ", first=2)),
    ("sclass|sclass-|sclass2|sclass2-", _joined("-class ", first=2)),
    # numbers and dates
    ("convert|cvt", lambda arguments: quantity(arguments.positional(), adjective=arguments.get("adj") == "on")),
    ("frac|fraction|sfrac", _fraction),
    ("val", _value),
    ("e", lambda arguments: f"×10{superscript(arguments.get('1'))}"),
    ("date|dts|start date|end date|birth date|death date|start date and age|birth date and age|death date and age|"
     "film date", _date),
    ("as of", _as_of),
    ("circa|c.|ca", _before("c. ")),
    ("floruit|fl.", _before("fl. ")),
    ("reign", lambda arguments: "r. " + "–".join(arguments.positional()[:2])),
    ("us$|usd", _before("$")),
    ("gbp|£|pound sterling", _before("£")),
    ("€|euro|eur", _before("€")),
    ("inr|₹", _before("₹")),
    ("music", _music),
    # signs
    ("'|-'", _literal("'")),
    ("'s", _literal("'s")),
    ('"|-"', _literal('"')),
    ("' \"|'\"", _literal("'\"")),
    ("\" '|\"'", _literal("\"'")),
    ("ndash|en dash|endash", _literal("–")),
    ("snd|spnd|spaced ndash|spaced en dash|dash", _literal(" – ")),
    ("mdash|em dash|emdash|mdashb", _literal("—")),
    ("nbsp|thinsp|space|spaces|thin space|hairsp|pad", _literal(" ")),
    ("dot|middot|·|•|bullet", _literal(" · ")),
    ("=", _literal("=")),
    ("carbon", _literal("C")),
    ("hydrogen", _literal("H")),
    ("oxygen", _literal("O")),
    ("nitrogen", _literal("N")),
    # blocks of their own
    ("quote|blockquote|cquote|quotation|bquote", _quote),
    ("break|br|pb|paragraph break|clear", _literal(PARAGRAPH)),
    # shows what the page alone does not tell
    ("math|mathsf|bigmath|sqrt|radical|code|tt|mono|nuclide|nuclide2|su|inflation|age|age in years|currentyear|pi|"
     "currentmonthname|currentday|intmath|overline|physics particle|subatomic particle", _literal(HOLE)),
)  # fmt: skip

_SHIP_PREFIXES = ("HMS", "HMAS", "HMCS", "HMNZS", "USS", "USNS", "SS", "RMS", "MS", "MV", "SMS")

RULES: dict[str, Rule] = {
    **{name: rule for names, rule in _TABLE for name in names.split("|")},
    **{prefix.lower(): _before(f"{prefix} ") for prefix in _SHIP_PREFIXES},
}
PREFIX_RULES: tuple[tuple[str, Rule], ...] = (("lang-", _show("1")),)
