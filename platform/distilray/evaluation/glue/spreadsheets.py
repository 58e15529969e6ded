"""TSV files that a spreadsheet has saved: fields in quotes, with their own quotes doubled.

In the official files of GLUE a quote is text, also at the ends of a field. So quotes are removed only from a file in
which all of them are those of a spreadsheet.
"""

from collections.abc import Sequence

_QUOTE = '"'


def is_spreadsheet(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a spreadsheet has saved a file.

    Every field with a quote is then in quotes and has its own quotes doubled. That is also true of a file with a few
    sentences of direct speech, so one of these must hold too: some field has doubled quotes inside; exactly the
    fields with a comma are in quotes; or all fields of a column are.

    Args:
        rows: the fields of each line.
    """
    fields = [field for row in rows for field in row if _QUOTE in field]
    if not fields or not all(map(_is_quoted, fields)):
        return False
    if any(_QUOTE in field[1:-1] for field in fields):
        return True
    if all("," in field for field in fields):
        return not any("," in field for row in rows for field in row if _QUOTE not in field)
    widths = {len(row) for row in rows}
    return len(rows) > 1 and any(all(_QUOTE in row[column] for row in rows) for column in range(min(widths)))


def unquoted(field: str) -> str:
    """Return a field of a spreadsheet without its quotes."""
    return field[1:-1].replace(2 * _QUOTE, _QUOTE) if _is_quoted(field) else field


def _is_quoted(field: str) -> bool:
    inner = field[1:-1].replace(2 * _QUOTE, "")
    return len(field) > 1 and field[0] == field[-1] == _QUOTE and _QUOTE not in inner
