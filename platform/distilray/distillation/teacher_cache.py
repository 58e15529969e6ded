"""Teacher cache: last hidden states and most probable tokens of a teacher, stored per shard.

Each shard has one Arrow file of the same name, with its rows in the same order. Hidden states are stored in 8 bits: the
states of a token are divided by a scale and rounded, so that their error is at most 1/254 of the largest of them.
"""

import functools
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilray.config.cache_teacher import CacheTeacherConfig
from distilray.config.distillation import LossConfig, Positions
from distilray.distillation.objective import TensorBatch
from distilray.distillation.teachers import CachedTargets, most_probable, quantize, sample_tokens, select_rows
from distilray.errors import InputError
from distilray.models.heads import vocabulary_logits
from distilray.models.precision import autocast, compute_dtype
from distilray.pretraining_data.batches import collate, prefetch
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.token_ids import list_array
from distilray.runtime import storage
from distilray.runtime.outputs import RunOutputs
from distilray.runtime.run_folder import read_manifest
from distilray.schemas import TEACHER_TARGETS, check_schema, schema_name

TARGETS_FOLDER = "teacher"
# One record batch is in memory while a file is written: 130 MB for BERT base at full length. This size also keeps list
# offsets below 2^31.
RECORD_BATCH_ROWS = 256
_LOGIT_ROWS = 1024  # rows whose logits exist at the same time
_WAITING_BATCHES = 2  # batches that wait to be written
_OPEN_FILES = 128  # every mapped file holds a descriptor, and the usual limit is 1,024

Array = NDArray[Any]
Rows = NDArray[np.int64]


