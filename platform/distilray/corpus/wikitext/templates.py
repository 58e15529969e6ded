"""Rules for the visible text of templates: from the recipe, from `templates.yaml`, and functions in this module.

A rule returns the text of a template, `HOLE` if it cannot be derived from the page, or an empty string. Pronunciations
are empty: the parenthesis around them can be removed.
"""

# ruff: noqa: RUF001 - this module handles typographic characters

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from distilray.config.corpus import normalize_name
from distilray.corpus.wikitext.arguments import HOLE, PARAGRAPH, Arguments, Rule
from distilray.corpus.wikitext.number_templates import (
    converted_quantity,
    fraction,
    height,
    ordinal,
    superscript,
    thousands,
    value,
)
from distilray.corpus.wikitext.sites import TEMPLATE, Site

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

_FIELD = re.compile(r"\{([^{}]+)\}")
_FUNCTION_PREFIXES = ("subst:", "safesubst:")


class TemplateRules:
    """Template rules of one wiki.

    Args:
        site: wiki with the name of its template namespace and the rules for its language.
        recipe: user rules by template name: `nothing`, `drop sentence` or a format. They take precedence.
    """

    def __init__(self, site: Site, recipe: Mapping[str, str]) -> None:
        self._site = site
        local: Mapping[str, list[str]] = site.data.get("templates", {})
        self._named = {
            **RULES,
            **_rules_by_name(local),
            **{normalize_name(name): _rule(text) for name, text in recipe.items()},
        }
        self._cache: dict[str, Rule | None] = {}  # by name as written

    def rule(self, name: str) -> Rule | None:
        """Return the rule of a template by its name as written on the page, or None if it is unknown."""
        try:
            return self._cache[name]
        except KeyError:
            rule = self._find(name)
            if len(self._cache) < _MAX_CACHED:
                self._cache[name] = rule
            return rule

    def _find(self, name: str) -> Rule | None:
        if rule := _VARIABLES.get(name.strip()):
            return rule
        key = normalize_name(name)
        key = next((key.removeprefix(prefix) for prefix in _FUNCTION_PREFIXES if key.startswith(prefix)), key)
        namespace, colon, page = key.partition(":")
        if colon and self._site.namespace_of(namespace) == TEMPLATE:
            key = page.strip()
        if key in self._named:
            return self._named[key]
        for text, suffixes in _TABLES["suffixes"].items():
            if key.endswith(tuple(suffixes)):
                return _rule(text)
        for text, prefixes in _TABLES["prefixes"].items():
            if key.startswith(tuple(prefixes)):
                return _rule(text)
        return None

    @staticmethod
    def function(name: str) -> Callable[[str], str] | None:
        """Return a parser function such as `lc` by its name, or None if it is unknown."""
        return _FUNCTIONS.get(normalize_name(name))


def nothing(arguments: Arguments) -> str:
    """Rule of templates without visible text."""
    return ""


def hole(arguments: Arguments) -> str:
    """Rule of templates whose sentence is dropped."""
    return HOLE


def _rule(text: str) -> Rule:
    """Parse a rule of a recipe or table: `nothing`, `drop sentence` or a format."""
    return {"nothing": nothing, "drop sentence": hole}.get(text) or _format(text)


def _format(text: str) -> Rule:
    pieces = _FIELD.split(text)  # literals and fields alternate
    fields = [field.split("|") for field in pieces[1::2]]
    if not fields:
        return lambda arguments: text

    def render(arguments: Arguments) -> str:
        values = [arguments.get(*names) for names in fields]
        if not any(values):
            return ""
        return "".join(piece for pair in zip(pieces[::2], [*values, ""], strict=True) for piece in pair)

    return render


def _rules_by_name(table: Mapping[str, list[str]]) -> dict[str, Rule]:
    return {normalize_name(name): rule for text, names in table.items() for rule in [_rule(text)] for name in names}


def _last(arguments: Arguments) -> str:
    return next((value for value in reversed(arguments.positional()) if value), "")


def _join(separator: str, *, first: int | None = None) -> Rule:
    return lambda arguments: separator.join(value for value in arguments.positional()[:first] if value)


