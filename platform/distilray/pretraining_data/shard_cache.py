"""Local disk cache for shards of an object store, shared by all processes of a machine."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from distilray.config.pretraining_data import CacheConfig
from distilray.errors import InputError, reading
from distilray.runtime import storage
from distilray.runtime.cache import LocalCache

_ATTEMPTS = 2
_GB = 1e9
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardCache:
    """Local copies of remote shards, named by their sha256."""

    def __init__(self, config: CacheConfig | None = None) -> None:
        config = config or CacheConfig()
        self._cache = LocalCache(
            config.directory,
            noun="a shard",
            remedy="free space, or set cache.directory",
            max_bytes=config.max_gb * _GB,
        )

    def path(self, uri: str, entry: Mapping[str, Any]) -> Path:
        """Return the file of a local shard, or the local copy of a remote one."""
        return storage.local_path(uri) if storage.is_local(uri) else self.local(uri, entry)

    def local(self, uri: str, entry: Mapping[str, Any]) -> Path:
        """Return the local copy of a remote shard, and download it if necessary.

        Args:
            entry: manifest entry of the shard.

        Raises:
            InputError: the shard cannot be read, differs from the manifest, or the disk is full.
        """
        sha256 = str(entry["sha256"])
        if not _SHA256.fullmatch(sha256):  # used as a file name, and the manifest is not trusted
            raise InputError(f"{uri}: its manifest has no sha256 for this shard; run the job that wrote it again")

        def fetch(file: Path) -> None:
            with reading(uri):
                if not any(self._cache.download(uri, file) == sha256 for _ in range(_ATTEMPTS)):
                    raise InputError(f"{uri}: its content differs from the manifest (sha256); run its job again")

        return self._cache.get(f"{sha256}.arrow", fetch)

    def begin(self, uri: str, entry: Mapping[str, Any]) -> None:
        """Download a shard in the background; a failure is reported by `local`."""
        if not storage.is_local(uri):
            self._background.submit(self.local, uri, entry)

    @cached_property
    def _background(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="shards")
