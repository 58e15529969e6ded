"""SVG charts, drawn by matplotlib in the colors of the page's light or dark theme."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

SERIES = ("blue", "orange", "green", "violet", "red", "gray")
"""Line colors in order of use; each is a CSS variable in `colors.css`."""

_WIDTH = 4.0  # inches; small enough for readable labels on a phone
_MAX_POINTS = 400  # per line; a long run logs a hundred thousand steps
_WIDE_RANGE = 8.0  # ratio of maximum to minimum above which the axis is logarithmic

# matplotlib does not support CSS variables, so it draws in placeholder colors, which are replaced in the SVG.
_INK, _GRID, _FAINT = "#010203", "#010204", "#010205"
_COLORS = [f"#0102{10 + number}" for number in range(len(SERIES))]
_VARIABLES = dict(zip((_INK, _GRID, _FAINT, *_COLORS), ("ink", "grid", "faint", *SERIES), strict=True))
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text remains text
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
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
    """A line of a chart; values that are not finite are skipped.

    Attributes:
        has_markers: draw a marker at each point, for a line with few points.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    has_markers: bool = False

    def points(self) -> list[tuple[float, float]]:
        """Return the points to draw; long lines are averaged over groups of neighboring points."""
        finite = [
            (float(x), float(y)) for x, y in zip(self.x, self.y, strict=True) if y is not None and math.isfinite(y)
        ]
        group_size = -(-len(finite) // _MAX_POINTS) or 1
        groups = [finite[start : start + group_size] for start in range(0, len(finite), group_size)]
        return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


@dataclass(frozen=True)
class Bar:
    """A bar of a comparison, with the text at its end and the ends of its whisker."""

    value: float
    label: str
    interval: Sequence[float] | None = None

    @property
    def end(self) -> float:
        return max(0.0, self.value, *(self.interval or ()))


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str, allow_log: bool = False) -> Markup:
    """Draw lines with common axes; return empty markup if no line has a point.

    Args:
        title: start of the text alternative.
        allow_log: use a logarithmic y-axis for a wide range of positive values.
    """
    nonempty = [(line, points) for line in lines if (points := line.points())]
    if not nonempty:
        return Markup("")
    values = [y for _, points in nonempty for _, y in points]

    def draw(axes: Any) -> None:
        for number, (line, points) in enumerate(nonempty):
            x, y = zip(*points, strict=True)
            marker = "o" if line.has_markers or len(points) == 1 else None
            color = _COLORS[number % len(_COLORS)]
            axes.plot(x, y, color=color, linewidth=1.6, marker=marker, markersize=4, label=line.label)
        if allow_log and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
            axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(lambda *_: "")
        axes.yaxis.set_major_formatter(lambda value, _: _short_number(value))
        axes.xaxis.set_major_formatter(lambda value, _: _short_number(value))
        if len(nonempty) > 1:
            axes.legend(loc="best", fontsize="small")

    ends = [
        f"{line.label} from {_short_number(points[0][1])} to {_short_number(points[-1][1])}"
        for line, points in nonempty
    ]
    return _svg(f"{title}: {', '.join(ends)}", draw, x_label, y_label)


def bar_chart(title: str, bars: Mapping[str, float], *, x_label: str, y_label: str) -> Markup:
    """Draw a bar for each value; return empty markup without a bar."""
    if not bars:
        return Markup("")

    def draw(axes: Any) -> None:
        _draw_bars(axes, list(bars), {"": list(bars.values())})

    highest = max(bars, key=lambda name: bars[name])
    alt = f"{title}: {len(bars)} bars, the highest at {highest} with {_short_number(bars[highest])}"
    return _svg(alt, draw, x_label, y_label)


def stacked_chart(title: str, bars: Mapping[str, Mapping[str, float]], *, x_label: str, y_label: str) -> Markup:
    """Draw stacked bars; return empty markup without a bar.

    Args:
        bars: heights by bar and component; all bars have the same components in the same order. A component that is
            zero in all bars is omitted.
    """
    if not bars:
        return Markup("")
    components = [name for name in next(iter(bars.values())) if any(bar[name] for bar in bars.values())]

    def draw(axes: Any) -> None:
        _draw_bars(axes, list(bars), {name: [bar[name] for bar in bars.values()] for name in components})
        axes.figure.legend(loc="outside upper center", ncols=3, fontsize="small")

    sums = [f"{name} {_short_number(sum(bar.values()))}" for name, bar in bars.items()]
    return _svg(f"{title}: {', '.join(sums)}", draw, x_label, y_label)