def _quote(arguments: Arguments) -> str:
    return f"{PARAGRAPH}{arguments.get('1', 'text', 'quote', 'content')}{PARAGRAPH}"


def _pronunciation(arguments: Arguments) -> str:
    """Render `ipa`. A single argument is shown as symbols; with a language before it, it is a pronunciation."""
    return "" if arguments.get("2") else arguments.get("1")


def _ship(prefix: str, name: str, form: str) -> str:
    """Render a name such as "USS Enterprise". Forms 3 and 5 omit the prefix; 1 and 4 show the hull number."""
    if form in ("1", "4"):
        return HOLE
    return " ".join(part for part in ("" if form in ("3", "5") else prefix, name) if part)


def _ship_rule(prefix: str) -> Rule:
    return lambda arguments: _ship(prefix, arguments.get("1"), arguments.get("3"))


def _country(arguments: Arguments) -> str:
    """Render the name of a country. The names of codes such as FRA are unknown."""
    name = arguments.get("1")
    return HOLE if name.isupper() and len(name) <= 3 else name


def _bible_verse(arguments: Arguments) -> str:
    """Render book (with its number), chapter and verse, without the Bible version."""
    number, *rest = arguments.positional() or [""]
    parts = rest[:2] if not number else [number, *rest[: 2 if number in ("1", "2", "3", "4") else 1]]
    return " ".join(part for part in parts if part)


def _music(arguments: Arguments) -> str:
    return {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮"}.get(arguments.get("1").lower(), HOLE)


def _citation(form: str) -> Rule:
    """Return the rule of a short citation in running text: authors and year."""

    def render(arguments: Arguments) -> str:
        *authors, year = [part for part in arguments.positional() if part] or [""]
        names = " & ".join(authors) if len(authors) < 3 else f"{', '.join(authors[:-1])} & {authors[-1]}"
        return form.format(names, year) if authors else HOLE

    return render


def _coordinates(arguments: Arguments) -> str:
    display = arguments.get("display")
    return HOLE if not display or "inline" in display else ""


def date(arguments: Arguments) -> str:
    """Render unnamed year, month and day as "May 12, 1990", or with `df` as "12 May 1990"."""
    parts = [part for part in arguments.positional()[:3] if part]
    month = month_name(parts[1]) if len(parts) > 1 else ""
    year = parts[0] if parts else ""
    day = parts[2].lstrip("0") if len(parts) > 2 else ""
    if arguments.get("df") or not day:
        return " ".join(part for part in (day, month, year) if part)
    return f"{month} {day}, {year}"


def as_of(arguments: Arguments) -> str:
    """Render `as of`: "As of April 2010", "since 2014", or the text of `alt`."""
    if arguments.get("alt"):
        return arguments.get("alt")
    words = "since" if arguments.get("since") else "as of"
    prefix = words if arguments.get("lc") else words.capitalize()
    is_american = arguments.get("df").lower() == "us"
    return f"{prefix} {date(Arguments({**arguments.values, 'df': '' if is_american else 'y'}))}"


def month_name(text: str) -> str:
    """Return the name of a month by its number. Other text is unchanged."""
    number = int(text) if text.isdecimal() and len(text) <= 2 else 0
    return _MONTHS[number - 1] if 1 <= number <= 12 else text


def span(prefix: str) -> Rule:
    """Return the rule for "c. 1200", or "fl. 1200–1250" with two dates."""
    return lambda arguments: prefix + "–".join(value for value in arguments.positional()[:2] if value)


def years_ago(unit: str) -> Rule:
    """Return the rule for "65 million years ago", or "70–65 million years ago" with two numbers."""
    return lambda arguments: "–".join(value for value in arguments.positional()[:2] if value) + f" {unit} ago"


_MAX_CACHED = 10_000  # template names
_TABLES: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("templates.yaml").read_text(encoding="utf-8"))

