"""TSV files that a spreadsheet has saved: fields in quotes, with their own quotes doubled.

In the official files of GLUE a quote is text, also at the ends of a field. So quotes are removed only from a file in
which all of them are those of a spreadsheet.
"""

from collections.abc import Sequence

_QUOTE = '"'


def is_spreadsheet(lines: Sequence[str]) -> bool:
    """Return whether a spreadsheet has saved a file.

    Every field with a quote is then in quotes and has its own quotes doubled. That is also true of a file with a few
    sentences of direct speech, so one of these must hold too: some field has doubled quotes inside; exactly the
    fields with a comma are in quotes; or all fields of a column are.
    """
    with_quotes = [line for line in lines if _QUOTE in line]
    # Of an official file the first lines are enough.
    if not with_quotes or not all(
        _is_quoted(field) for line in with_quotes for field in _fields(line) if _QUOTE in field
    ):
        return False
    rows = list(map(_fields, lines))
    quoted = [field for row in rows for field in row if _QUOTE in field]
    if any(_QUOTE in field[1:-1] for field in quoted):
        return True
    if all("," in field for field in quoted):
        return not any("," in field for row in rows for field in row if _QUOTE not in field)
    columns = range(min(map(len, rows)))
    return len(rows) > 1 and any(all(_QUOTE in row[column] for row in rows) for column in columns)


def unquoted(line: str) -> str:
    """Return a line of a spreadsheet without its quotes."""
    fields = [field[1:-1].replace(2 * _QUOTE, _QUOTE) if _is_quoted(field) else field for field in _fields(line)]
    return "\t".join(fields)


def _fields(line: str) -> list[str]:
    return line.split("\t")


def _is_quoted(field: str) -> bool:
    inner = field[1:-1].replace(2 * _QUOTE, "")
    return len(field) > 1 and field[0] == field[-1] == _QUOTE and _QUOTE not in inner
