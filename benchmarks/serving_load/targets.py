"""Bars: what was measured, beside a peer or a limit, with the goal; as a table and as JSON."""

import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Bar:
    """One measured value.

    Attributes:
        value: with its unit.
        against: what it is compared with, and its value.
        reference: the value of that; the ratio is value / reference.
        goal: such as ">= 10"; of the ratio when there is a reference, else of the value; "" for information only.
    """

    part: str
    what: str
    value: float
    unit: str = ""
    goal: str = ""
    against: str = ""
    reference: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the reference."""
        return None if self.reference is None else self.value / max(self.reference, 1e-9)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if not self.goal:
            return None
        sign, _, bound = self.goal.partition(" ")
        judged = self.value if self.ratio is None else self.ratio
        return bool(_COMPARISONS[sign](judged, float(bound)))


def table(bars: Sequence[Bar]) -> str:
    """The bars as lines of text."""
    rows = [("part", "what", "measured", "against", "ratio", "goal", "met"), *map(_cells, bars)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write_results(file: Path, bars: Sequence[Bar], details: dict[str, Any]) -> None:
    """Bars and everything behind them as JSON."""
    rows = [{**asdict(bar), "ratio": bar.ratio, "met": bar.met} for bar in bars]
    file.write_text(json.dumps({"bars": rows, **details}, indent=1) + "\n")


def _cells(bar: Bar) -> tuple[str, ...]:
    measured = f"{_number(bar.value)} {bar.unit}".rstrip()
    against = bar.against if bar.reference is None else f"{bar.against} {_number(bar.reference)}"
    ratio = "" if bar.ratio is None else f"{bar.ratio:.2f}x"
    met = {True: "yes", False: "NO", None: ""}[bar.met]
    return bar.part, bar.what, measured, against, ratio, bar.goal, met


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
