"""Labels and number formats of the report and the model card."""

import math
from collections.abc import Iterator, Mapping, Sequence

NOTHING = "-"

# Label and format by key; an empty string selects the default.
_LABELS_AND_FORMATS: Mapping[str, tuple[str, str]] = {
    "mrr": ("MRR", ".3f"),
    "median_rank": ("median rank of the true token", ",.0f"),
    "mean_rank": ("mean rank of the true token", ",.1f"),
    "pseudo_perplexity": ("pseudo-perplexity", ",.1f"),
    "pseudo_perplexity_change": ("", "+.2%"),
    "joint_exact": ("multi-piece answers correct, joint", ".3f"),
    "left_to_right_exact": ("multi-piece answers correct, left to right", ".3f"),
    "joint_perplexity": ("perplexity of multi-piece answers, joint", ""),
    "left_to_right_perplexity": ("perplexity of multi-piece answers, left to right", ""),
    "score": ("", ".4f"),
    "agreement": ("same best token", ".3f"),
    "max_difference": ("", ".1e"),
    "parameters": ("", ",.0f"),
    "layer_parameters": ("parameters of the layers", ",.0f"),
    "megabytes": ("weights, MB", ",.1f"),
    "latency_ms": ("latency, ms (CPU, fp32, batch 1, median)", ",.1f"),
    "latency_p95_ms": ("latency, ms (95th percentile)", ",.1f"),
    "latency_speedup": ("latency speedup over the first", ".2f"),
    "throughput_speedup": ("throughput speedup over the first", ".2f"),
    "tokens_per_s": ("", ",.0f"),
    "texts_per_s": ("texts per second", ",.0f"),
}


def label(key: str) -> str:
    """Return the label of a key; by default, the key with spaces instead of underscores."""
    return _LABELS_AND_FORMATS.get(key, ("", ""))[0] or key.replace(".", ": ").replace("_", " ")


def format_value(key: str, value: object) -> str:
    """Format a value: a number by its key, two numbers as an interval, anything else as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == 0 or isinstance(value, int):
        return f"{value:,.0f}"
    if isinstance(value, float):
        default = ".3f" if key.startswith("hit@") else ",.4g" if abs(value) < 1e4 else ",.0f"
        return format(value, _LABELS_AND_FORMATS.get(key, ("", ""))[1] or default)
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [format_value(key, part) for part in value]
        is_interval = len(parts) == 2 and all(isinstance(part, int | float) for part in value)
        return " to ".join(parts) if is_interval else ", ".join(parts)
    return str(value)


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested mappings with their keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def format_interval(bounds: Sequence[float] | None) -> str:
    """Format the interval of a share in percent."""
    return NOTHING if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def format_size(count: float) -> str:
    """Format a number of bytes in decimal units."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count:,.0f} B"


def short_hash(value: object) -> str:
    return str(value)[:12]


def format_duration(seconds: float) -> str:
    for limit, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= limit:
            return f"{seconds / limit:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 step` or `1,200 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
