"""HTML building blocks for a self-contained page without scripts; templates and `Markup` escape all text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

_NUMBER = re.compile(r"-|[-+]?\d[\d,.]*(e[-+]?\d+)?( to [-+]?[\d.]+)?( ?(%|ms|s|min|h|kB|MB|GB))?")
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
    """Return the Jinja environment of this package, which escapes HTML."""
    environment = Environment(
        loader=PackageLoader("distilray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["numeric"] = _is_numeric
    return environment


def render_page(title: str, intro: Markup, sections: Sequence[Section], *, headline: str = "") -> str:
    """Return a complete page; the headline, or else the title, and `intro` are shown above the table of contents."""
    template = template_environment().get_template("page.html.j2")
    return template.render(title=title, headline=headline, intro=intro, sections=sections)


def join(*parts: object) -> Markup:
    """Concatenate parts, escaping those that are not markup."""
    return Markup("").join(map(Markup.escape, parts))


def paragraph(*parts: object) -> Markup:
    return Markup("<p>{}</p>\n").format(join(*parts))


def heading(text: object) -> Markup:
    """Return a heading within a section; empty without text."""
    return Markup("<h3>{}</h3>\n").format(text) if text else Markup("")


def code(text: object) -> Markup:
    return Markup("<code>{}</code>").format(text)


def listing(items: Sequence[object]) -> Markup:
    return _block("listing", items) if items else Markup("")


def side_by_side(kind: Literal["tables", "figures"], *blocks: Markup) -> Markup:
    """Return blocks that are shown next to each other if the page is wide enough."""
    return Markup('<div class="{}">{}</div>\n').format(kind, join(*blocks)) if any(blocks) else Markup("")


def figure(caption: str, chart: Markup) -> Markup:
    return _block("figure", caption, chart) if chart else Markup("")


def picture(caption: str, alt: str, address: str) -> Markup:
    """Return an image from a `data:` address; scripts and styles in it do not affect the page."""
    return _block("picture", caption, alt, address)


def filled_sentences(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return sentences with one `[MASK]`, and the answers of each model side by side.

    Args:
        rows: rows of `sentences.jsonl`, with `text`, `answer` and the `answers` by model.
    """
    return _block("filled_sentences", rows)


def tiles(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """Return tiles for headline metrics, each with name, value and remark."""
    return _block("tiles", facts) if facts else Markup("")


def drop_empty_columns(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """Return headings and rows without empty columns; the first column is always kept."""
    cells = [list(row) for row in rows]
    filled = [number for number in range(len(head)) if not number or any(row[number] not in _EMPTY for row in cells)]
    return [head[number] for number in filled], [[row[number] for number in filled] for row in cells]


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Markup:
    """Return a table without empty columns, whose first column contains the row headings.

    Columns of mostly numbers are right-aligned. The table has no head if all headings are empty, and without rows the
    result is empty.
    """
    head, filled = drop_empty_columns(head, rows)
    cells = [[_text(cell) for cell in row] for row in filled]
    if not cells:
        return Markup("")
    right = [2 * sum(map(_is_numeric, column)) > sum(map(bool, column)) for column in zip(*cells, strict=True)]
    return _block("table", caption, head, cells, right)


def from_rich(rich_table: Table) -> Markup:
    """Convert a table that a job prints to HTML."""
    columns = [[_plain(cell) for cell in column.cells] for column in rich_table.columns]
    rows = [[Markup("<br>").join(cell.split("\n")) if "\n" in cell else cell for cell in row]
            for row in zip(*columns, strict=True)]  # fmt: skip
    caption = ". ".join(filter(None, (_plain(rich_table.title), _plain(rich_table.caption))))
    return table(caption[:1].upper() + caption[1:], [_plain(column.header) for column in rich_table.columns], rows)


def _block(name: str, *values: object) -> Markup:
    block: Markup = getattr(template_environment().get_template("blocks.html.j2").module, name)(*values)
    return block


def _text(cell: Cell) -> str:
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
    return cell if isinstance(cell, Markup) else f"{cell:,}" if is_number else str(cell)


def _is_numeric(cell: str) -> bool:
    return not isinstance(cell, Markup) and _NUMBER.fullmatch(cell) is not None


def _plain(cell: object) -> str:
    return "" if cell is None else Text.from_markup(str(cell)).plain
