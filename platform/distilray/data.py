"""Ray Data datasets of dumps, documents and masked examples, for programs that go beyond the stages.

    import ray
    from distilray import data

    documents = data.read_dump("sample:wikipedia")              # cleaned as by build_corpus
    documents = data.read_documents("runs/corpus")              # written by build_corpus
    examples = data.read_shards("runs/shards", split="train")   # written by encode_corpus
    masker = data.read_masker("runs/shards")
    examples.map_batches(data.mask_batch, fn_kwargs={"masker": masker, "epoch": 1}, batch_format="pyarrow")

The functions check their input in the calling process. Each read task covers one byte range or file. Ray Data returns
blocks in the order of completion unless `DataContext.execution_options.preserve_order` is set.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from distilray.config.corpus import BuildCorpusConfig
from distilray.config.paths import expand_home
from distilray.config.recipe import validate_recipe
from distilray.corpus.chunks import Chunk, check_inputs, plan_chunks, source_files
from distilray.corpus.extraction import Extraction, ScreeningData
from distilray.corpus.sources.raw_documents import TruncatedFileError
from distilray.errors import InputError, reading
from distilray.pretraining_data.corpus_reader import Corpus, document_tables
from distilray.pretraining_data.masking import Masker
from distilray.pretraining_data.shards import ShardSet
from distilray.runtime import storage
from distilray.schemas import DOCUMENTS, EXAMPLES
from distilray.stages import Run

RunLocation = str | PathLike[str] | Run

# Bytes in memory per stored byte of bz2 and of Parquet with zstd, measured on English text and rounded up.
_DUMP_EXPANSION, _DOCUMENTS_EXPANSION = 2, 3
_MASKED_COLUMNS = ("example_id", "input_ids", "segment_b_start", "mask_positions", "mask_labels")


class ArtifactDatasource(Datasource):
    """Datasource with fixed read tasks, independent of the parallelism that Ray requests."""

    def __init__(self, tasks: Sequence[ReadTask]) -> None:
        super().__init__()
        self._tasks = tasks

    def estimate_inmemory_data_size(self) -> int:
        """Return the estimated bytes of all rows in memory."""
        return sum(task.metadata.size_bytes for task in self._tasks)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return the tasks, each limited to `per_task_row_limit` rows."""
        return [ReadTask(task.read_fn, task.metadata, task.schema, per_task_row_limit) for task in self._tasks]


def read_dump(
    path: str | PathLike[str],
    *,
    filters: Mapping[str, Any] | None = None,
    chunk_mb: float = 8.0,
    skip_damaged: bool = False,
    **source: Any,
) -> ray.data.Dataset:
    """Read clean documents from Wikipedia dumps, plain XML or bz2, in byte ranges.

    The documents are those of `build_corpus` before deduplication: redirects, disambiguation pages and pages that do
    not pass the filters are dropped.

    Args:
        path: a dump, a folder, a pattern with `*`, or `sample:wikipedia`; all workers must see it.
        filters: keys of `filters` in a recipe of `build_corpus`.
        chunk_mb: MB of stored input per task.
        skip_damaged: skip unreadable pages, and accept truncated dumps. Otherwise a truncated dump raises `InputError`
            immediately, and an unreadable page raises it in the read task.
        source: further keys of a Wikipedia source, such as `index_path`, `name`, `language` or `templates`.

    Returns:
        One row per document in schema `DOCUMENTS`: doc_id, source, title, sentences (list of strings), file, page_id,
        revision_id, license.

    Raises:
        InputError: the path is missing, is not a dump or is truncated, or a key or value is invalid.
    """
    values = {
        "run_dir": "none",  # unused: nothing is written
        "sources": [{**source, "kind": "wikipedia", "path": fspath(path)}],
        "filters": dict(filters or {}),
        "chunk_mb": chunk_mb,
        **({"fault_tolerance": {"max_bad_fraction": 1.0}} if skip_damaged else {}),
    }
    config = validate_recipe("read_dump", values, BuildCorpusConfig)
    files = source_files(config)
    try:
        check_inputs(config, files)
    except TruncatedFileError as error:
        raise InputError(
            f"{error.fault}; download it again, or set skip_damaged=True to use the part that is there"
        ) from None
    tasks = [_dump_task(chunk, config, skip_damaged) for chunk in plan_chunks(config, files)]
    return ray.data.read_datasource(ArtifactDatasource(tasks))


def read_documents(run: RunLocation) -> ray.data.Dataset:
    """Read the documents of a complete run of `build_corpus`, one task per file.

    Args:
        run: the run, or its folder as a path or URI.

    Returns:
        One row per document, as in `read_dump`.

    Raises:
        InputError: the run is incomplete, empty or from another job, or a file is missing or has the wrong size. A read
            task raises it if the content of its file has changed.
    """
    corpus = Corpus.open(_folder(run))
    tasks = []
    for name, rows in corpus.files.items():
        uri, size = storage.join(corpus.folder, name), corpus.stored_bytes[name] * _DOCUMENTS_EXPANSION
        tasks.append(_read_task(partial(document_tables, uri, 0, rows), DOCUMENTS, [uri], size, rows))
    return ray.data.read_datasource(ArtifactDatasource(tasks))


