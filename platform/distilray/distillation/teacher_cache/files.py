"""Files of cached targets: one for each shard, its rows in the same order, in record batches of a fixed size."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.distillation.objective import TensorBatch
from distilray.distillation.teacher_cache.targets import FrozenTeacher
from distilray.errors import InputError
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shards import ShardSet
from distilray.runtime import storage
from distilray.schemas import TEACHER_TARGETS, check_schema

TARGETS_FOLDER = "teacher"
# A record batch is what is in memory when a file is written, 250 MB for a BERT base at full length, and it keeps the
# offsets of its lists below 2^31.
RECORD_BATCH_ROWS = 256

Array = NDArray[Any]


def targets_name(shard: str) -> str:
    """The name in a cache of the targets of a shard."""
    return f"{TARGETS_FOLDER}/{shard.rpartition('/')[2]}"


def write_targets(shards: ShardSet, teacher: FrozenTeacher, uri: str, *, pad_id: int) -> dict[str, Any]:
    """Writes the targets of all rows of some shards, whole or not at all.

    Returns:
        What the manifest says of the file, and `kept`: the sum over its positions of the probability that is kept.

    Raises:
        InputError: the file cannot be written, or the teacher's states do not fit it.
    """
    positions, kept = 0, 0.0
    with storage.FileWriter(uri) as file, pa.ipc.new_file(file, TEACHER_TARGETS) as writer:
        for start in range(0, len(shards), RECORD_BATCH_ROWS):
            rows = np.arange(start, min(start + RECORD_BATCH_ROWS, len(shards)))
            batch = _record_batch(shards, teacher, rows, pad_id)
            writer.write_batch(batch)
            logs = batch.column("top_log_probabilities").values.to_numpy()
            positions += len(logs) // teacher.config.top_k
            kept += float(np.exp(logs, dtype=np.float64).sum())
    return {
        "rows": len(shards),
        "tokens": shards.tokens,
        "positions": positions,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "kept": kept,
    }


class TargetsFile:
    """A file of targets, mapped.

    Args:
        path: of a local file.
        name: its name in messages.

    Raises:
        InputError: torn file, or another schema.
    """

    def __init__(self, path: str, name: str) -> None:
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(path))
            check_schema(self._reader.schema, TEACHER_TARGETS, name)
        except InputError:
            raise
        except (ValueError, OSError) as error:  # of Arrow, or of a type of Ray that the file names
            raise InputError(f"{name}: not a whole Arrow file ({error}); run jobs.cache_teacher again") from None

    def row(self, row: int) -> tuple[Array, Array, Array]:
        """Flat views of the hidden states, ids and logarithms of one row."""
        batch, inside = self._reader.get_batch(row // RECORD_BATCH_ROWS), row % RECORD_BATCH_ROWS
        hidden, ids, logs = (column[inside].values.to_numpy() for column in batch.columns)
        return hidden, ids, logs


def _record_batch(shards: ShardSet, teacher: FrozenTeacher, rows: NDArray[np.int64], pad_id: int) -> pa.RecordBatch:
    """The targets of some rows, in their order; the teacher sees them sorted by length, for little padding."""
    order = rows[np.argsort(shards.lengths(rows), kind="stable")]
    found: dict[int, tuple[Array, Array, Array]] = {}
    for start in range(0, len(order), teacher.config.batch_size):
        part = order[start : start + teacher.config.batch_size]
        found.update(zip(part.tolist(), _of_batch(shards, teacher, part, pad_id), strict=True))
    columns = zip(*(found[row] for row in rows.tolist()), strict=True)
    arrays = [_lists(parts, field) for parts, field in zip(columns, TEACHER_TARGETS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=TEACHER_TARGETS)


def _of_batch(
    shards: ShardSet, teacher: FrozenTeacher, rows: NDArray[np.int64], pad_id: int
) -> Iterator[tuple[Array, Array, Array]]:
    planned = PlannedRows(rows, np.zeros_like(rows))
    targets = teacher.targets(TensorBatch.of(collate(shards, planned, pad_id=pad_id)))
    lengths = shards.lengths(rows)
    counts = lengths if teacher.config.positions == "all" else shards.mask_counts(rows, np.zeros_like(rows))
    parts = [
        np.split(values.numpy(), np.cumsum(sizes)[:-1])
        for values, sizes in ((targets.hidden, lengths), (targets.ids, counts), (targets.log_probabilities, counts))
    ]
    return zip(*parts, strict=True)


def _lists(parts: tuple[Array, ...], field: pa.Field) -> pa.ListArray:
    offsets = np.cumsum([0, *(part.size for part in parts)])
    values = np.concatenate([part.ravel() for part in parts]).astype(field.type.value_type.to_pandas_dtype())
    return pa.ListArray.from_arrays(pa.array(offsets).cast(pa.int32()), pa.array(values))
