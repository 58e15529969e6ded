"""GLUE in the format of `nyu-mll/glue` on the Hugging Face hub: Parquet shards with class ids.

Both layouts of the hub are supported: `rte/train-00000-of-00001.parquet`, and `rte/train/0000.parquet` of the converted
branch. The files may also be in a subfolder `data`.
"""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from distilray.errors import InputError, reading
from distilray.finetuning.examples import Examples, check_row_count, check_scores, label_array
from distilray.finetuning.tasks import FineTuneTask
from distilray.formats.parquet import ParquetTable
from distilray.formats.streams import UnreadableError
from distilray.runtime import storage

HUB_SUFFIX = ".parquet"

_AGAIN = "get it from the hub again"
_LABEL, _INDEX = "label", "idx"
_NUMBERED, _CONVERTED = r"{split}-(?P<number>\d+)-of-(?P<total>\d+)(?:-[0-9a-f]+)?", r"{split}/(?P<number>\d+)"
_LAYOUTS = tuple(rf"{folder}{file}\.parquet" for folder in ("", "data/") for file in (_NUMBERED, _CONVERTED))
_SPLITS = {"dev": "validation", "dev_matched": "validation_matched", "dev_mismatched": "validation_mismatched"}


def read_hub_split(folder: str, task: FineTuneTask, split: str) -> Examples:
    """Read one split of a task.

    Args:
        folder: path or URI of the folder of the task, or of AX.
        task: the task; MNLI for AX.
        split: split of the task.

    Raises:
        InputError: a file is missing, or differs from the format of the hub.
    """
    name = "test" if split == "ax" else _SPLITS.get(split, split)
    is_test = split in task.test
    texts: list[list[str]] = [[] for _ in task.hub_columns]
    labels: list[float] = []
    for uri in _shards(folder, name):
        table = _read(uri, [*task.hub_columns, _INDEX if is_test else _LABEL])
        if is_test:
            _check_order(uri, _numbers(uri, table, _INDEX, pa.types.is_integer), len(texts[0]))
        else:
            labels += _labels(uri, table, task)
        for column, wanted in zip(texts, task.hub_columns, strict=True):
            column += _texts(uri, table, wanted)
    where = storage.join(folder, f"{name}-*{HUB_SUFFIX}")
    check_row_count(where, task, split, [len(texts[0])])
    if not is_test:
        check_scores(where, task, labels)
    # On the hub all labels of a test set are -1.
    return Examples(texts[0], texts[1] if len(texts) > 1 else None, None if is_test else label_array(task, labels))


def hub_files(folder: str) -> dict[str, str]:
    """Return the URIs of the Parquet files of a task by path relative to its folder, sorted."""
    store, path = storage.filesystem(folder)
    with reading(folder):
        infos = store.get_file_info(fs.FileSelector(path, recursive=True))
    below = sorted(info.path.removeprefix(path).lstrip("/") for info in infos if info.type == fs.FileType.File)
    quoted = "://" in folder  # some characters must be escaped in URIs, but not in paths
    return {name: storage.join(folder, quote(name) if quoted else name) for name in below if name.endswith(HUB_SUFFIX)}


def _shards(folder: str, name: str) -> list[str]:
    """Return the files of a split in order."""
    files, layouts = hub_files(folder), []
    for layout in _LAYOUTS:
        pattern = re.compile(layout.format(split=re.escape(name)))
        matches = [(match, uri) for file, uri in files.items() if (match := pattern.fullmatch(file))]
        layouts += [matches] if matches else []
    if not layouts:
        wanted = f"{storage.join(folder, name)}-00000-of-00001.parquet"
        raise InputError(f"{wanted}: no such file, and no {name}/0000.parquet; {_AGAIN}")
    listed = ", ".join(match[0] for matches in layouts for match, _ in matches)[:200]
    if len(layouts) > 1:
        raise InputError(f"{folder}: {name} exists in two layouts ({listed}); keep one of them")
    shards = layouts[0]
    numbers = [int(match["number"]) for match, _ in shards]
    totals = {int(match.groupdict().get("total", len(shards))) for match, _ in shards}
    if numbers != list(range(max(totals))) or len(totals) > 1:
        raise InputError(
            f"{folder}: the shards of {name} are incomplete or from different releases ({listed}); {_AGAIN}"
        )
    return [uri for _, uri in shards]


def _read(uri: str, columns: Sequence[str]) -> pa.Table:
    try:
        with ParquetTable(uri) as table:
            names = table.schema.names
            if any(names.count(name) != 1 for name in columns):
                actual = ", ".join(names)[:200]
                raise InputError(f"{uri}: columns {actual!r}, expected {', '.join(columns)}; {_AGAIN}")
            return table.read(columns)
    except UnreadableError as error:
        raise InputError(f"{uri}: not a complete Parquet file ({error}); {_AGAIN}") from None


def _texts(uri: str, table: pa.Table, name: str) -> list[str]:
    column = _column(uri, table, name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InputError(f"{uri}: column {name} is {column.type}, not text; {_AGAIN}")
    values: list[str] = column.to_pylist()
    return values


def _numbers(uri: str, table: pa.Table, name: str, is_type: Any) -> NDArray[Any]:
    column = _column(uri, table, name)
    if not is_type(column.type):
        raise InputError(f"{uri}: column {name} is {column.type}, which is not its type on the hub; {_AGAIN}")
    return column.to_numpy()


def _column(uri: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    if column.null_count:
        raise InputError(f"{uri}: column {name} has {column.null_count:,} empty rows; {_AGAIN}")
    return column


def _labels(uri: str, table: pa.Table, task: FineTuneTask) -> list[float]:
    is_type = pa.types.is_floating if task.is_regression else pa.types.is_integer
    values = _numbers(uri, table, _LABEL, is_type)
    lowest, highest = task.label_range
    wrong = np.flatnonzero(~((values >= lowest) & (values <= highest)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"{uri}: label {values[row]} in row {row + 1} is not from {lowest:g} to {highest:g}; {_AGAIN}")
    labels: list[float] = values.tolist()
    return labels


def _check_order(uri: str, indices: NDArray[Any], start: int) -> None:
    """Check that test rows are in order, because a submission refers to rows by their position."""
    wrong = np.flatnonzero(indices != np.arange(start, start + len(indices)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"{uri}: idx {indices[row]} in row {row + 1} instead of {start + row}; {_AGAIN}")
