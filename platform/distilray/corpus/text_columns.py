"""Text columns of tables of which nothing is known beforehand, chosen from the first rows of some files."""

import contextlib
import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distilray.corpus.sources.book_layout import is_wrapped
from distilray.corpus.sources.charsets import EncodingError, decode
from distilray.corpus.sources.other_formats import reject_other_formats
from distilray.errors import InputError
from distilray.formats.parquet import ParquetTable, is_text
from distilray.formats.streams import UnreadableError, read_chunks, split_suffix

HEAD_BYTES = 256 << 10
_FIRST_ROWS = 100  # rows that are sampled per file
_TEXT_COLUMNS = ("text", "content", "body", "document", "article", "sentence")  # preferred names
_USUAL_SHARE = 0.1  # of the amount of text of the longest column, which a column with such a name must have
_DELIMITERS = ",;\t|"
_MAX_NAMES = 30
_MIN_LINES, _MIN_WRAPPED_LENGTH = 3, 40  # of a text with wrapped lines; shorter lines are those of a list or a poem

Columns = dict[str, list[str]]  # values of the string columns; no values for other columns


@dataclass(frozen=True)
class FileSettings:
    """Settings to read files with.

    Attributes:
        values: settings of the source, except kind, name and path.
        reason: why these settings were chosen.
        text_share: share of the text among the strings of a row.
    """

    values: Mapping[str, Any]
    reason: str
    text_share: float = 1.0


def json_lines_settings(files: Sequence[str], text_column: str | None) -> FileSettings:
    """Choose the text column of JSON lines; see `_choose`."""
    columns: Columns = {}
    for line in [line for uri in files for line in read_head(uri).split("\n")[:_FIRST_ROWS] if line.strip()]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for key, value in row.items() if isinstance(row, dict) else ():
            columns.setdefault(key, []).extend([value] if isinstance(value, str) else [])
    if not columns:
        raise InputError(f"{files[0]}: no JSON object in the first lines; write one JSON object per line")
    return _choose(files[0], columns, text_column)


def csv_settings(files: Sequence[str], text_column: str | None) -> FileSettings:
    """Choose delimiter and text column of CSV and TSV files; see `_choose`."""
    columns: Columns = {}
    delimiter = default = ","
    for uri in files:
        default = "\t" if split_suffix(uri)[2] in (".tsv", ".tab") else ","
        head = read_head(uri)
        delimiter = max((default, *_DELIMITERS), key=head.partition("\n")[0].count)
        with contextlib.suppress(csv.Error):  # such as a quote that is not closed; reading the file reports it
            for row in islice(csv.DictReader(io.StringIO(head), delimiter=delimiter), _FIRST_ROWS):
                for key, value in row.items():
                    if isinstance(key, str):
                        columns.setdefault(key, []).extend([value] if isinstance(value, str) else [])
    chosen = _choose(files[0], columns, text_column)
    dialect = {} if delimiter == default else {"delimiter": delimiter}
    return FileSettings({**chosen.values, **dialect}, chosen.reason, chosen.text_share)


def parquet_settings(files: Sequence[str], text_column: str | None) -> FileSettings:
    """Choose the text column of Parquet files; see `_choose`."""
    columns: Columns = {}
    for uri in files:
        try:
            with ParquetTable(uri) as table:
                names = [field.name for field in table.schema if is_text(field.type)]
                columns |= {name: columns.get(name, []) for name in table.schema.names}
                batch = next(table.batches(names, rows=_FIRST_ROWS), None)
        except UnreadableError as error:
            raise InputError(f"{uri}: {error}") from None
        if batch is not None:
            for name in names:
                columns[name] += filter(None, batch.column(name).to_pylist())
    return _choose(files[0], columns, text_column)


def read_head(uri: str) -> str:
    """Return the complete lines at the start of a UTF-8 file.

    Raises:
        InputError: the file is damaged, binary, or in another encoding.
    """
    data = head_bytes(uri)
    reject_other_formats(uri, data)
    try:
        text, encoding = decode(data)
    except EncodingError as error:
        raise InputError(f"{uri}: not text ({error}); remove the file, or convert it to UTF-8") from None
    if encoding != "utf-8":
        raise InputError(f"{uri}: {encoding}, not UTF-8; convert it: iconv -f {encoding} -t utf-8 FILE > NEW_FILE")
    return text.replace("\r\n", "\n")


def head_bytes(uri: str) -> bytes:
    """Return the complete lines at the start of a file, or the start of its only line."""
    head = bytearray()
    try:
        for chunk in read_chunks(uri):
            head += chunk
            if len(head) >= HEAD_BYTES:
                return bytes(head[: head.rfind(b"\n") + 1 or head.rfind(b" ") + 1 or len(head)])
    except UnreadableError as error:
        if not head:
            raise InputError(f"{uri}: {error}") from None
    return bytes(head)


def _choose(uri: str, columns: Columns, wanted: str | None) -> FileSettings:
    """Choose the wanted column, else one with a usual name and enough text, else the one with the most text.

    Raises:
        InputError: the wanted column is missing, or no column has text.
    """
    amounts = {name: _amount_of_text(values) for name, values in columns.items()}
    names = ", ".join(ascii(name)[:60] for name in list(columns)[:_MAX_NAMES]) or "none"
    if wanted is not None and not amounts.get(wanted):
        raise InputError(f"{uri}: no text in column '{wanted}'; set text_column to one of {names}")
    most = max(amounts.values(), default=0)
    if not most:
        raise InputError(f"{uri}: no column with text; the columns are {names}, but none has strings of several words")
    longest = max(amounts, key=lambda name: amounts[name])
    by_lower_name = {name.lower(): name for name in amounts if amounts[name] >= _USUAL_SHARE * most}
    usual = [by_lower_name[name] for name in _TEXT_COLUMNS if name in by_lower_name]
    column = wanted or (usual[0] if usual else longest)
    reason = f"text in column {column!r}" + (" as set" if wanted else "" if usual else ", which has the most text")
    total = sum(len(value) for values in columns.values() for value in values)
    settings: dict[str, Any] = {"text_column": column}
    if has_wrapped_lines(columns[column]):
        settings, reason = {**settings, "hard_wrapped": True}, f"{reason}; its lines are wrapped"
    return FileSettings(settings, reason, sum(map(len, columns[column])) / total)


def has_wrapped_lines(texts: Sequence[str]) -> bool:
    """Return whether most texts with several lines are wrapped at a fixed width."""
    lines = [[line for line in text.splitlines() if line.strip()] for text in texts]
    wrapped = [
        statistics.median(map(len, own)) >= _MIN_WRAPPED_LENGTH and is_wrapped(text)
        for text, own in zip(texts, lines, strict=True)
        if len(own) >= _MIN_LINES
    ]
    return sum(wrapped) > len(wrapped) / 2


def _amount_of_text(values: Sequence[str]) -> int:
    """Return the number of characters in values that may be text: not numbers, codes or links."""
    return sum(len(value) for value in values if " " in value.strip() or not value.isascii())
