"""Cached targets for the rows of a training run: found by shard, mapped, and joined for a batch."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilray.config.distillation import Positions
from distilray.distillation.teacher_cache.files import TargetsFile, targets_name
from distilray.distillation.teachers import CachedTargets
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.runtime import storage
from distilray.runtime.outputs import Outputs
from distilray.runtime.run_folder import read_manifest

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
        self._outputs = Outputs.of(folder, content)
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(self._opened)
        names = [targets_name(shard) for shard in shards.names]
        self._outputs.check_sizes(names)
        if verify and storage.is_local(folder):
            self._outputs.check_contents(names)

    def of(self, rows: NDArray[np.int64]) -> CachedTargets:
        """The targets of some rows of the shards, on the host."""
        shards, inside = self._shards.places(rows)
        places = zip(shards.tolist(), inside.tolist(), strict=True)
        hidden, ids, logs = zip(*(self._open(shard).row(row) for shard, row in places), strict=True)
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
