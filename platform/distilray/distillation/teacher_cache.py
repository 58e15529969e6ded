"""Teacher cache: last hidden states and most probable tokens of a teacher, stored per shard.

Each shard has one Arrow file of the same name, with its rows in the same order.
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

TARGETS_FOLDER = "teacher"
# One record batch is in memory while a file is written: 250 MB for BERT base at full length. This size also keeps list
# offsets below 2^31.
RECORD_BATCH_ROWS = 256
_LOGIT_ROWS = 1024  # rows whose logits exist at the same time
_OPEN_FILES = 128  # every mapped file holds a descriptor, and the usual limit is 1,024

Array = NDArray[Any]


class TeacherCache:
    """Reader of a `jobs.cache_teacher` run, for the shards of one split. Files are mapped on first use.

    Args:
        folder: run folder.
        shards: shards that the cache was made from.
        positions: positions at which the most probable tokens are needed.
        cache: local copies of files in an object store.
        verify: True to compare the sha256 of all local files with the manifest. Files in an object store are verified
            when they are fetched.

    Raises:
        InputError: the folder has no complete run of that job, or a file is missing, truncated or changed.
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
        self._outputs = RunOutputs.from_manifest(folder, content)
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(self._open_shard)
        names = [targets_name(shard) for shard in shards.names]
        self._outputs.check_sizes(names)
        if verify and storage.is_local(folder):
            self._outputs.check_contents(names)

    def of(self, rows: NDArray[np.int64]) -> CachedTargets:
        """Return the targets of some rows of the shards, on the host."""
        shards, indices = self._shards.shard_positions(rows)
        locations = zip(shards.tolist(), indices.tolist(), strict=True)
        hidden, ids, log_p = zip(*(self._open(shard).row(row) for shard, row in locations), strict=True)
        selections: Sequence[Any] = [slice(None)] * len(rows)
        if self._positions == "masked" and self._stored == "all":
            selections = [shard.mask_positions.row(row) for shard, row in self._shards.locate(rows)]
        joined_ids, joined_log_p = (
            np.concatenate([row.reshape(-1, self._top_k)[at] for row, at in zip(column, selections, strict=True)])
            for column in (ids, log_p)
        )
        return CachedTargets(
            torch.from_numpy(np.concatenate(hidden).reshape(-1, self._dim)),
            torch.from_numpy(joined_ids.astype(np.int32)),
            torch.from_numpy(joined_log_p),
        )

    def start_downloads(self, shards: Sequence[int]) -> None:
        """Start to download the files of some shards from an object store."""
        for shard in shards:
            name = targets_name(self._shards.names[shard])
            self._cache.start_download(storage.join(self._folder, name), self._outputs.entries[name])

    def _open_shard(self, shard: int) -> "TargetsFile":
        name = targets_name(self._shards.names[shard])
        uri = storage.join(self._folder, name)
        return TargetsFile(str(self._cache.path(uri, self._outputs.entries[name])), uri)


def cache_content(folder: str) -> dict[str, Any]:
    """Return the `content` of the manifest of a `jobs.cache_teacher` run.

    Raises:
        InputError: the run is incomplete or belongs to another job.
    """
    content: dict[str, Any] = read_manifest(folder, "cache_teacher")["content"]
    return content


def targets_name(shard: str) -> str:
    """Return the path of a shard's targets below the run folder."""
    return f"{TARGETS_FOLDER}/{shard.rpartition('/')[2]}"


