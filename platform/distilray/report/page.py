"""Pieces of an HTML page that needs nothing but itself: no network, no script. Every text is escaped here."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from distilray.report.style import STYLE

_FIGURE = re.compile(r"-|[-+]?\d[\d,.]*(e[-+]?\d+)?( to [-+]?[\d.]+)?( ?(%|ms|s|min|h|kB|MB|GB))?")
_RIGHT = ' class="n"'
_EMPTY = ("", "-", None)  # cells that say nothing


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Cell = object
"""Of a table: markup, text, or a number."""


def markup(*parts: object) -> Markup:
    """Parts one after the other; those that are not markup are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(str(part)) for part in parts))


def paragraph(*parts: object) -> Markup:
    """A paragraph."""
    return Markup(f"<p>{markup(*parts)}</p>\n")


def code(text: object) -> Markup:
    """A name of the code, a hash, a command."""
    return Markup(f"<code>{escape(str(text))}</code>")


def listing(items: Iterable[object]) -> Markup:
    """A list of points; nothing when there are none."""
    rows = "".join(f"<li>{markup(item)}</li>" for item in items)
    return Markup(f"<ul>{rows}</ul>\n" if rows else "")


def filled_columns(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """Return titles and rows without the columns in which no row has anything; the first column stays."""
    cells = [list(row) for row in rows]
    filled = [number for number in range(len(head)) if not number or any(row[number] not in _EMPTY for row in cells)]
    return [head[number] for number in filled], [[row[number] for number in filled] for row in cells]


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Markup:
    """A table with a caption, whose first column names the rows; nothing without rows, no column without cells.

    It scrolls inside its own box where the page is narrower; columns of figures stand to the right.

    Args:
        head: titles of the columns; without one no head is shown.
    """
    head, rows = filled_columns(head, rows)
    shown = [[_text(cell) for cell in row] for row in rows]
    if not shown:
        return Markup("")
    right = [_are_figures(column) for column in zip(*shown, strict=True)]
    body = "".join(f"<tr>{_row(row, right)}</tr>\n" for row in shown)
    titles = "".join(
        f'<th scope="col"{_RIGHT if is_right and number else ""}>{markup(title)}</th>'
        for number, (title, is_right) in enumerate(zip(head, right, strict=True))
    )
    top = f"<thead><tr>{titles}</tr></thead>\n" if any(head) else ""
    return Markup(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n{top}<tbody>{body}</tbody></table></div>\n"
    )


def beside(*tables: Markup) -> Markup:
    """Tables side by side where there is room; nothing without one."""
    shown = "".join(tables)
    return Markup(f'<div class="tables">{shown}</div>\n' if shown else "")


def figures(*charts: Markup) -> Markup:
    """Charts side by side where there is room; nothing without one."""
    shown = "".join(chart for chart in charts if chart)
    return Markup(f'<div class="figures">{shown}</div>\n' if shown else "")


def figure(caption: str, picture: Markup) -> Markup:
    """A chart with its caption."""
    return Markup(f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n")


def picture(caption: str, alt: str, address: str) -> Markup:
    """A drawing in its own size; no script or style of it acts on the page.

    Args:
        alt: what it shows, for those who do not see it.
        address: `data:` with all of it.
    """
    image = f'<img alt="{escape(alt)}" src="{escape(address)}">'
    return Markup(
        f'<figure class="picture"><div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{image}'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def tiles(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """The most important figures: what it is, its value, a remark each."""
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd><strong>{escape(value)}</strong> <span>{escape(remark)}</span></dd></div>"
        for name, value, remark in facts
    )
    return Markup(f'<dl class="tiles">{shown}</dl>\n' if shown else "")


def section(anchor: str, title: str, body: Markup) -> Markup:
    """A section with its heading."""
    place = escape(anchor)
    return Markup(f'<section aria-labelledby="{place}"><h2 id="{place}">{escape(title)}</h2>\n{body}</section>\n')


def heading(text: object) -> Markup:
    """A heading inside a section."""
    return Markup(f"<h3>{markup(text)}</h3>\n")


def document(title: str, lead: Markup, contents: Sequence[tuple[str, str]], body: Markup) -> str:
    """The whole page.

    Args:
        lead: what stands above the contents.
        contents: anchor and title of each section.
    """
    links = "".join(f'<li><a href="#{escape(anchor)}">{escape(name)}</a></li>' for anchor, name in contents)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # or the browser asks a server for one
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n{lead}</header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{body}</main>\n</body>\n</html>\n'
    )


def _text(cell: Cell) -> Markup | str:
    """A cell as text, numbers with their thousands apart."""
    if isinstance(cell, Markup):
        return cell
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
    return f"{cell:,}" if is_number else str(cell)


def _are_figures(column: Sequence[Markup | str]) -> bool:
    """Whether most cells of a column that say something are figures."""
    return 2 * sum(map(_is_figure, column)) > sum(map(bool, column))


def _is_figure(cell: Markup | str) -> bool:
    return not isinstance(cell, Markup) and _FIGURE.fullmatch(cell) is not None


def _cell(cell: Markup | str, is_right: bool) -> str:
    kind = _RIGHT if is_right and _is_figure(cell) else ' class="r"' if is_right else ""
    return f"<td{kind}>{markup(cell)}</td>"


def _row(row: Sequence[Markup | str], right: Sequence[bool]) -> str:
    first, *others = row
    cells = "".join(_cell(cell, is_right) for cell, is_right in zip(others, right[1:], strict=True))
    return f'<th scope="row">{markup(first)}</th>{cells}'
