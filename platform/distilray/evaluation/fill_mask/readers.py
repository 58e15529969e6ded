"""Readers for files of masked texts: JSON lines, CSV, plain text (optionally compressed) and Parquet."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from urllib.parse import unquote

from distilray.config.evaluation import FillMaskDataConfig
from distilray.errors import InputError
from distilray.evaluation.fill_mask.examples import MaskedExample, bad_row, mask_line, parse_example
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, Line, read_lines
from distilray.formats.parquet import ParquetTable, is_text
from distilray.formats.streams import UnreadableError, split_suffix, stored_size
from distilray.formats.tables import DelimitedRows, Row, column_positions, json_rows
from distilray.runtime.file_search import find_files

_FORMATS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".txt": "text",
    ".text": "text",
}
_MAX_LINE = 16 << 20
_BATCH_ROWS = 256
_CHECKED_ROWS = 20  # at least one of the first rows must be usable
_BYTE_ORDER_MARK = "\ufeff"

Rows = Iterator[MaskedExample | BadRow]


@dataclass(frozen=True)
class DataFile:
    """A file to read.

    Attributes:
        number: index among all files, from 0.
        name: path relative to the folder in the recipe.
        limit: number of rows to read; None for all.
    """

    number: int
    uri: str
    name: str
    format: str
    limit: int | None = None


def data_files(data: FillMaskDataConfig) -> list[DataFile]:
    """Return the files of the data, sorted by name.

    Raises:
        InputError: there is no file, a format is unknown, or the files have different formats.
    """
    uris = find_files(data.path)
    root = len(os.path.commonprefix(uris).rpartition("/")[0]) + 1  # noqa: RUF071 - cut back to a folder
    formats = {uri: _format(uri, data) for uri in uris}
    if len(set(formats.values())) > 1:
        kinds = ", ".join(sorted(set(formats.values())))
        raise InputError(f"{data.path}: contains several formats ({kinds}); use a pattern that matches only one")
    names = [unquote(uri[root:]) if "://" in uri else uri[root:] for uri in uris]
    return [DataFile(number, uri, names[number], formats[uri]) for number, uri in enumerate(uris)]


def limit_rows(files: list[DataFile], data: FillMaskDataConfig, *, seed: int, rows: int | None) -> list[DataFile]:
    """Return the files that contain the first `rows` rows, with their limits; all files if `rows` is None."""
    if rows is None:
        return files
    kept: list[DataFile] = []
    for file in files:
        count = sum(1 for _ in islice(read_examples(file, data, seed=seed), rows))
        if count:
            kept.append(replace(file, limit=count))
        rows -= count
        if not rows:
            break
    return kept


def check_file(file: DataFile, data: FillMaskDataConfig, *, seed: int) -> None:
    """Check that at least one of the first rows of a file is usable.

    Raises:
        InputError: the file is empty or damaged at its start, or all of the first rows are bad.
    """
    first = list(islice(read_examples(file, data, seed=seed), _CHECKED_ROWS))
    if not first:
        raise InputError(f"{file.uri}: no rows; remove the file, or write it again")
    if all(isinstance(row, BadRow) for row in first):
        bad = first[0]
        assert isinstance(bad, BadRow)
        raise InputError(
            f"{file.uri}:{bad.row}: {bad.reason}: {bad.detail}; the other first rows are also unusable: "
            "correct data.text_column, data.answer_column or data.format, or the file"
        )


def read_examples(file: DataFile, data: FillMaskDataConfig, *, seed: int) -> Rows:
    """Yield the rows of a file in order, usable or bad, up to its limit.

    Raises:
        InputError: the file is damaged or lacks a column of the recipe.
    """
    try:
        yield from islice(_READERS[file.format](file, data, seed), file.limit)
    except UnreadableError as error:
        raise InputError(f"{file.uri}: {error}") from None


def _format(uri: str, data: FillMaskDataConfig) -> str:
    if data.format != "auto":
        return data.format
    suffix = split_suffix(uri)[2]
    if suffix not in _FORMATS:
        raise InputError(f"{uri}: '{suffix}' is none of {', '.join(_FORMATS)}; set data.format, or use other files")
    return _FORMATS[suffix]


def _lines(file: DataFile) -> Iterator[Line]:
    return read_lines(FileRange(file.uri, file.name, 0, stored_size(file.uri), "whole", 0), max_bytes=_MAX_LINE)


def _json_rows(file: DataFile, data: FillMaskDataConfig, seed: int) -> Rows:
    for row in json_rows(_lines(file), file.name, max_bytes=_MAX_LINE):
        yield row if isinstance(row, BadRow) else _parse_object(row, data)


def _parse_object(row: Row, data: FillMaskDataConfig) -> MaskedExample | BadRow:
    for column in (data.text_column, data.answer_column):
        if column not in row.values:
            names = ", ".join(ascii(name)[:40] for name in list(row.values)[:10])
            return row.reject("column_missing", f"no '{column}' among {names}")
    return parse_example(row.number, row.values[data.text_column], row.values[data.answer_column], data)


def _csv_rows(file: DataFile, data: FillMaskDataConfig, seed: int) -> Rows:
    rows = DelimitedRows(_lines(file), file.name, max_bytes=_MAX_LINE, strict=False)
    columns = {"data.text_column": data.text_column, "data.answer_column": data.answer_column}
    text, answer = column_positions(file.uri, rows.header(), columns).values()
    for row in rows:
        yield row if isinstance(row, BadRow) else _parse_cells(row.number, row.values[text], row.values[answer], data)


def _parse_cells(row: int, text: str, answer: str, data: FillMaskDataConfig) -> MaskedExample | BadRow:
    """Parse a CSV row; the answer cell contains one answer, or a JSON list of answers."""
    answers: Any = answer
    if answer.startswith("[") and answer.endswith("]"):
        try:
            answers = json.loads(answer)
        except (ValueError, RecursionError):
            return bad_row(row, "answers_missing", f"'{data.answer_column}' looks like a list but is not valid JSON")
    return parse_example(row, text, answers, data)


def _text_rows(file: DataFile, data: FillMaskDataConfig, seed: int) -> Rows:
    for row, line in enumerate(_lines(file), 1):
        if line.size > _MAX_LINE:
            yield bad_row(row, "too_large", f"a line of {line.size:,} bytes; the maximum is {_MAX_LINE:,}")
            continue
        decoded = line.data.decode(errors="surrogateescape").strip(f"{_BYTE_ORDER_MARK} \t\r\n")
        if decoded:
            yield mask_line(row, decoded, fraction=data.masked_fraction, seed=seed)


def _parquet_rows(file: DataFile, data: FillMaskDataConfig, seed: int) -> Rows:
    columns = {"data.text_column": data.text_column, "data.answer_column": data.answer_column}
    row = 0
    try:
        with ParquetTable(file.uri) as table:
            column_positions(file.uri, table.schema.names, columns)
            if not is_text(table.schema.field(data.text_column).type):
                raise InputError(f"{file.uri}: column '{data.text_column}' is not a string; set data.text_column")
            for batch in table.batches(list(dict.fromkeys(columns.values())), rows=_BATCH_ROWS):
                texts, answers = (batch.column(name).to_pylist() for name in columns.values())
                for text, answer in zip(texts, answers, strict=True):
                    row += 1
                    yield parse_example(row, text, answer, data)
    except (UnreadableError, UnicodeDecodeError) as error:
        where = f"damaged after row {row:,}: " if row else ""
        raise InputError(f"{file.uri}: {where}{error}; write the file again") from None


_READERS: Mapping[str, Callable[[DataFile, FillMaskDataConfig, int], Rows]] = {
    "jsonl": _json_rows,
    "parquet": _parquet_rows,
    "csv": _csv_rows,
    "text": _text_rows,
}
