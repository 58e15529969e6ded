"""Cached targets for the rows of a training run: found by shard, mapped, and joined for a batch.

What a frozen teacher says of a batch, as the cache holds it.

Files of cached targets: one for each shard, its rows in the same order, in record batches of a fixed size.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilray.config.distillation import CacheTeacherConfig, Positions
from distilray.distillation.objective import TensorBatch
from distilray.distillation.teachers import CachedTargets, LiveTeacher
from distilray.errors import InputError
from distilray.models.masked_lm import encode
from distilray.models.precision import autocast, compute_dtype
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.runtime import storage
from distilray.runtime.outputs import RunOutputs
from distilray.runtime.run_folder import read_manifest
from distilray.schemas import TEACHER_TARGETS, check_schema

_CHUNK_ROWS = 1024  # of logits that are alive at a time


class FrozenTeacher:
    """A teacher on its device.

    Args:
        model: a masked LM in eval mode.

    Attributes:
        config: what is cached of it, and the dtype of its forward pass.
    """

    def __init__(self, model: Any, config: CacheTeacherConfig, device: torch.device) -> None:
        self._dtype = compute_dtype(config.precision, device)
        self._model = model.to(device, self._dtype).requires_grad_(False).eval()
        self.config, self._device = config, device

    @torch.inference_mode()
    def targets(self, batch: TensorBatch) -> CachedTargets:
        """The targets of a batch on the host, at the positions of the config.

        Raises:
            InputError: a hidden state is not finite in 16 bits.
        """
        batch = batch.to(self._device)
        with autocast(self._device, self._dtype):
            states = encode(self._model, batch.input_ids, batch.attention_mask, batch.token_type_ids)
            teacher = LiveTeacher(self._model, states, batch.attention_mask, batch.mask_index)
            hidden = teacher.hidden_at_tokens().to("cpu", torch.float16)
            if not hidden.isfinite().all():
                raise InputError(
                    f"{self.config.teacher_dir}: its last hidden states are not finite in 16 bits; "
                    "distil without teacher_cache_dir, or check the teacher"
                )
            ids, logs = self._best(teacher, batch)
        return CachedTargets(hidden, ids, logs)

    def _best(self, teacher: LiveTeacher, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        rows = batch.mask_index
        if self.config.positions == "all":
            rows = batch.attention_mask.flatten().nonzero().squeeze(1)
        dense, found = teacher.targets(rows), []
        for start in range(0, max(1, len(rows)), _CHUNK_ROWS):
            logits = dense.chunk(slice(start, start + _CHUNK_ROWS)).float()
            found.append((logits / self.config.temperature).log_softmax(dim=-1).topk(self.config.top_k, dim=-1))
        ids, logs = (torch.cat([getattr(part, name).cpu() for part in found]) for name in ("indices", "values"))
        return ids.to(torch.int32), logs


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


_OPEN_FILES = 128  # a mapped file keeps a descriptor; a process may have about a thousand


class TeacherCache:
    """A run of `jobs.cache_teacher` beside the shards of one split.

    Files are mapped when a row of theirs is asked for.

    Args:
        folder: the run folder.
        shards: those that the cache was made from.
        positions: where the most probable tokens are asked for.
        cache: where files of an object store are kept on this machine.
        verify: compares the sha256 of every local file with the manifest; one of an object store is compared when it
            is fetched.

    Raises:
        InputError: no complete run of that job, or a file that is missing, torn or changed.
    """

    def __init__(
        self,
        folder: str,
        shards: ShardSet,
        positions: Positions,
        *,
        cache: ShardCache | None = None,
        verify: bool = False,
    ) -> None:
        content = cache_content(folder)
        self._folder, self._shards, self._positions = folder, shards, positions
        self._stored: Positions = content["config"]["positions"]
        self._dim: int = content["counts"]["dim"]
        self._top_k: int = content["config"]["top_k"]
        self._cache = cache or ShardCache()
        self._outputs = RunOutputs.of(folder, content)
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(self._opened)
        names = [targets_name(shard) for shard in shards.names]
        self._outputs.check_sizes(names)
        if verify and storage.is_local(folder):
            self._outputs.check_contents(names)

    def of(self, rows: NDArray[np.int64]) -> CachedTargets:
        """The targets of some rows of the shards, on the host."""
        shards, inside = self._shards.shard_positions(rows)
        shard_positions = zip(shards.tolist(), inside.tolist(), strict=True)
        hidden, ids, logs = zip(*(self._open(shard).row(row) for shard, row in shard_positions), strict=True)
        chosen: Sequence[Any] = [slice(None)] * len(rows)
        if self._positions == "masked" and self._stored == "all":
            chosen = [shard.mask_positions.row(row) for shard, row in self._shards.locate(rows)]
        joined_ids, joined_logs = (
            np.concatenate([part.reshape(-1, self._top_k)[at] for part, at in zip(parts, chosen, strict=True)])
            for parts in (ids, logs)
        )
        return CachedTargets(
            torch.from_numpy(np.concatenate(hidden).reshape(-1, self._dim)),
            torch.from_numpy(joined_ids.astype(np.int32)),
            torch.from_numpy(joined_logs),
        )

    def fetch(self, shards: Sequence[int]) -> None:
        """Begins to bring the files of some shards from an object store to this machine."""
        for shard in shards:
            name = targets_name(self._shards.names[shard])
            self._cache.begin(storage.join(self._folder, name), self._outputs.entries[name])

    def _opened(self, shard: int) -> TargetsFile:
        name = targets_name(self._shards.names[shard])
        uri = storage.join(self._folder, name)
        return TargetsFile(str(self._cache.path(uri, self._outputs.entries[name])), uri)


def cache_content(folder: str) -> dict[str, Any]:
    """The `content` of the manifest of a run of `jobs.cache_teacher`.

    Raises:
        InputError: no complete run, or one of another job.
    """
    content: dict[str, Any] = read_manifest(folder, "cache_teacher")["content"]
    return content
