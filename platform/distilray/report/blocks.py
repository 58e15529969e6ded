"""HTML blocks of a page that makes no requests and runs no scripts. Templates and `Markup` escape every text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

_FIGURE = re.compile(r"-|[-+]?\d[\d,.]*(e[-+]?\d+)?( to [-+]?[\d.]+)?( ?(%|ms|s|min|h|kB|MB|GB))?")
_EMPTY = ("", "-", None)  # cells without information

Cell = object  # markup, text or a number


@dataclass(frozen=True)
class Section:
    """A section of a page; the contents list links to its anchor."""

    anchor: str
    title: str
    body: Markup


@cache
def template_environment() -> Environment:
    """Return the templates of this package; HTML is escaped automatically."""
    environment = Environment(
        loader=PackageLoader("distilray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["figure"] = _is_figure
    return environment


def render_page(title: str, lead: Markup, sections: Sequence[Section]) -> str:
    """Return a whole page; `lead` is shown above the contents."""
    return template_environment().get_template("page.html.j2").render(title=title, lead=lead, sections=sections)


def join(*parts: object) -> Markup:
    """Concatenate parts; those that are not markup are escaped."""
    return Markup("").join(map(Markup.escape, parts))


def paragraph(*parts: object) -> Markup:
    return Markup("<p>{}</p>\n").format(join(*parts))


def heading(text: object) -> Markup:
    """Return a heading inside a section."""
    return Markup("<h3>{}</h3>\n").format(text)


def code(text: object) -> Markup:
    return Markup("<code>{}</code>").format(text)


def listing(items: Sequence[object]) -> Markup:
    return _block("listing", items) if items else Markup("")


def side_by_side(kind: Literal["tables", "figures"], *blocks: Markup) -> Markup:
    """Return blocks next to each other where there is room."""
    return Markup('<div class="{}">{}</div>\n').format(kind, join(*blocks)) if any(blocks) else Markup("")


def figure(caption: str, chart: Markup) -> Markup:
    return _block("figure", caption, chart) if chart else Markup("")


def picture(caption: str, alt: str, address: str) -> Markup:
    """Return an image in its own size, as a `data:` address, so that its scripts and styles do not act on the page."""
    return _block("picture", caption, alt, address)


def tiles(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """Return headline metrics: name, value and remark of each."""
    return _block("tiles", facts) if facts else Markup("")


def drop_empty_columns(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """Return titles and rows without empty columns; the first column stays."""
    cells = [list(row) for row in rows]
    filled = [number for number in range(len(head)) if not number or any(row[number] not in _EMPTY for row in cells)]
    return [head[number] for number in filled], [[row[number] for number in filled] for row in cells]


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Markup:
    """Return a table whose first column names the rows; nothing without rows, and no empty column.

    Columns that contain mostly figures are aligned to the right. Without any title there is no head.
    """
    head, filled = drop_empty_columns(head, rows)
    cells = [[_text(cell) for cell in row] for row in filled]
    if not cells:
        return Markup("")
    right = [2 * sum(map(_is_figure, column)) > sum(map(bool, column)) for column in zip(*cells, strict=True)]
    return _block("table", caption, head, cells, right)


def from_rich(printed: Table) -> Markup:
    """Return a table that a job prints as one of the page."""
    columns = [[_plain(cell) for cell in column.cells] for column in printed.columns]
    rows = [[Markup("<br>").join(cell.split("\n")) if "\n" in cell else cell for cell in row]
            for row in zip(*columns, strict=True)]  # fmt: skip
    caption = ". ".join(filter(None, (_plain(printed.title), _plain(printed.caption))))
    return table(caption[:1].upper() + caption[1:], [_plain(column.header) for column in printed.columns], rows)


def _block(name: str, *values: object) -> Markup:
    block: Markup = getattr(template_environment().get_template("blocks.html.j2").module, name)(*values)
    return block


def _text(cell: Cell) -> str:
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
    return cell if isinstance(cell, Markup) else f"{cell:,}" if is_number else str(cell)


def _is_figure(cell: str) -> bool:
    return not isinstance(cell, Markup) and _FIGURE.fullmatch(cell) is not None


def _plain(cell: object) -> str:
    return "" if cell is None else Text.from_markup(str(cell)).plain