def read_shards(run: RunLocation, *, split: Literal["train", "heldout"] = "train") -> ray.data.Dataset:
    """Read the examples of one split of a complete run of `encode_corpus`, one task per shard.

    Args:
        run: the run, or its folder as a path or URI.
        split: "train" or "heldout".

    Returns:
        One row per example in schema `EXAMPLES`: input_ids, mask_positions and mask_labels are lists of uint16 without
        padding; segment B starts at segment_b_start. With dynamic masks, train examples are not masked; see
        `mask_batch`.

    Raises:
        InputError: the run is incomplete or from another job, the split is empty, or a shard is missing or has the
            wrong size. A read task raises it if the content of its shard has changed.
    """
    shards = ShardSet(_folder(run), split)
    tasks = []
    for name, rows in zip(shards.names, shards.shard_rows, strict=True):
        uri = storage.join(shards.folder, name)
        size = storage.file_size(uri) or 0  # shards are not compressed
        tasks.append(_read_task(partial(_shard_tables, shards.folder, split, name), EXAMPLES, [uri], size, rows))
    return ray.data.read_datasource(ArtifactDatasource(tasks))


def read_masker(run: RunLocation) -> Masker:
    """Return a masker with the seed, masking settings and vocabulary of a run of `encode_corpus`.

    Raises:
        InputError: see `read_shards`.
    """
    return ShardSet(_folder(run), "train").read_masker()


def mask_batch(batch: pa.Table, *, masker: Masker, epoch: int = 0) -> pa.Table:
    """Draw new masks for an epoch; for use with `map_batches(..., batch_format="pyarrow")`.

    The masks of an example depend only on the masker, the epoch and its example_id. Epoch 0 reproduces the static masks
    of a run. Existing masks are removed first.

    Args:
        batch: rows of `read_shards`.

    Returns:
        The rows with new input_ids, mask_positions and mask_labels.

    Raises:
        InputError: the batch is not a `pyarrow.Table`, or a column is missing.
    """
    if not isinstance(batch, pa.Table):
        raise InputError(
            f'mask_batch: the batch is a {type(batch).__name__}; set batch_format="pyarrow" in map_batches'
        )
    if missing := [name for name in _MASKED_COLUMNS if name not in batch.column_names]:
        raise InputError(f"mask_batch: no column {', '.join(missing)}; pass rows of read_shards")
    ids, offsets = _ragged(batch["input_ids"])
    labels, label_offsets = _ragged(batch["mask_labels"])
    positions, _ = _ragged(batch["mask_positions"])
    ids[np.repeat(offsets[:-1], np.diff(label_offsets)) + positions] = labels
    masked = masker.mask(
        ids,
        offsets=offsets,
        segment_b_start=batch["segment_b_start"].to_numpy(),
        example_ids=batch["example_id"].to_numpy(),
        epochs=epoch,
    )
    columns = {
        "input_ids": (masked.input_ids, offsets),
        "mask_positions": (masked.mask_positions, masked.mask_offsets),
        "mask_labels": (masked.mask_labels, masked.mask_offsets),
    }
    for name, (values, bounds) in columns.items():
        index = batch.column_names.index(name)
        column = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(values, pa.uint16()))
        batch = batch.set_column(index, batch.schema.field(index), column)
    return batch


def _read_task(
    read: Callable[[], Iterable[pa.Table]], schema: pa.Schema, files: Iterable[str], size: int, rows: int | None = None
) -> ReadTask:
    return ReadTask(read, BlockMetadata(rows, size, exec_stats=None, input_files=tuple(files)), schema)


def _folder(run: RunLocation) -> str:
    """Return the folder of a run as an absolute path or URI, because workers have other working directories."""
    text = expand_home(fspath(run.run_dir if isinstance(run, Run) else run))
    return text if "://" in text else os.path.abspath(text)


def _dump_task(chunk: Chunk, config: BuildCorpusConfig, skip_damaged: bool) -> ReadTask:
    uris, size = dict.fromkeys(file_range.uri for file_range in chunk.ranges), chunk.stored_bytes * _DUMP_EXPANSION
    return _read_task(partial(_dump_tables, chunk, config, skip_damaged), DOCUMENTS, uris, size)


def _dump_tables(chunk: Chunk, config: BuildCorpusConfig, skip_damaged: bool) -> Iterator[pa.Table]:
    extraction = Extraction(chunk, config, ScreeningData(), time.perf_counter)
    with reading(chunk.ranges[0].uri):
        for table in extraction.batches():
            yield table.select(DOCUMENTS.names).cast(DOCUMENTS)
    if extraction.quarantine and not skip_damaged:
        bad = extraction.quarantine[0]
        more = f", and {len(extraction.quarantine) - 1:,} more" if len(extraction.quarantine) > 1 else ""
        raise InputError(
            f"{bad.file}: byte {bad.offset:,}: {bad.detail} ({bad.reason}){more}; set skip_damaged=True to skip "
            "unreadable pages"
        )


def _shard_tables(folder: str, split: str, name: str) -> Iterator[pa.Table]:
    yield ShardSet(folder, split, verify=True, only=[name]).table(0)


def _ragged(column: pa.ChunkedArray) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return a copy of the values of a list column, and its (rows + 1) offsets."""
    lengths = column.combine_chunks().value_lengths().to_numpy()
    values = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.uint16), *values]), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
