"""Rows of tables in text files: JSON lines, CSV and TSV."""

import csv
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import Line
from distilray.formats.streams import UnreadableError

_ONE_OBJECT = "write one JSON object in each line"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        file: name of the file.
        number: number of its last line, from 1, counted from the first line that was read.
        offset: first byte in the decompressed file.
        values: CSV cells, or the value of a JSON line.
        lost_bytes: bytes that are lost if the row is rejected.
    """

    file: str
    number: int
    offset: int
    values: Any
    lost_bytes: int = 0

    def reject(self, reason: str, detail: str) -> BadRow:
        """Return the bad row for this row."""
        return BadRow(self.file, self.offset, reason, detail, self.lost_bytes, self.number)


def json_rows(lines: Iterable[Line], file: str, *, max_bytes: int, objects: bool = True) -> Iterator[Row | BadRow]:
    """Yield the values of JSON lines; blank lines are skipped.

    Args:
        lines: lines of the file, without data if longer than `max_bytes`.
        file: name of the file.
        max_bytes: longer lines are bad rows.
        objects: reject values other than objects.
    """
    for number, line in enumerate(lines, 1):
        row = Row(file, number, line.offset, None)
        if line.size > max_bytes:
            yield row.reject("too_large", f"a line of {line.size:,} bytes; at most {max_bytes:,} are read")
            continue
        data = line.data.removeprefix(BOM_UTF8)
        if not data.strip():
            continue
        try:
            value = json.loads(data.decode())
        except UnicodeDecodeError as error:
            detail = f"byte {error.start:,} of the line is not UTF-8; convert the file to UTF-8"
            yield row.reject("not_utf8", detail)
        except (ValueError, RecursionError) as error:
            yield row.reject("json_malformed", f"{error}; {_ONE_OBJECT}")
        else:
            if objects and not isinstance(value, dict):
                detail = f"{type(value).__name__} where an object is needed; {_ONE_OBJECT}"
                yield row.reject("json_malformed", detail)
            else:
                yield Row(file, number, line.offset, value)


class DelimitedRows:
    """Iterator over the rows of a CSV or TSV file as lists of cells. Blank lines are skipped.

    Bytes that are not UTF-8 become surrogates. Memory is bounded: a row of more than `max_bytes` is a bad row, and its
    lines are skipped. After a call of `header`, rows with another number of cells are bad rows too.

    Args:
        lines: lines of the file from its start, without data if longer than `max_bytes`.
        file: name of the file.
        delimiter: separator of the cells.
        quoted: cells in double quotes may contain delimiters and line breaks; otherwise quotes are text.
        strict: reject quotes that are not closed or that are followed by text.
        stored_bytes: size of the file, an upper bound for the bytes lost with a bad row.
        fix: advice to append to the detail of a row that cannot be parsed.
    """

    def __init__(
        self,
        lines: Iterable[Line],
        file: str,
        *,
        max_bytes: int,
        delimiter: str = ",",
        quoted: bool = True,
        strict: bool = True,
        stored_bytes: int = 0,
        fix: str = "",
    ) -> None:
        self._lines, self._file, self._fix = iter(lines), file, fix
        self._max_bytes, self._stored_bytes = max_bytes, stored_bytes
        csv.field_size_limit(max(csv.field_size_limit(), max_bytes))  # process-wide; a field is never longer than a row
        self._reader = csv.reader(
            _Texts(self),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=strict,
        )
        self._columns: int | None = None
        self._number = self._first_number = self._offset = self._end = 0

    def header(self) -> list[str]:
        """Return the column names from the first nonblank row; empty if there is no row.

        Raises:
            UnreadableError: the row cannot be parsed.
        """
        for row in self:
            if isinstance(row, BadRow):
                raise UnreadableError(row.reason, f"the header cannot be read ({row.detail}); correct the file")
            self._columns = len(row.values)
            return list(row.values)
        return []

    def __iter__(self) -> Iterator[Row | BadRow]:
        while True:
            self._offset, self._first_number = self._end, self._number
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except _TooLargeError:
                detail = f"a row of more than {self._max_bytes:,} bytes; is a quote not closed?"
                yield self._row(None).reject("too_large", detail)
            except csv.Error as error:
                yield self._row(None).reject("csv_malformed", f"{error}{self._fix}")
            else:
                row = self._row(cells)
                if not any(cells[:1]) and len(cells) < 2:
                    continue
                if self._columns not in (None, len(cells)):
                    detail = f"{len(cells)} fields where the header has {self._columns}"
                    yield row.reject("csv_malformed", detail)
                else:
                    yield row

    def next_text(self) -> str:
        """Return the next line with its line break, for the CSV parser."""
        line = next(self._lines)
        self._number += 1
        self._end = line.offset + line.size + 1
        if self._end - self._offset > self._max_bytes + 1 or line.size > self._max_bytes:
            raise _TooLargeError
        data = line.data.removeprefix(BOM_UTF8) if line.offset == 0 else line.data
        return data.decode(errors="surrogateescape") + "\n"

    def _row(self, cells: list[str] | None) -> Row:
        # An unclosed quote can merge many rows into one bad row.
        is_long = self._number - self._first_number > 1
        lost = min(self._end - self._offset, self._stored_bytes) if is_long else 0
        return Row(self._file, self._number, self._offset, cells, lost)


class _TooLargeError(Exception):
    pass


class _Texts:
    """Iterator over the lines of a file that, unlike a generator, can continue after an exception."""

    def __init__(self, rows: DelimitedRows) -> None:
        self._rows = rows

    def __iter__(self) -> "_Texts":
        return self

    def __next__(self) -> str:
        return self._rows.next_text()


def column_positions(uri: str, header: Sequence[str], columns: Mapping[str, str], *, fix: str = "") -> dict[str, int]:
    """Return the position of each column by the setting that names it.

    Args:
        uri: URI of the table.
        header: column names of the table.
        columns: names of the columns to read, by setting.
        fix: alternative fix, appended to the message.

    Raises:
        InputError: a column is missing or its name is not unique.
    """
    for setting, column in columns.items():
        if list(header).count(column) != 1:
            names = ", ".join(ascii(name)[:60] for name in header[:30]) or "none"
            raise InputError(f"{uri}: no column '{column}', or more than one; set {setting} to one of {names}{fix}")
    return {setting: list(header).index(column) for setting, column in columns.items()}
