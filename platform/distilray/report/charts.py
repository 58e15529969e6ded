"""Charts as SVG inside the page: drawn by matplotlib, in the colours of the page, light or dark."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from distilray.report.page import Markup
from distilray.report.style import SERIES

_INCHES = (4.6, 2.9)  # small enough that its letters can be read on a phone
_MOST_POINTS = 400  # of a line; a long run logs a hundred thousand
_WIDE_RANGE = 8.0  # of positive values: beyond it the axis is logarithmic

# matplotlib knows no variables of CSS, so it draws in these colours, which nothing else has.
_INK, _GRID, _FAINT = "#010203", "#010204", "#010205"
_LINES = {name: f"#0102{10 + number}" for number, name in enumerate(SERIES)}
_VARIABLES = {
    _INK: "var(--ink)",
    _GRID: "var(--grid)",
    _FAINT: "var(--faint)",
    **{colour: f"var(--{name})" for name, colour in _LINES.items()},
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": _GRID,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "ytick.left": False,
    "ytick.minor.left": False,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Line:
    """A line of a chart; points that are no numbers are left out.

    Attributes:
        measured: seldom, so that its points are shown as such.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    measured: bool = False

    def points(self) -> list[tuple[float, float]]:
        """At most some hundreds: the means of neighbours, in their order."""
        found = [
            (float(x), float(y)) for x, y in zip(self.x, self.y, strict=True) if y is not None and math.isfinite(y)
        ]
        each = -(-len(found) // _MOST_POINTS) or 1
        groups = [found[start : start + each] for start in range(0, len(found), each)]
        return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str, wide: bool = False) -> Markup:
    """Lines over a common axis; nothing when none has a point.

    Args:
        title: what it shows, for those who do not see it; the ends of its lines are added.
        wide: whether the axis may be logarithmic, when its values lie far apart.
    """
    drawn = [(line, points) for line in lines if (points := line.points())]
    if not drawn:
        return Markup("")
    values = [y for _, points in drawn for _, y in points]

    def draw(panel: Any) -> None:
        for number, (line, points) in enumerate(drawn):
            colour = _LINES[SERIES[number % len(SERIES)]]
            x, y = zip(*points, strict=True)
            marker = "o" if line.measured or len(points) == 1 else None
            panel.plot(x, y, color=colour, linewidth=1.6, marker=marker, markersize=4, label=line.label)
        if wide and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
            panel.set_yscale("log")
        panel.yaxis.set_major_formatter(lambda value, _: _short(value))
        panel.yaxis.set_minor_formatter(lambda *_: "")
        panel.xaxis.set_major_formatter(lambda value, _: _short(value))
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        if len(drawn) > 1:
            panel.legend(loc="best", fontsize="small")

    ends = [f"{line.label} from {_short(p[0][1])} to {_short(p[-1][1])}" for line, p in drawn]
    return _svg(f"{title}: {', '.join(ends)}", draw)


def bar_chart(title: str, bars: Mapping[str, float], *, x_label: str, y_label: str) -> Markup:
    """Bars side by side; nothing without one."""
    if not bars:
        return Markup("")

    def draw(panel: Any) -> None:
        panel.bar(range(len(bars)), list(bars.values()), color=_LINES[SERIES[0]], width=0.8)
        many = len(bars) > 8 or max(map(len, bars)) > 6
        panel.set_xticks(range(len(bars)), list(bars), rotation=45 if many else 0, ha="right" if many else "center")
        panel.tick_params(axis="x", length=0)
        panel.yaxis.set_major_formatter(lambda value, _: _short(value))
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)

    most = max(bars, key=lambda name: bars[name])
    return _svg(f"{title}: {len(bars)} bars, the highest at {most} with {_short(bars[most])}", draw)


def stacked_chart(title: str, bars: Mapping[str, Mapping[str, float]], *, x_label: str, y_label: str) -> Markup:
    """Bars side by side, each of parts on top of each other; nothing without one.

    Args:
        bars: name of a bar -> name of a part -> its height; all bars have the same parts in the same order. A part
            that no bar has any of is left out.
    """
    if not bars:
        return Markup("")
    parts = [part for part in next(iter(bars.values())) if any(bar[part] for bar in bars.values())]

    def draw(panel: Any) -> None:
        below = [0.0] * len(bars)
        for number, part in enumerate(parts):
            heights = [bar[part] for bar in bars.values()]
            colour = _LINES[SERIES[number % len(SERIES)]]
            panel.bar(range(len(bars)), heights, bottom=below, color=colour, width=0.8, label=part)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        panel.set_xticks(range(len(bars)), list(bars))
        panel.tick_params(axis="x", length=0)
        panel.yaxis.set_major_formatter(lambda value, _: _short(value))
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        panel.figure.legend(loc="outside upper center", ncols=3, fontsize="small")

    told = [f"{name} {_short(sum(bar.values()))}" for name, bar in bars.items()]
    return _svg(f"{title}: {', '.join(told)}", draw)


def _svg(alt: str, draw: Callable[[Any], None]) -> Markup:
    # Imported here: matplotlib makes folders in the user's home when it is imported.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": alt}):  # the same file from the same numbers
        drawing = Figure(figsize=_INCHES, layout="constrained")
        drawing.patch.set_visible(False)
        panel = drawing.subplots()
        panel.patch.set_visible(False)
        draw(panel)
        file = io.BytesIO()
        drawing.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue().decode(), alt)


def _inline(svg: str, alt: str) -> Markup:
    """The SVG as an element of the page: without its head, with the colours of the page, and a text in its place."""
    body = svg[svg.index("<svg") :]
    opening, _, inner = body.partition(">")
    view = re.search(r'viewBox="[^"]*"', opening)
    assert view is not None
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", inner)  # ids of groups, which other charts have too
    inner = re.sub(r"<style.*?</style>", "", inner, flags=re.DOTALL)  # it would act on the whole page
    inner = inner.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
    inner = re.sub(r"\n\s*", "\n", inner)
    for colour, variable in _VARIABLES.items():
        inner = inner.replace(colour, variable)
    return Markup(
        f'<svg role="img" aria-label="{escape(alt)}" {view.group()} xmlns="http://www.w3.org/2000/svg">{inner}'
    )


def _short(value: float) -> str:
    """A number as the axis of a chart shows it."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e9):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
