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
        return storage.local_path(uri) if storage.is_local(uri) else self.download(uri, entry)

    def download(self, uri: str, entry: Mapping[str, Any]) -> Path:
        """Download a remote shard unless it is cached, and return the local copy.

        Args:
            entry: manifest entry of the shard.

        Raises:
            InputError: the shard cannot be read, differs from the manifest, or the disk is full.
        """
        sha256 = str(entry["sha256"])
        if not _SHA256.fullmatch(sha256):  # it becomes a file name, and the manifest is not trusted
            raise InputError(f"{uri}: its manifest has no sha256 for this shard; run the job that wrote it again")

        def fetch(file: Path) -> None:
            with reading(uri):
                if not any(self._cache.download(uri, file) == sha256 for _ in range(_ATTEMPTS)):
                    raise InputError(f"{uri}: its content differs from the manifest (sha256); run its job again")

        return self._cache.get(f"{sha256}.arrow", fetch)

    def start_download(self, uri: str, entry: Mapping[str, Any]) -> None:
        """Start to download a remote shard in the background. Errors are reported by `download`."""
        if not storage.is_local(uri):
            self._background.submit(self.download, uri, entry)

    @cached_property
    def _background(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="shards")
