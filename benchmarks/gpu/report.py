"""Lines and table of the GPU benchmark."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.results import align

Record = Mapping[str, Any]


def _number(key: str, text: str) -> Callable[[Record], str]:
    return lambda record: "" if record.get(key) is None else text.format(record[key])


# Name of each column, and its text for a record.
COLUMNS: Mapping[str, Callable[[Record], str]] = {
    "cell": lambda record: str(record["cell"]),
    "status": lambda record: str(record["status"]),
    "tokens/s": _number("tokens_per_s", "{:,.0f}"),
    "MFU": _number("mfu", "{:.1%}"),
    "projected": _number("projected_mfu", "{:.1%}"),
    "GB": _number("memory_gb", "{:.2f}"),
    "traced": _number("traced_gb", "{:.2f}"),
    "planned": _number("planned_gb", "{:.2f}"),
    "syncs": _number("syncs", "{:.1f}"),
    "warm-up s": _number("warm_up_s", "{:.1f}"),
    "remark": lambda record: str(record.get("message", "")),
}


def line(record: Record) -> str:
    """Return a record as one line without empty columns."""
    texts = {name: text(record) for name, text in COLUMNS.items()}
    figures = [f"{name} {text}" for name, text in texts.items() if text and name not in ("cell", "status", "remark")]
    parts = [f"{texts['status']} after {record.get('seconds', 0.0):.0f} s", *figures, texts["remark"]]
    return f"{texts['cell']}: {', '.join(part for part in parts if part)}"


def table(records: Sequence[Record]) -> str:
    """Return a table with one row per record, without columns that are empty in all of them."""
    rows = [[text(record) for text in COLUMNS.values()] for record in records]
    used = [column for column in range(len(COLUMNS)) if any(row[column] for row in rows)]
    return align([[row[column] for column in used] for row in [list(COLUMNS), *rows]])
