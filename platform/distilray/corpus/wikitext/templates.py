"""Templates that carry visible words: a table from a template's name to what a reader sees of it.

Every other template (info boxes, citations, notices, navigation) shows nothing inside a sentence and is dropped, and so
is pronunciation: it stands in an aside that reads well without. A template that shows something which cannot be told
from the page alone (a formula, a price of today) is `HOLE`.
"""

# ruff: noqa: RUF001 - dashes and signs of running text are the subject here

from collections.abc import Callable

from distilray.corpus.wikitext.amounts import converted, fraction, height, ordinal, superscript, thousands, value
from distilray.corpus.wikitext.arguments import HOLE, PARAGRAPH, Arguments, Rule
from distilray.corpus.wikitext.dates import as_of, date, month_name, span, years_ago


def template_rule(name: str) -> Rule | None:
    """What makes the words of a template from its arguments; None for the many that show nothing in running text.

    Args:
        name: as written in the page.
    """
    key = " ".join(name.replace("_", " ").split())
    rule = RULES.get(key.lower()) or _VARIABLES.get(key)
    if rule is None and key.lower().startswith(_PREFIXES):
        prefix, colon, content = key.partition(":")
        if function := _FUNCTIONS.get(prefix.lower() + colon):
            return _literal(function(content.strip()))
        rule = next((rule for prefix, rule in PREFIX_RULES if key.lower().startswith(prefix)), None)
    return rule


def _show(*names: str) -> Rule:
    return lambda arguments: arguments.get(*names)


def _literal(text: str) -> Rule:
    return lambda arguments: text


def _last(arguments: Arguments) -> str:
    return next((value for value in reversed(arguments.positional()) if value), "")


def _joined(separator: str, *, first: int | None = None) -> Rule:
    return lambda arguments: separator.join(value for value in arguments.positional()[:first] if value)


def _around(before: str, after: str = "") -> Rule:
    return lambda arguments: f"{before}{arguments.get('1')}{after}"


def _quote(arguments: Arguments) -> str:
    return f"{PARAGRAPH}{arguments.get('1', 'text', 'quote', 'content')}{PARAGRAPH}"


def _sound(arguments: Arguments) -> str:
    """Old pages show the signs, the first argument; new ones give a language first and are pronunciation."""
    return "" if arguments.get("2") else arguments.get("1")


