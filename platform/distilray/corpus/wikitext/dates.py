"""The words of the templates of dates and spans of time."""

# ruff: noqa: RUF001 - dashes of running text are the subject here

from distilray.corpus.wikitext.arguments import Arguments, Rule

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def date(arguments: Arguments) -> str:
    """Year, month and day, each without a name, as "May 12, 1990", or "12 May 1990" with `df`."""
    parts = [part for part in arguments.positional()[:3] if part]
    month = month_name(parts[1]) if len(parts) > 1 else ""
    year = parts[0] if parts else ""
    day = parts[2].lstrip("0") if len(parts) > 2 else ""
    if arguments.get("df") or not day:
        return " ".join(part for part in (day, month, year) if part)
    return f"{month} {day}, {year}"


def as_of(arguments: Arguments) -> str:
    """As "As of April 2010", "since 2014", or the words of `alt`."""
    if arguments.get("alt"):
        return arguments.get("alt")
    words = "since" if arguments.get("since") else "as of"
    shown = words if arguments.get("lc") else words.capitalize()
    is_american = arguments.get("df").lower() == "us"
    return f"{shown} {date(Arguments({**arguments.values, 'df': '' if is_american else 'y'}))}"


def month_name(text: str) -> str:
    """The name of a month from its number; any other text as it is."""
    number = int(text) if text.isdecimal() and len(text) <= 2 else 0
    return _MONTHS[number - 1] if 1 <= number <= 12 else text


def span(prefix: str) -> Rule:
    """Makes "c. 1200", or "fl. 1200–1250" of two dates."""
    return lambda arguments: prefix + "–".join(value for value in arguments.positional()[:2] if value)


def years_ago(unit: str) -> Rule:
    """Makes "65 million years ago", or "70–65 million years ago" of two numbers."""
    return lambda arguments: "–".join(value for value in arguments.positional()[:2] if value) + f" {unit} ago"
