"""Numbers as people read them: the label and the form of each known key, and a plain form of every other."""

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from distilray.report.page import Markup, markup, table

NOTHING = "-"

FORMS: Mapping[str, str] = {
    "mrr": ".3f",
    "median_rank": ",.0f",
    "mean_rank": ",.1f",
    "pseudo_perplexity": ",.1f",
    "joint_exact": ".3f",
    "left_to_right_exact": ".3f",
    "parameters": ",.0f",
    "layer_parameters": ",.0f",
    "megabytes": ",.1f",
    "latency_ms": ",.1f",
    "latency_p95_ms": ",.1f",
    "tokens_per_s": ",.0f",
    "texts_per_s": ",.0f",
    "latency_speedup": ".2f",
    "throughput_speedup": ".2f",
    "pseudo_perplexity_change": "+.2%",
    "max_difference": ".1e",
    "score": ".4f",
    "agreement": ".3f",
}
LABELS: Mapping[str, str] = {
    "mrr": "MRR",
    "median_rank": "median rank of the true token",
    "mean_rank": "mean rank of the true token",
    "pseudo_perplexity": "pseudo-perplexity",
    "joint_exact": "answers of several pieces, right at once",
    "left_to_right_exact": "answers of several pieces, right from left to right",
    "joint_perplexity": "their perplexity at once",
    "left_to_right_perplexity": "their perplexity from left to right",
    "layer_parameters": "parameters of the layers",
    "megabytes": "weights, MB",
    "latency_ms": "latency, ms (CPU, fp32, batch 1, median)",
    "latency_p95_ms": "latency, ms (95th percentile)",
    "agreement": "same best token",
    "latency_speedup": "latency, times the first",
    "throughput_speedup": "throughput, times the first",
    "texts_per_s": "texts per second",
}


def label(key: str) -> str:
    """What a key means; an unknown one without its underscores."""
    return LABELS.get(key, key.replace(".", ": ").replace("_", " "))


def shown(key: str, value: object) -> str:
    """A value of a key: a number in its form, two numbers as an interval, anything else as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == 0 or isinstance(value, int):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:{FORMS.get(key) or _form(key, value)}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [shown(key, part) for part in value]
        both = len(parts) == 2 and all(isinstance(part, int | float) for part in value)
        return " to ".join(parts) if both else ", ".join(parts)
    return str(value)


def flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested values, each with its keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def size(count: float) -> str:
    """Bytes in decimal units."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count:,.0f} B"


def time(seconds: float) -> str:
    """A duration in the unit that fits."""
    for limit, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= limit:
            return f"{seconds / limit:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def counted(count: int, noun: str) -> str:
    """A number of things, such as `1 step` or `1,200 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def from_rich(found: Table) -> Markup:
    """A table that a job prints, as one of the page."""
    columns = [[_plain(cell) for cell in column.cells] for column in found.columns]
    rows = [[_with_breaks(cell) for cell in row] for row in zip(*columns, strict=True)]
    caption = ". ".join(text for text in (_plain(found.title), _plain(found.caption)) if text)
    return table(caption[:1].upper() + caption[1:], [_plain(column.header) for column in found.columns], rows)


def _form(key: str, value: float) -> str:
    if key.startswith("hit@"):
        return ".3f"
    return ",.4g" if abs(value) < 1e4 else ",.0f"


def _plain(cell: object) -> str:
    return "" if cell is None else Text.from_markup(str(cell)).plain


def _with_breaks(text: str) -> object:
    lines = text.split("\n")
    return text if len(lines) == 1 else Markup("<br>".join(markup(line) for line in lines))
