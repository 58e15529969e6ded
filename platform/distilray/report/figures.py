"""Labels and formats of figures in the report and the model card."""

import math
from collections.abc import Iterator, Mapping, Sequence

NOTHING = "-"

# Label and format by key; an empty one is the default.
_FIGURES: Mapping[str, tuple[str, str]] = {
    "mrr": ("MRR", ".3f"),
    "median_rank": ("median rank of the true token", ",.0f"),
    "mean_rank": ("mean rank of the true token", ",.1f"),
    "pseudo_perplexity": ("pseudo-perplexity", ",.1f"),
    "pseudo_perplexity_change": ("", "+.2%"),
    "joint_exact": ("answers of several pieces, right at once", ".3f"),
    "left_to_right_exact": ("answers of several pieces, right from left to right", ".3f"),
    "joint_perplexity": ("their perplexity at once", ""),
    "left_to_right_perplexity": ("their perplexity from left to right", ""),
    "score": ("", ".4f"),
    "agreement": ("same best token", ".3f"),
    "max_difference": ("", ".1e"),
    "parameters": ("", ",.0f"),
    "layer_parameters": ("parameters of the layers", ",.0f"),
    "megabytes": ("weights, MB", ",.1f"),
    "latency_ms": ("latency, ms (CPU, fp32, batch 1, median)", ",.1f"),
    "latency_p95_ms": ("latency, ms (95th percentile)", ",.1f"),
    "latency_speedup": ("latency, times the first", ".2f"),
    "throughput_speedup": ("throughput, times the first", ".2f"),
    "tokens_per_s": ("", ",.0f"),
    "texts_per_s": ("texts per second", ",.0f"),
}


def label(key: str) -> str:
    """Return the label of a key; without one, the key with spaces for underscores."""
    return _FIGURES.get(key, ("", ""))[0] or key.replace(".", ": ").replace("_", " ")


def shown(key: str, value: object) -> str:
    """Format the value of a key: a number, two numbers as an interval, anything else as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == 0 or isinstance(value, int):
        return f"{value:,.0f}"
    if isinstance(value, float):
        default = ".3f" if key.startswith("hit@") else ",.4g" if abs(value) < 1e4 else ",.0f"
        return format(value, _FIGURES.get(key, ("", ""))[1] or default)
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [shown(key, part) for part in value]
        is_interval = len(parts) == 2 and all(isinstance(part, int | float) for part in value)
        return " to ".join(parts) if is_interval else ", ".join(parts)
    return str(value)


def flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested values, each with its keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def interval(bounds: Sequence[float] | None) -> str:
    """Return the bounds of a share, times 100."""
    return NOTHING if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def size(count: float) -> str:
    """Return bytes in decimal units."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count:,.0f} B"


def time(seconds: float) -> str:
    for limit, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= limit:
            return f"{seconds / limit:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def counted(count: int, noun: str) -> str:
    """Return a count and its noun, such as `1 step` or `1,200 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
