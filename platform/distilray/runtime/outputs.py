"""Verification of the output files of complete runs against their manifests."""

import contextlib
import functools
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.run_folder import MANIFEST_FILE, is_manifest

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_DEPTH = 3  # path components of an output within its run, as in RUN/glue/TASK/train.tsv
_RECENT_NS = 2_000_000_000  # within this time a file can change without a new time stamp


@dataclass(frozen=True)
class RunOutputs:
    """Output files of a complete run.

    Every check raises `InputError`, which names the file and the fix, if a file is missing, its size or content differs
    from the manifest, or the manifest has no SHA-256 for it.

    Attributes:
        folder: the run folder.
        job: job that wrote the run.
        entries: `bytes` and `sha256` of each file, by name within the folder.
    """

    folder: str
    job: str
    entries: Mapping[str, Mapping[str, Any]]

    @classmethod
    def from_manifest(cls, folder: str, content: Mapping[str, Any]) -> "RunOutputs":
        """Return the outputs recorded in the `content` of a manifest."""
        return cls(folder, content["job"], content["outputs"])

    def check_sizes(self, names: Iterable[str]) -> None:
        """Check that files exist and have the recorded sizes, without reading them."""
        with ThreadPoolExecutor(storage.READ_THREADS) as readers:
            list(readers.map(self._check_size, names))

    def check_contents(self, names: Iterable[str]) -> None:
        """Check sizes and contents of files."""
        with ThreadPoolExecutor(storage.READ_THREADS) as readers:
            list(readers.map(self.check_content, names))

    def check_content(self, name: str, sha256: str | None = None) -> None:
        """Check size and content of a file. Its SHA-256 is computed unless it is passed."""
        expected = self._check_size(name)
        if (sha256 or _sha256(storage.join(self.folder, name))) != expected:
            raise self._error(name, "its content differs from the manifest (sha256)")

    def read(self, name: str) -> bytes:
        """Return the verified content of a file."""
        data = storage.read_bytes(storage.join(self.folder, name))
        self.check_content(name, hashlib.sha256(data).hexdigest())
        return data

    def _check_size(self, name: str) -> str:
        """Check the size of a file and return its recorded SHA-256."""
        entry, size = self.entries.get(name), storage.file_size(storage.join(self.folder, name))
        if entry is None or size is None:
            raise self._error(name, "missing" if size is None else "not in the manifest")
        if not isinstance(entry, Mapping) or not _SHA256.fullmatch(str(entry.get("sha256"))):
            raise self._error(name, "its manifest has no sha256 for it")
        if size != entry.get("bytes", size):
            raise self._error(name, f"{size} bytes, but the manifest records {entry['bytes']}")
        return str(entry["sha256"])

    def _error(self, name: str, reason: str) -> InputError:
        return InputError(f"{storage.join(self.folder, name)}: {reason}; restore it, or run jobs.{self.job} again")


def verify_file(uri: str, sha256: str | None = None) -> None:
    """Check a file against the manifest of the run that wrote it. Files that belong to no run pass.

    Args:
        sha256: hash of the content, if it is already known.

    Raises:
        InputError: see `RunOutputs`.
    """
    folder = uri if "://" in uri else str(storage.local_path(uri))
    names: list[str] = []
    for _ in range(_MAX_DEPTH):
        folder, _, name = folder.rpartition("/")
        names.insert(0, unquote(name) if "://" in uri else name)
        if not (folder.partition("://")[2] if "://" in uri else folder):
            return
        manifest = _read_manifest(folder)
        if manifest is not None and "/".join(names) in manifest["content"]["outputs"]:
            RunOutputs.from_manifest(folder, manifest["content"]).check_content("/".join(names), sha256)
            return


def read_verified(uri: str) -> bytes:
    """Return the content of a file, verified like `verify_file` but without reading the file twice.

    Raises:
        InputError: see `RunOutputs`.
    """
    data = storage.read_bytes(uri)
    verify_file(uri, hashlib.sha256(data).hexdigest())
    return data


def _read_manifest(folder: str) -> dict[str, Any] | None:
    """Return the manifest in a folder, of any schema, or None if there is none or another program wrote the file."""
    uri = storage.join(folder, MANIFEST_FILE)
    with contextlib.suppress(ValueError):  # includes an unreadable folder above the run
        manifest = json.loads(storage.read_bytes(uri)) if storage.file_size(uri) else None
        return manifest if is_manifest(manifest) else None
    return None


@functools.lru_cache(maxsize=1024)
def _sha256_at(uri: str, stamp: tuple[int, int]) -> str:
    return storage.sha256(uri)


def _sha256(uri: str) -> str:
    """Return the SHA-256 of a file, computed only once per process while the file is unchanged."""
    stamp = storage.file_stamp(uri)
    if time.time_ns() - stamp[1] < _RECENT_NS:
        return storage.sha256(uri)
    return _sha256_at(uri, stamp)