class TeacherCache:
    """Reader of a `jobs.cache_teacher` run, for the shards of one split. Files are mapped on first use.

    Args:
        folder: run folder.
        shards: shards that the cache was made from.
        losses: losses that use the targets.
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
        losses: LossConfig,
        *,
        cache: ShardCache | None = None,
        verify: bool = False,
    ) -> None:
        content = cache_content(folder)
        self._folder, self._shards, self._losses = folder, shards, losses
        self._stored: Positions = content["config"]["positions"]
        stored = content["config"]["top_k"] + content["config"]["samples"]
        self._widths = content["counts"]["dim"], 1, stored, stored, 1
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
        columns = zip(*(self._open(shard).row(row) for shard, row in locations), strict=True)
        tokens: Sequence[Any] = [slice(None if self._losses.compares_last_hidden else 0)] * len(rows)
        positions: Sequence[Any] = [slice(None)] * len(rows)
        if self._losses.compared_positions == "masked" and self._stored == "all":
            positions = [shard.mask_positions.row(row) for shard, row in self._shards.locate(rows)]
        selections = tokens, tokens, positions, positions, positions
        return CachedTargets(*map(_join, columns, self._widths, selections))

    def start_downloads(self, shards: Sequence[int]) -> None:
        """Start to download the files of some shards from an object store."""
        for shard in shards:
            name = targets_name(self._shards.names[shard])
            self._cache.start_download(storage.join(self._folder, name), self._outputs.entries[name])

    def _open_shard(self, shard: int) -> "TargetsFile":
        name = targets_name(self._shards.names[shard])
        uri = storage.join(self._folder, name)
        return TargetsFile(str(self._cache.path(uri, self._outputs.entries[name])), uri)


def _join(rows: Sequence[Array], width: int, selections: Sequence[Any]) -> Tensor:
    """Return the selected lines of flat rows, (lines, width)."""
    lines = [row.reshape(-1, width)[selection] for row, selection in zip(rows, selections, strict=True)]
    return torch.from_numpy(np.concatenate(lines))


def cache_content(folder: str) -> dict[str, Any]:
    """Return the `content` of the manifest of a `jobs.cache_teacher` run.

    Raises:
        InputError: the run is incomplete, belongs to another job, or has another schema.
    """
    content: dict[str, Any] = read_manifest(folder, "cache_teacher")["content"]
    if content["counts"].get("schema") != (expected := schema_name(TEACHER_TARGETS)):
        raise InputError(
            f"{folder}: not a cache of schema {expected}; delete the folder and run jobs.cache_teacher again"
        )
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

    def row(self, row: int) -> list[Array]:
        """Return flat views of the columns of one row."""
        batch, index = self._reader.get_batch(row // RECORD_BATCH_ROWS), row % RECORD_BATCH_ROWS
        return [column[index].values.to_numpy() for column in batch.columns]


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
        self.config, self.device = config, device

    @torch.inference_mode()
    def targets(self, batch: TensorBatch, generator: torch.Generator) -> CachedTargets:
        """Return the targets of a batch on the device of the teacher."""
        batch = batch.to(self.device)
        tokens = batch.token_index
        positions = tokens if self.config.positions == "all" else batch.mask_index
        with autocast(self.device, self._dtype):
            states = batch.encode(self._model)
            chunks = [self._select(select_rows(states, rows), generator) for rows in positions.split(_LOGIT_ROWS)]
        hidden = select_rows(states, tokens if self.config.hidden_states else tokens[:0])
        ids, log_p, rest = (torch.cat(column) for column in zip(*chunks, strict=True))
        return CachedTargets(*quantize(hidden), ids.to(torch.uint16), log_p, rest)

    def _select(self, hidden: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        logits, config = vocabulary_logits(self._model, hidden), self.config
        if config.samples == 0:
            return most_probable(logits, top_k=config.top_k, temperature=config.temperature)
        probabilities = (logits.float() / config.temperature).softmax(dim=-1)
        return sample_tokens(probabilities, top_k=config.top_k, samples=config.samples, generator=generator)


def write_targets(shards: ShardSet, teacher: FrozenTeacher, uri: str, *, pad_id: int) -> dict[str, Any]:
    """Write the targets of all rows of some shards, atomically. Other threads prepare batches, hash and write.

    Returns:
        The file's manifest entry, plus `kept`: the sum of the `top_k` probabilities over all positions.

    Raises:
        InputError: the file cannot be written, or outputs of the teacher are not finite.
    """
    config, pinned = teacher.config, teacher.device.type == "cuda"
    generator = torch.Generator(teacher.device).manual_seed(zlib.crc32(" ".join(shards.names).encode()))
    pending: deque[Future[None]] = deque()
    with storage.FileWriter(uri) as file, pa.ipc.new_file(file, TEACHER_TARGETS) as arrow:
        writer = _TargetsWriter(arrow, shards, config)
        with ThreadPoolExecutor(1) as thread:
            for rows, batch in prefetch(lambda: _batches(shards, config.batch_size, pad_id, pinned=pinned)):
                pending.append(thread.submit(writer.add, rows, teacher.targets(batch, generator)))
                if len(pending) > _WAITING_BATCHES:
                    pending.popleft().result()
            for future in pending:
                future.result()
    counts = {"rows": len(shards), "tokens": shards.tokens, "positions": writer.positions}
    return {**counts, "bytes": file.bytes, "sha256": file.sha256, "kept": writer.kept}


class _TargetsWriter:
    """Writes the batches of `_batches` in the order of the rows.

    Attributes:
        positions, kept: number of positions, and sum of the probabilities of their `top_k` tokens.
    """

    def __init__(self, arrow: pa.ipc.RecordBatchFileWriter, shards: ShardSet, config: CacheTeacherConfig) -> None:
        self._arrow, self._shards, self._config = arrow, shards, config
        self._targets: dict[int, tuple[Array, ...]] = {}  # of one record batch, by row
        self._written, self.positions = 0, 0
        self.kept = 0.0

    def add(self, rows: Rows, outputs: CachedTargets) -> None:
        """Copy the targets of some rows to the host, and write the record batch that they complete.

        Raises:
            InputError: they are not finite.
        """
        targets = outputs.to(torch.device("cpu"))
        if not all(values.isfinite().all() for values in (targets.scales, targets.log_probabilities, targets.rest)):
            message = "its outputs are not finite; check the teacher, or set precision=fp32"
            raise InputError(f"{self._config.teacher_dir}: {message}")
        self.positions += len(targets.rest)
        self.kept += float(targets.log_probabilities[:, : self._config.top_k].double().exp().sum())
        self._targets.update(zip(rows.tolist(), _by_row(targets, self._shards, rows, self._config), strict=True))
        if len(self._targets) == min(RECORD_BATCH_ROWS, len(self._shards) - self._written):
            columns = zip(*(self._targets[row] for row in sorted(self._targets)), strict=True)
            arrays = [
                list_array(np.concatenate([row.ravel() for row in column]), [row.size for row in column])
                for column in columns
            ]
            self._arrow.write_batch(pa.RecordBatch.from_arrays(arrays, schema=TEACHER_TARGETS))
            self._written += len(self._targets)
            self._targets.clear()


def _batches(shards: ShardSet, batch_size: int, pad_id: int, *, pinned: bool) -> Iterator[tuple[Rows, TensorBatch]]:
    """Yield all rows, one record batch after the other, and within it by length to save padding."""
    for start in range(0, len(shards), RECORD_BATCH_ROWS):
        rows = np.arange(start, min(start + RECORD_BATCH_ROWS, len(shards)))
        order = rows[np.argsort(shards.lengths(rows), kind="stable")]
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            planned = PlannedRows(batch, np.zeros_like(batch))
            yield batch, TensorBatch.of(collate(shards, planned, pad_id=pad_id), pinned=pinned)


def _by_row(
    targets: CachedTargets, shards: ShardSet, rows: Rows, config: CacheTeacherConfig
) -> Iterator[tuple[Array, ...]]:
    """Yield the targets of each row, one array per column."""
    lengths = shards.lengths(rows)
    tokens = lengths if config.hidden_states else np.zeros_like(lengths)
    positions = lengths if config.positions == "all" else shards.mask_counts(rows, np.zeros_like(rows))
    columns = zip(vars(targets).values(), (tokens, tokens, positions, positions, positions), strict=True)
    return zip(*(np.split(values.numpy(), np.cumsum(sizes)[:-1]) for values, sizes in columns), strict=True)
