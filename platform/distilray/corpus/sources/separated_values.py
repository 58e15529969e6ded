"""Documents in the rows of CSV and TSV files."""

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator

from distilray.config.corpus import CsvSource
from distilray.corpus.sources.other_formats import refuse_other_formats
from distilray.corpus.sources.ranges import RawDocument
from distilray.corpus.sources.text import prose
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, byte_ranges, read_lines
from distilray.formats.streams import EmptyFileError, UnreadableError, read_chunks, split_suffix, stored_size

__all__ = ["check_file", "file_ranges", "is_input", "prose", "read_documents"]

_SUFFIXES = {".csv", ".tsv", ".tab"}
_TABS = {".tsv", ".tab"}
_MAX_HEADER = 1 << 20
_METADATA_BYTES = 1 << 20  # of a row beside its text


def is_input(name: str) -> bool:
    """Whether a file of a folder is CSV or TSV."""
    return split_suffix(name)[2] in _SUFFIXES


def check_file(source: CsvSource, uri: str) -> None:
    """Check the header of a file.

    Raises:
        EmptyFileError: there is no header in it.
        InputError: it is missing, damaged from the beginning, or not UTF-8 text, or a column of the source is missing.
    """
    size = stored_size(uri)
    try:
        refuse_other_formats(uri, next(read_chunks(uri), b""))
        rows = _Rows(source, FileRange(uri, uri, 0, size, "whole", size), max_bytes=_MAX_HEADER)
        _columns(source, uri, rows.header())
    except UnreadableError as error:
        raise InputError(f"{uri}: {error}") from None


def file_ranges(source: CsvSource, uri: str, name: str, *, part_bytes: int) -> list[FileRange]:
    """One range: a line break may be part of a quoted field, so rows are found from the beginning only."""
    return byte_ranges(uri, name, part_bytes=part_bytes, divisible=False)


def read_documents(source: CsvSource, part: FileRange, *, max_document_bytes: int) -> Iterator[RawDocument | BadRow]:
    """The documents of the rows. Offsets are in the file as decompressed."""
    rows = _Rows(source, part, max_bytes=2 * max_document_bytes + _METADATA_BYTES)
    try:
        header = rows.header()
        positions = _columns(source, part.uri, header)
        for cells in rows:
            if isinstance(cells, BadRow):
                yield cells
            elif len(cells) != len(header):
                yield rows.refused("csv_malformed", f"{len(cells)} fields where the header has {len(header)}")
            else:
                values = {field: cells[position] for field, position in positions.items()}
                yield _document(part.name, rows, values, max_document_bytes)
    except EmptyFileError:
        return
    except UnreadableError as error:
        yield error.bad_row(part.name)


class _Rows:
    """The rows of a file. Memory is bounded: a row of more than `max_bytes` is refused and its lines are skipped.

    Attributes:
        offset: first byte of the last row.
    """

    def __init__(self, source: CsvSource, part: FileRange, *, max_bytes: int) -> None:
        self._part, self._max_bytes = part, max_bytes
        self._lines = read_lines(part, max_bytes=max_bytes)
        csv.field_size_limit(max(csv.field_size_limit(), max_bytes))  # a row has at most this size
        has_tabs = source.kind == "tsv" or split_suffix(part.uri)[2] in _TABS
        self._reader = csv.reader(
            _Texts(self),
            delimiter=source.delimiter or ("\t" if has_tabs else ","),
            quoting=csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE,
            strict=True,
        )
        self.offset = self._end = 0
        self._row_lines = 0

    def header(self) -> list[str]:
        """The names of the columns, from the first row that is not blank.

        Raises:
            EmptyFileError: there is none.
            InputError: it cannot be parsed.
        """
        for cells in self:
            if isinstance(cells, BadRow):
                raise InputError(f"{self._part.uri}: the header cannot be read ({cells.detail}); correct the file")
            return cells
        raise EmptyFileError(self._part.uri)

    def __iter__(self) -> Iterator[list[str] | BadRow]:
        while True:
            self.offset, self._row_lines = self._end, 0
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except _TooLargeError:
                yield self.refused("too_large", f"a row of more than {self._max_bytes:,} bytes; is a quote not closed?")
            except csv.Error as error:
                yield self.refused("csv_malformed", f"{error}; correct the quotes of the row, or set quoted: false")
            else:
                if any(cells[:1]) or len(cells) > 1:  # else a blank line
                    yield cells

    def refused(self, reason: str, detail: str) -> BadRow:
        """Quarantine of the last row. Its bytes are lost if it has several lines, which may have been many rows."""
        lost = min(self._end - self.offset, self._part.stored_bytes) if self._row_lines > 1 else 0
        return BadRow(self._part.name, self.offset, reason, detail, lost)

    def next_text(self) -> str:
        """The next line for the parser, with its line break; bytes that are not UTF-8 become surrogates."""
        line = next(self._lines)
        self._row_lines += 1
        self._end = line.offset + line.size + 1
        if self._end - self.offset > self._max_bytes + 1 or line.size > self._max_bytes:
            raise _TooLargeError
        data = line.data.removeprefix(BOM_UTF8) if line.offset == 0 else line.data
        return data.decode(errors="surrogateescape") + "\n"


class _TooLargeError(Exception):
    pass


class _Texts:
    """The lines of a file as an iterator that continues after an exception, unlike a generator."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def __iter__(self) -> "_Texts":
        return self

    def __next__(self) -> str:
        return self._rows.next_text()


def _columns(source: CsvSource, uri: str, header: list[str]) -> dict[str, int]:
    """The position of each column that is read, by the field of the recipe that names it."""
    positions: dict[str, int] = {}
    for field in ("text_column", "title_column", "id_column"):
        column = getattr(source, field)
        if column is None:
            continue
        if header.count(column) != 1:
            names = ", ".join(ascii(name)[:60] for name in header[:30])
            raise InputError(
                f"{uri}: no column '{column}', or two; set {field} to one of {names}, or delimiter if that is one name"
            )
        positions[field] = header.index(column)
    return positions


def _document(name: str, rows: _Rows, values: dict[str, str], max_bytes: int) -> RawDocument | BadRow:
    text, title = values["text_column"], values.get("title_column", "")
    key = values.get("id_column") or f"{name}:{rows.offset}"
    try:
        size = len(text.encode())
        (key + title).encode()
    except UnicodeEncodeError:
        return rows.refused("not_utf8", "bytes that are not UTF-8; convert the file to UTF-8")
    if size > max_bytes:
        return rows.refused("too_large", f"{size:,} bytes; raise max_document_mb")
    return RawDocument(key, title, text, size)
