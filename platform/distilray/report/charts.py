"""SVG charts for a page, drawn by matplotlib in the page's colours, light or dark."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

SERIES = ("blue", "orange", "green", "violet", "red", "grey")
"""Colours of a chart's lines, in this order; each is a variable of `colours.css`."""

_INCHES = (4.6, 2.9)  # small enough that labels are readable on a phone
_MOST_POINTS = 400  # of a line; a long run logs a hundred thousand
_WIDE_RANGE = 8.0  # of positive values; beyond it the axis is logarithmic

# matplotlib has no CSS variables, so it draws in these unused colours.
_INK, _GRID, _FAINT = "#010203", "#010204", "#010205"
_COLOURS = [f"#0102{10 + number}" for number in range(len(SERIES))]
_VARIABLES = dict(zip((_INK, _GRID, _FAINT, *_COLOURS), ("ink", "grid", "faint", *SERIES), strict=True))
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
    """A line of a chart; values that are not finite are left out.

    Attributes:
        measured: there are few points, which are marked.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    measured: bool = False

    def points(self) -> list[tuple[float, float]]:
        """Return at most some hundred points: means of neighbours, in their order."""
        finite = [
            (float(x), float(y)) for x, y in zip(self.x, self.y, strict=True) if y is not None and math.isfinite(y)
        ]
        each = -(-len(finite) // _MOST_POINTS) or 1
        groups = [finite[start : start + each] for start in range(0, len(finite), each)]
        return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str, wide: bool = False) -> Markup:
    """Draw lines over a common axis; nothing when none has a point.

    Args:
        title: the start of the text alternative.
        wide: the axis may be logarithmic.
    """
    drawn = [(line, points) for line in lines if (points := line.points())]
    if not drawn:
        return Markup("")
    values = [y for _, points in drawn for _, y in points]

    def draw(panel: Any) -> None:
        for number, (line, points) in enumerate(drawn):
            x, y = zip(*points, strict=True)
            marker = "o" if line.measured or len(points) == 1 else None
            colour = _COLOURS[number % len(_COLOURS)]
            panel.plot(x, y, color=colour, linewidth=1.6, marker=marker, markersize=4, label=line.label)
        if wide and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
            panel.set_yscale("log")
        panel.yaxis.set_minor_formatter(lambda *_: "")
        panel.xaxis.set_major_formatter(lambda value, _: _short(value))
        if len(drawn) > 1:
            panel.legend(loc="best", fontsize="small")

    ends = [f"{line.label} from {_short(points[0][1])} to {_short(points[-1][1])}" for line, points in drawn]
    return _svg(f"{title}: {', '.join(ends)}", draw, x_label, y_label)


def bar_chart(title: str, bars: Mapping[str, float], *, x_label: str, y_label: str) -> Markup:
    """Draw bars next to each other; nothing without a bar."""
    if not bars:
        return Markup("")

    def draw(panel: Any) -> None:
        _draw_bars(panel, list(bars), {"": list(bars.values())})

    most = max(bars, key=lambda name: bars[name])
    alt = f"{title}: {len(bars)} bars, the highest at {most} with {_short(bars[most])}"
    return _svg(alt, draw, x_label, y_label)


def stacked_chart(title: str, bars: Mapping[str, Mapping[str, float]], *, x_label: str, y_label: str) -> Markup:
    """Draw stacked bars; nothing without a bar.

    Args:
        bars: name of a bar -> name of a component -> its height; all bars have the same components in the same order.
            A component that is zero in all bars is left out.
    """
    if not bars:
        return Markup("")
    components = [name for name in next(iter(bars.values())) if any(bar[name] for bar in bars.values())]

    def draw(panel: Any) -> None:
        _draw_bars(panel, list(bars), {name: [bar[name] for bar in bars.values()] for name in components})
        panel.figure.legend(loc="outside upper center", ncols=3, fontsize="small")

    sums = [f"{name} {_short(sum(bar.values()))}" for name, bar in bars.items()]
    return _svg(f"{title}: {', '.join(sums)}", draw, x_label, y_label)


def _draw_bars(panel: Any, names: Sequence[str], components: Mapping[str, Sequence[float]]) -> None:
    """Draw bars whose components are on top of each other."""
    bottom = [0.0] * len(names)
    for number, (component, heights) in enumerate(components.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        panel.bar(range(len(names)), heights, bottom=bottom, color=colour, width=0.8, label=component)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    is_crowded = len(names) > 8 or max(map(len, names)) > 6
    panel.set_xticks(range(len(names)), names, rotation=45 * is_crowded, ha="right" if is_crowded else "center")
    panel.tick_params(axis="x", length=0)


def _svg(alt: str, draw: Callable[[Any], None], x_label: str, y_label: str) -> Markup:
    # Imported here: importing matplotlib creates folders in the user's home.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": alt}):  # the same file from the same numbers
        drawing = Figure(figsize=_INCHES, layout="constrained")
        drawing.patch.set_visible(False)
        panel = drawing.subplots()
        panel.patch.set_visible(False)
        draw(panel)
        panel.yaxis.set_major_formatter(lambda value, _: _short(value))
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        file = io.BytesIO()
        drawing.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue().decode(), alt)


def _inline(svg: str, alt: str) -> Markup:
    """Return the SVG as an element of the page: without its head, with the page's colours and a text alternative."""
    opening, _, inner = svg[svg.index("<svg") :].partition(">")
    view = re.search(r'viewBox="[^"]*"', opening)
    assert view is not None
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", inner)  # ids of groups, which other charts have too
    inner = re.sub(r"<style.*?</style>", "", inner, flags=re.DOTALL)  # it would apply to the whole page
    inner = inner.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
    inner = re.sub(r"\n\s*", "\n", inner)
    for colour, variable in _VARIABLES.items():
        inner = inner.replace(colour, f"var(--{variable})")
    head = f'<svg role="img" aria-label="{escape(alt)}" {view.group()} xmlns="http://www.w3.org/2000/svg">'
    return Markup(head + inner)  # noqa: S704 - matplotlib escapes the labels


def _short(value: float) -> str:
    """Return a number as the axis of a chart shows it."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e9):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    for limit, divisor, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.4g}{unit}"
    return f"{value:,.4g}"