class TargetsFile:
    """Memory-mapped file of targets.

    Args:
        path: local file.
        name: name of the file in error messages.

    Raises:
        InputError: the file is truncated, or has another schema.
    """

    def __init__(self, path: str, name: str) -> None:
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(path))
            check_schema(self._reader.schema, TEACHER_TARGETS, name)
        except InputError:
            raise
        except (ValueError, OSError) as error:  # from Arrow, or from an extension type of Ray that the file names
            raise InputError(f"{name}: not a complete Arrow file ({error}); run jobs.cache_teacher again") from None

    def row(self, row: int) -> tuple[Array, Array, Array]:
        """Return flat views of the hidden states, ids and log probabilities of one row."""
        batch, index = self._reader.get_batch(row // RECORD_BATCH_ROWS), row % RECORD_BATCH_ROWS
        hidden, ids, log_p = (column[index].values.to_numpy() for column in batch.columns)
        return hidden, ids, log_p


class FrozenTeacher:
    """Teacher model that computes the targets of a cache.

    Args:
        model: masked LM in eval mode.

    Attributes:
        config: settings of the cache, and the precision of the forward pass.
    """

    def __init__(self, model: Any, config: CacheTeacherConfig, device: torch.device) -> None:
        self._dtype = compute_dtype(config.precision, device)
        self._model = model.to(device, self._dtype).requires_grad_(False).eval()
        self.config, self._device = config, device

    @torch.inference_mode()
    def targets(self, batch: TensorBatch) -> CachedTargets:
        """Return the targets of a batch on the host, at the positions set in the config.

        Raises:
            InputError: a hidden state is not finite in 16 bits.
        """
        batch = batch.to(self._device)
        with autocast(self._device, self._dtype):
            states = encode(self._model, batch.input_ids, batch.attention_mask, batch.token_type_ids)
            teacher = LiveTeacher(self._model, states, batch.token_index, batch.mask_index)
            hidden = teacher.token_states().to("cpu", torch.float16)
            if not hidden.isfinite().all():
                raise InputError(
                    f"{self.config.teacher_dir}: its last hidden states are not finite in 16 bits; "
                    "distill without teacher_cache_dir, or check the teacher"
                )
            ids, log_p = self._top_tokens(teacher, batch)
        return CachedTargets(hidden, ids, log_p)

    def _top_tokens(self, teacher: LiveTeacher, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        rows = batch.mask_index
        if self.config.positions == "all":
            rows = batch.token_index
        output, chunks = teacher.targets(rows), []
        for start in range(0, max(1, len(rows)), _LOGIT_ROWS):
            logits = output.targets(slice(start, start + _LOGIT_ROWS)).float()
            chunks.append((logits / self.config.temperature).log_softmax(dim=-1).topk(self.config.top_k, dim=-1))
        ids, log_p = (torch.cat([getattr(chunk, name).cpu() for chunk in chunks]) for name in ("indices", "values"))
        return ids.to(torch.int32), log_p


def write_targets(shards: ShardSet, teacher: FrozenTeacher, uri: str, *, pad_id: int) -> dict[str, Any]:
    """Write the targets of all rows of some shards, atomically.

    Returns:
        The file's manifest entry, plus `kept`: the sum of the stored probabilities over all positions.

    Raises:
        InputError: the file cannot be written, or the teacher's hidden states do not fit in 16 bits.
    """
    positions, kept = 0, 0.0
    with storage.FileWriter(uri) as file, pa.ipc.new_file(file, TEACHER_TARGETS) as writer:
        for start in range(0, len(shards), RECORD_BATCH_ROWS):
            rows = np.arange(start, min(start + RECORD_BATCH_ROWS, len(shards)))
            batch = _record_batch(shards, teacher, rows, pad_id)
            writer.write_batch(batch)
            log_p = batch.column("top_log_probabilities").values.to_numpy()
            positions += len(log_p) // teacher.config.top_k
            kept += float(np.exp(log_p, dtype=np.float64).sum())
    return {
        "rows": len(shards),
        "tokens": shards.tokens,
        "positions": positions,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "kept": kept,
    }


def _record_batch(shards: ShardSet, teacher: FrozenTeacher, rows: NDArray[np.int64], pad_id: int) -> pa.RecordBatch:
    """Return the targets of some rows in the order of `rows`. The teacher reads them by length, to save padding."""
    order = rows[np.argsort(shards.lengths(rows), kind="stable")]
    targets: dict[int, tuple[Array, Array, Array]] = {}
    for start in range(0, len(order), teacher.config.batch_size):
        batch = order[start : start + teacher.config.batch_size]
        targets.update(zip(batch.tolist(), _targets_by_row(shards, teacher, batch, pad_id), strict=True))
    columns = zip(*(targets[row] for row in rows.tolist()), strict=True)
    arrays = [_list_array(column, field) for column, field in zip(columns, TEACHER_TARGETS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=TEACHER_TARGETS)


def _targets_by_row(
    shards: ShardSet, teacher: FrozenTeacher, rows: NDArray[np.int64], pad_id: int
) -> Iterator[tuple[Array, Array, Array]]:
    planned = PlannedRows(rows, np.zeros_like(rows))
    targets = teacher.targets(TensorBatch.of(collate(shards, planned, pad_id=pad_id)))
    lengths = shards.lengths(rows)
    counts = lengths if teacher.config.positions == "all" else shards.mask_counts(rows, np.zeros_like(rows))
    columns = [
        np.split(values.numpy(), np.cumsum(sizes)[:-1])
        for values, sizes in ((targets.hidden, lengths), (targets.ids, counts), (targets.log_probabilities, counts))
    ]
    return zip(*columns, strict=True)


def _list_array(rows: tuple[Array, ...], field: pa.Field) -> pa.ListArray:
    offsets = np.cumsum([0, *(row.size for row in rows)])
    values = np.concatenate([row.ravel() for row in rows]).astype(field.type.value_type.to_pandas_dtype())
    return pa.ListArray.from_arrays(pa.array(offsets).cast(pa.int32()), pa.array(values))
