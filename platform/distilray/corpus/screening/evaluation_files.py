"""The texts of evaluation sets: which files of a path are read, what their set is called, and what is in them."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import lines_of
from distilray.formats.parquet import ParquetTable
from distilray.formats.streams import UnreadableError
from distilray.formats.tables import DelimitedRows, Row, json_rows
from distilray.runtime import storage
from distilray.runtime.file_search import find_files
from distilray.runtime.outputs import read_verified

# The train split of a set is not what is evaluated.
_EVALUATED = re.compile(r"dev|test|validation", re.IGNORECASE)
_SPLIT = re.compile(r"(?:dev|test|train|validation)(?![^\W_])", re.IGNORECASE)


def evaluation_files(path: str) -> list[tuple[str, str]]:
    """The sets and the URIs of the files that a path means.

    In a folder these are the files of a `dev`, `test` or `validation` split, and their folders name the sets. Any
    other path means the file itself, which names its set unless its name is only that of a split.

    Raises:
        InputError: nothing is there that can be read.
    """
    known = [uri for uri in find_files(path) if _suffix(uri) in _READERS]
    if not known:
        raise InputError(f"{path}: no evaluation file there; its name must end with one of {', '.join(_READERS)}")
    if not storage.is_folder(path):
        return [(_folder(uri) if _SPLIT.match(_name(uri)) else _stem(uri), uri) for uri in known]
    evaluated = [(_folder(uri), uri) for uri in known if _EVALUATED.match(_name(uri))]
    if not evaluated:
        raise InputError(f"{path}: no name there begins with dev, test or validation; give the files themselves")
    return evaluated


def read_texts(uri: str) -> Iterator[str]:
    """Every text of a file: fields, lines or values.

    Raises:
        InputError: the file is not what its name says, or not what the manifest of its run says.
    """
    suffix = _suffix(uri)
    data = read_verified(uri)
    try:
        yield from _READERS[suffix](data)
    except (ValueError, UnreadableError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{uri}: cannot be read as {suffix} in UTF-8 ({reason}); mend the file or leave it out"
        ) from None


def _name(uri: str) -> str:
    name = uri.rpartition("/")[2]
    return unquote(name) if "://" in uri else name


def _stem(uri: str) -> str:
    return _name(uri).rpartition(".")[0]


def _folder(uri: str) -> str:
    return _name(uri.rpartition("/")[0]).strip(".") or _stem(uri)


def _suffix(uri: str) -> str:
    return "." + _name(uri).rpartition(".")[2].lower()


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8-sig").split("\n")


def _cells(data: bytes, *, delimiter: str, quoted: bool) -> Iterator[str]:
    data.decode()  # the rows of a file that is not UTF-8 have surrogates
    rows = DelimitedRows(lines_of(data), "", max_bytes=len(data), delimiter=delimiter, quoted=quoted, strict=False)
    return itertools.chain.from_iterable(map(_values, rows))


def _json_lines(data: bytes) -> Iterator[str]:
    for row in json_rows(lines_of(data), "", max_bytes=len(data), objects=False):
        yield from _strings(_values(row))


def _values(row: Row | BadRow) -> Any:
    if isinstance(row, BadRow):
        raise ValueError(f"line {row.row}: {row.detail}")
    return row.values


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _parquet(data: bytes) -> Iterator[str]:
    with ParquetTable("", data=data) as table:
        for batch in table.batches():
            for column in batch.columns:
                yield from _column_texts(column)


def _column_texts(column: pa.Array) -> Iterator[str]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _column_texts(column.dictionary_decode())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from column.drop_null().to_pylist()
    elif pa.types.is_struct(kind):
        for inner in column.flatten():
            yield from _column_texts(inner)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _column_texts(column.flatten())


_READERS: Mapping[str, Callable[[bytes], Iterator[str] | list[str]]] = {
    ".tsv": partial(_cells, delimiter="\t", quoted=False),
    ".csv": partial(_cells, delimiter=",", quoted=True),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _lines,
    ".parquet": _parquet,
}
