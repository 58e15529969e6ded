"""Console output of all commands: width, colors, labelled values, tables, and JSON for programs."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:  # the doctor needs this module and has to work without any packages
    from rich.table import Table

DEFAULT_WIDTH = 100  # columns, without a terminal
_LABEL_WIDTH = 16


@contextlib.contextmanager
def json_on_stdout(*, enabled: bool) -> Iterator[Callable[[object], None]]:
    """Yield a function that prints a JSON value on stdout, while everything else in the block is printed on stderr.

    Unless enabled, the function does nothing, and the block prints as usual.
    """
    if not enabled:
        yield lambda value: None
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield lambda value: print(json.dumps(value, indent=1), file=stdout, flush=True)


def output_width() -> int:
    """Return the columns of the terminal, or of the variable COLUMNS; without both, `DEFAULT_WIDTH`."""
    return shutil.get_terminal_size((DEFAULT_WIDTH, 0)).columns


def use_color(stream: TextIO) -> bool:
    """Return whether to print colors: only on a terminal, and not if the variable NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def format_entries(entries: Mapping[str, object], *, label_width: int = _LABEL_WIDTH) -> str:
    """Return a line for each label with its value. Long values are wrapped between words, so that paths stay whole."""
    wrapper = textwrap.TextWrapper(output_width(), break_long_words=False, break_on_hyphens=False)
    wrapper.subsequent_indent = " " * (label_width + 1)
    lines = []
    for label, value in entries.items():
        wrapper.initial_indent = f"{label:<{label_width}} "
        lines.append(wrapper.fill(str(value)) or wrapper.initial_indent)
    return "\n".join(lines)


def print_tables(*tables: Table) -> None:
    """Print tables. Those that are too wide are narrowed, or split into tables that all have the first column."""
    from rich.console import Console

    console = Console(width=output_width())
    for table in tables:
        for part in _fitting_tables(table, console.width):
            console.print(part)


def _fitting_tables(table: Table, width: int) -> list[Table]:
    sizes = [_column_sizes([column.header, *column.cells]) for column in table.columns]
    if _table_width([longest for _, longest in sizes], padding=1) <= width:
        return [table]
    words = [word for word, _ in sizes]
    padding = 1 if _table_width(words, padding=1) <= width else 0
    parts, shown, start = [], [0], 1
    for number in range(1, len(sizes) + 1):
        is_full = number < len(sizes) and _table_width([words[column] for column in [*shown, number]], padding) > width
        if number == len(sizes) or (is_full and number > start):
            parts.append(_part(table, shown, _shrink([sizes[column] for column in shown], width, padding), padding))
            shown, start = [0], number
        shown.append(number)
    return parts


def _part(table: Table, numbers: Sequence[int], widths: Sequence[int], padding: int) -> Table:
    """Return a table with some of the columns."""
    part = copy.copy(table)
    part.padding = (0, padding, 0, padding)
    part.columns = [
        replace(table.columns[number], _index=index, width=width, overflow="fold")
        for index, (number, width) in enumerate(zip(numbers, widths, strict=True))
    ]
    return part


def _shrink(sizes: Sequence[tuple[int, int]], width: int, padding: int) -> list[int]:
    """Return widths of columns for a table of at most `width`: the widest columns are reduced, but no words broken.

    A column with a word that does not fit at all gets a smaller width.
    """
    for limit in range(max(longest for _, longest in sizes), 0, -1):
        widths = [max(word, min(longest, limit)) for word, longest in sizes]
        if _table_width(widths, padding) <= width:
            return widths
    excess = _table_width(widths, padding) - width
    return [*widths[:-1], max(1, widths[-1] - excess)]


def _table_width(widths: Sequence[int], padding: int) -> int:
    return 1 + sum(width + 2 * padding + 1 for width in widths)


def _column_sizes(cells: Sequence[object]) -> tuple[int, int]:
    """Return the widths of the longest word and of the longest line of cells with the markup of rich."""
    from rich.text import Text

    lines = [line for cell in cells for line in Text.from_markup(str(cell)).split("\n", allow_blank=True)]
    words = [len(word) for line in lines for word in line.plain.split()]
    return max(words, default=1), max((line.cell_len for line in lines), default=1)