# Template names separated by "|", and their rule.
_FUNCTION_RULES: tuple[tuple[str, Rule], ...] = (
    ("ipa|ipa text", _pronunciation),
    ("sup", lambda arguments: superscript(arguments.get("1"))),
    ("transl|transliteration|tlit|iso15919", _last),
    ("linktext|chem|chem2|chemf|gaps|sic|typo|not a typo|as written", _join("")),
    ("post-nominals|postnominals|post nominals", _join(", ")),
    ("bibleref|bibleverse|bibleref2|bible verse", _bible_verse),
    ("ship", lambda arguments: _ship(arguments.get("1"), arguments.get("2"), arguments.get("4"))),
    ("flagcountry", _country),
    ("keypress|key press|key", _join("+")),
    ("ratio", _join(":")),
    ("slink|section link", _join(" § ", first=2)),
    ("us patent|uspatent", lambda arguments: f"U.S. Patent {thousands(arguments.get('1'))}"),
    ("harvnb|harvcol", _citation("{} {}")),
    ("harvtxt|harvcoltxt|citet", _citation("{} ({})")),
    ("harv|harvp|harvs", _citation("({} {})")),
    ("convert|cvt", converted_quantity),
    ("frac|fraction|sfrac", fraction),
    ("val", value),
    ("nts|number|format price|formatnum", lambda arguments: thousands(arguments.get("1"))),
    ("ordinal", ordinal),
    ("height", height),
    ("e", lambda arguments: f"×10{superscript(arguments.get('1'))}"),
    ("10^", lambda arguments: f"10{superscript(arguments.get('1'))}"),
    ("date|dts|start date|end date|birth date|death date|start date and age|birth date and age|death date and age|"
     "film date|bda|dda|start-date|end-date|birth-date|death-date|end date and age|launch date", date),
    ("monthname|month name", lambda arguments: month_name(arguments.get("1"))),
    ("as of", as_of),
    ("circa|c.|ca|ca.", span("c. ")),
    ("floruit|fl.", span("fl. ")),
    ("reign|r.", span("r. ")),
    ("born|b.|born in", span("b. ")),
    ("died|d.", span("d. ")),
    ("née|nee|neé", span("née ")),
    ("no.|numero|number sign", span("No. ")),
    ("mya|ma|million years ago", years_ago("million years")),
    ("bya|ga", years_ago("billion years")),
    ("music", _music),
    ("quote|blockquote|cquote|quotation|bquote|quoteblock|block quote|block quotation|centered quote", _quote),
    ("break|br|pb|paragraph break|clear|-|paragraph", lambda arguments: PARAGRAPH),
    ("coord|coordinates", _coordinates),
)  # fmt: skip
_SHIP_PREFIXES = (
    "HMS", "HMAS", "HMCS", "HMNZS", "HMT", "USS", "USNS", "USCGC", "USAT", "SS", "RMS", "MS", "MV", "SMS", "HNLMS",
    "HNoMS", "HDMS", "INS", "ORP", "PNS", "RV", "TSS", "PS", "ARA", "GTS", "RFA",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **{prefix.lower(): _ship_rule(prefix) for prefix in _SHIP_PREFIXES},
    **_rules_by_name(_TABLES["formats"]),
    **{name: nothing for names in _TABLES["nothing"].values() for name in names},
    **dict.fromkeys(_TABLES["drop sentence"], hole),
    **{name: rule for names, rule in _FUNCTION_RULES for name in names.split("|")},
}
# Variables whose value is not in the page, such as its name or the current time. In capitals only.
_VARIABLES: dict[str, Rule] = dict.fromkeys(
    (
        "PAGENAME", "FULLPAGENAME", "BASEPAGENAME", "SUBPAGENAME", "SITENAME", "NAMESPACE", "CURRENTYEAR",
        "CURRENTMONTH", "CURRENTMONTHNAME", "CURRENTDAY", "CURRENTDAYNAME", "CURRENTTIME", "LOCALYEAR",
        "NUMBEROFARTICLES", "NUMBEROFPAGES", "NUMBEROFUSERS", "NUMBEROFADMINS", "REVISIONYEAR",
    ),
    hole,
)  # fmt: skip
_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "formatnum": thousands,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
    **dict.fromkeys(["#expr", "#time", "#language", "plural", "grammar"], lambda text: HOLE),
}
