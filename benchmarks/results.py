"""Results of a benchmark: our value, the value of a peer, and their ratio, as a table and as JSON."""

import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Result:
    """One measured value.

    Attributes:
        ours: value in `unit`.
        peer: description of the peer or limit.
        reference: value of the peer; the ratio is ours / reference.
        goal: such as ">= 10", for the ratio if there is a reference, else for our value; "" if there is no goal.
    """

    what: str
    ours: float
    unit: str = ""
    goal: str = ""
    peer: str = ""
    reference: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.reference is None else self.ours / max(self.reference, 1e-9)

    @property
    def met(self) -> bool | None:
        """Return True if the goal is met, or None without a goal."""
        if not self.goal:
            return None
        sign, _, bound = self.goal.partition(" ")
        compared = self.ours if self.ratio is None else self.ratio
        return bool(_COMPARISONS[sign](compared, float(bound)))


def table(results: Sequence[Result]) -> str:
    return align([("what", "ours", "peer", "ratio", "goal", "met"), *map(_cells, results)])


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with aligned columns; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write_results(file: Path, results: Sequence[Result], details: dict[str, Any]) -> None:
    rows = [{**asdict(result), "ratio": result.ratio, "met": result.met} for result in results]
    file.write_text(json.dumps({"results": rows, **details}, indent=1) + "\n")


def _cells(result: Result) -> tuple[str, ...]:
    ours = f"{_number(result.ours)} {result.unit}".rstrip()
    peer = result.peer if result.reference is None else f"{result.peer}: {_number(result.reference)}"
    ratio = "" if result.ratio is None else f"{result.ratio:.2f}x"
    met = {True: "yes", False: "NO", None: ""}[result.met]
    return result.what, ours, peer, ratio, result.goal, met


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