def comparison_chart(
    title: str,
    groups: Mapping[str, Mapping[str, Bar]],
    *,
    x_label: str,
    baselines: Mapping[str, float] | None = None,
    baseline_label: str = "",
) -> Markup:
    """Draw horizontal bars of several models for each group; groups without a bar are omitted.

    Args:
        groups: bars by group and model. Of several models, the first is the reference and has a muted color.
        baselines: value by group, drawn as a line across its bars, such as the score of a trivial answer.
        baseline_label: name of the baselines in the legend.
    """
    groups = {group: bars for group, bars in groups.items() if bars}
    if not groups:
        return Markup("")
    texts = [
        f"{group}: {', '.join(f'{model} {bar.label}' for model, bar in bars.items())}" for group, bars in groups.items()
    ]
    height = 0.9 + sum(0.08 + 0.24 * len(bars) for bars in groups.values())
    return _svg(
        f"{title}: {'; '.join(texts)}",
        lambda axes: _draw_comparison(axes, groups, baselines or {}, baseline_label),
        x_label,
        "",
        height=height,
    )


def _draw_comparison(
    axes: Any, groups: Mapping[str, Mapping[str, Bar]], baselines: Mapping[str, float], baseline_label: str
) -> None:
    models = list(dict.fromkeys(model for bars in groups.values() for model in bars))
    colors = [*_COLORS[-1:] * (len(models) > 1), *_COLORS]
    limit = max(bar.end for bars in groups.values() for bar in bars.values())
    longest = max(len(bar.label) for bars in groups.values() for bar in bars.values())
    size = 0.8 / len(models)
    for row, (group, bars) in enumerate(groups.items()):
        for number, (model, bar) in enumerate(bars.items()):
            y = row + size * (number - (len(bars) - 1) / 2)
            axes.barh(y, bar.value, height=0.86 * size, color=colors[models.index(model) % len(colors)], label=model)
            if bar.interval:
                axes.hlines(y, *bar.interval, color=_INK, linewidth=1.0)
            axes.text(bar.end + 0.015 * limit, y, bar.label, va="center", fontsize="small")
        if group in baselines:
            axes.vlines(baselines[group], row - 0.46, row + 0.46, color=_INK, linestyle=":", label=baseline_label)
    axes.set_yticks(range(len(groups)), list(groups), color=_INK)
    axes.set_ylim(len(groups) - 0.45, -0.55)  # the first group at the top
    axes.set_xlim(right=limit * (1.02 + 0.025 * longest))  # leaves space for the labels
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.xaxis.set_major_formatter(lambda value, _: _short_number(value))
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if len(by_label) > 1:
        axes.figure.legend(by_label.values(), by_label, loc="outside upper left", ncols=4, fontsize="small")


def _draw_bars(axes: Any, names: Sequence[str], components: Mapping[str, Sequence[float]]) -> None:
    """Draw bars with stacked components."""
    bottom = [0.0] * len(names)
    for number, (component, heights) in enumerate(components.items()):
        color = _COLORS[number % len(_COLORS)]
        axes.bar(range(len(names)), heights, bottom=bottom, color=color, width=0.8, label=component)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    is_crowded = len(names) > 8 or max(map(len, names)) > 6
    axes.set_xticks(range(len(names)), names, rotation=45 * is_crowded, ha="right" if is_crowded else "center")
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(lambda value, _: _short_number(value))


def _svg(alt: str, draw: Callable[[Any], None], x_label: str, y_label: str, *, height: float = 2.9) -> Markup:
    # Imported here, because importing matplotlib creates folders in the user's home.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": alt}):  # a fixed salt makes the file reproducible
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue().decode(), alt)


def _inline(svg: str, alt: str) -> Markup:
    """Convert an SVG file to an element of the page, with the page's colors and a text alternative."""
    opening, _, inner = svg[svg.index("<svg") :].partition(">")
    view_box = re.search(r'viewBox="[^"]*"', opening)
    assert view_box is not None
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", inner)  # ids of groups are not unique on the page
    inner = re.sub(r"<style.*?</style>", "", inner, flags=re.DOTALL)  # styles would apply to the whole page
    inner = inner.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
    inner = re.sub(r"\n\s*", "\n", inner)
    for color, variable in _VARIABLES.items():
        inner = inner.replace(color, f"var(--{variable})")
    head = f'<svg role="img" aria-label="{escape(alt)}" {view_box.group()} xmlns="http://www.w3.org/2000/svg">'
    return Markup(head + inner)  # noqa: S704 - matplotlib escapes the labels


def _short_number(value: float) -> str:
    """Format a number for an axis, such as 12.5k."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e9):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    for limit, divisor, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.4g}{unit}"
    return f"{value:,.4g}"