def _music(arguments: Arguments) -> str:
    return {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮"}.get(arguments.get("1").lower(), HOLE)


def _citation(form: str) -> Rule:
    """A short citation that is part of its sentence: authors and year."""

    def words(arguments: Arguments) -> str:
        *authors, year = [part for part in arguments.positional() if part] or [""]
        names = " & ".join(authors) if len(authors) < 3 else f"{', '.join(authors[:-1])} & {authors[-1]}"
        return form.format(names, year) if authors else HOLE

    return words


def _coordinates(arguments: Arguments) -> str:
    place = arguments.get("display")
    return HOLE if not place or "inline" in place else ""


# Names that show the same, separated by "|", and what they show.
_TABLE: tuple[tuple[str, Rule], ...] = (
    # an argument, in another look
    ("nowrap|nobr|nobreak|small|smaller|big|bigger|large|larger|midsize|sc|sc2|smallcaps|nobold|noitalic|em|strong|sub|"
     "abbr|abbrv|tooltip|mvar|var|vanchor|visible anchor|unicode|polytonic|hebrew|not a typo|as written|flag|flagu|"
     "flagcountry|flagdeco|nastaliq|nq|railgauge|track gauge|kbd|format price|formatnum|w|aut|sic|char|chem name|nts|"
     "number|proper name|small caps|stn|stnlnk|year article|okay|script/hebrew|script/arabic|iast|shy|nihongo core|"
     "nihongo foot|underline|u|green|red|blue|ins|crossreference|crossref|xref|hidden text|pre2|mono|samp", _show("1")),
    ("ipa|ipa text", _sound),
    ("ipaslink|ipa soundbox", _around("/", "/")),
    ("ipablink", _around("[", "]")),
    ("sup", lambda arguments: superscript(arguments.get("1"))),
    ("lang|rtl-lang|script|color|colour|font color|fontcolor|langx|bdo|wikt-lang|wt-lang|native name|native phrase|"
     "resize|audio", _show("2", "text")),
    ("ill|interlanguage link|interlanguage link multi|illm", _show("lt", "1")),
    ("nihongo|nihongo2|nihongo3|nihongo krt", _show("1", "3", "2")),
    ("transl|transliteration|tlit|linktext|iso15919", _last),
    ("angbr|angle bracket|grapheme|vr|angbr ipa", _around("⟨", "⟩")),
    ("gloss|literal translation|lit|lit.|trans|translation", _around("'", "'")),
    ("chem|chem2|chemf|gaps", _joined("")),
    ("keypress|key press|key", _joined("+")),
    ("ratio", _joined(":")),
    ("slink|section link", _joined(" § ", first=2)),
    ("rws", _around("", " railway station")),
    ("ship|bibleref|bibleverse|bibleref2|bible verse", _joined(" ", first=2)),
    ("oldstyledate|oldstyledatedy", _joined(" ", first=2)),
    ("sclass|sclass-|sclass2|sclass2-", _joined("-class ", first=2)),
    ("us patent|uspatent", lambda arguments: f"U.S. Patent {thousands(arguments.get('1'))}"),
    ("harvnb|harvcol", _citation("{} {}")),
    ("harvtxt|harvcoltxt|citet", _citation("{} ({})")),
    ("harv|harvp|harvs", _citation("({} {})")),
    # numbers and dates
    ("convert|cvt", converted),
    ("frac|fraction|sfrac", fraction),
    ("val", value),
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
    ("mya|ma|million years ago", years_ago("million years")),
    ("bya|ga", years_ago("billion years")),
    ("us$|usd|us dollar", _around("$")),
    ("gbp|£|pound sterling|gb£", _around("£")),
    ("€|euro|eur", _around("€")),
    ("inr|₹|indian rupee|rupee", _around("₹")),
    ("jpy|¥|yen|cny|rmb", _around("¥")),
    ("a$|aud", _around("A$")),
    ("c$|ca$|cad", _around("CA$")),
    ("nz$|nzd", _around("NZ$")),
    ("hk$|hkd", _around("HK$")),
    ("philippine peso|php|peso", _around("₱")),
    ("music", _music),
    # signs
    ("'|-'|apostrophe", _literal("'")),
    ("'s", _literal("'s")),
    ('"|-"', _literal('"')),
    ("' \"|'\"", _literal("'\"")),
    ("\" '|\"'", _literal("\"'")),
    ("ndash|en dash|endash|en-dash", _literal("–")),
    ("snd|snds|spnd|spndash|spaced ndash|spaced en dash|dash", _literal(" – ")),
    ("mdash|em dash|emdash|mdashb", _literal("—")),
    ("spaced mdash|smd|spaced em dash", _literal(" — ")),
    ("nbhyph|nbh|hyphen|hyp", _literal("-")),
    ("nbsp|nbs|thinsp|thinspace|space|spaces|thin space|hairsp|pad|sp|nnbsp|indent|0ws|wsp", _literal(" ")),
    ("dot|middot|·|•|bullet|bull", _literal(" · ")),
    ("ellipsis|...", _literal("...")),
    ("=", _literal("=")),
    ("pm|±", _literal("±")),
    ("times|x mult", _literal("×")),
    ("minus|−", _literal("−")),
    ("eqm|equilibrium", _literal("⇌")),
    ("okina|ʻokina", _literal("ʻ")),
    ("hamza", _literal("ʾ")),
    ("ayin|ayn", _literal("ʿ")),
    ("prime", _around("", "′")),
    ("pprime", _around("", "″")),
    ("deg|degree", _around("", "°")),
    ("carbon", _literal("C")),
    ("hydrogen", _literal("H")),
    ("oxygen", _literal("O")),
    ("nitrogen", _literal("N")),
    # blocks of their own
    ("quote|blockquote|cquote|quotation|bquote|quoteblock|block quote|block quotation|centered quote", _quote),
    ("break|br|pb|paragraph break|clear|-|paragraph", _literal(PARAGRAPH)),
    # shows what the page alone does not tell
    ("coord|coordinates", _coordinates),
    ("math|mathsf|bigmath|sqrt|radical|radic|code|tt|nuclide|nuclide2|su|inflation|age|age in years|currentyear|pi|"
     "currentmonthname|currentday|intmath|overline|physics particle|subatomic particle|age in days|"
     "age in years and days|time ago|years ago|years or months ago|inrconvert|to usd|currency|fb|fbw|unichar|"
     "pop density|population density|cite quran|dentalformula|simplenuclide|number to words|numtext|inflation year|"
     "bra|ket|braket|abs|binom|vec|tmath|url|cardinal to word|ordinal to word|vector|langle|rangle",
     _literal(HOLE)),
)  # fmt: skip

_SHIP_PREFIXES = (
    "HMS", "HMAS", "HMCS", "HMNZS", "HMT", "USS", "USNS", "USCGC", "USAT", "SS", "RMS", "MS", "MV", "SMS", "HNLMS",
    "HNoMS", "HDMS", "INS", "ORP", "PNS", "RV", "TSS", "PS", "ARA", "GTS", "RFA",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{prefix.lower(): _around(f"{prefix} ") for prefix in _SHIP_PREFIXES},
    **{name: rule for names, rule in _TABLE for name in names.split("|")},
}
PREFIX_RULES: tuple[tuple[str, Rule], ...] = (
    ("lang-", _show("1")),
    ("script/", _show("1", "2")),
    ("#expr:", _literal(HOLE)),
    ("#time:", _literal(HOLE)),
    ("#language:", _literal(HOLE)),
    ("plural:", _literal(HOLE)),
)
# What a page is called and when it is read is not in its text. In capitals only.
_VARIABLES: dict[str, Rule] = dict.fromkeys(
    (
        "PAGENAME", "FULLPAGENAME", "BASEPAGENAME", "SUBPAGENAME", "SITENAME", "NAMESPACE", "CURRENTYEAR",
        "CURRENTMONTH", "CURRENTMONTHNAME", "CURRENTDAY", "CURRENTDAYNAME", "CURRENTTIME", "LOCALYEAR",
        "NUMBEROFARTICLES", "NUMBEROFPAGES", "NUMBEROFUSERS", "NUMBEROFADMINS", "REVISIONYEAR",
    ),
    _literal(HOLE),
)  # fmt: skip
_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "formatnum:": thousands,
    "lc:": str.lower,
    "uc:": str.upper,
    "lcfirst:": lambda text: text[:1].lower() + text[1:],
    "ucfirst:": lambda text: text[:1].upper() + text[1:],
}
_PREFIXES = (*_FUNCTIONS, *(prefix for prefix, _ in PREFIX_RULES))
