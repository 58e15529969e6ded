"""The output files of complete runs, checked against the manifests before they are used."""

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
_DEPTH = 3  # folders from an output to its run at most, as in RUN/glue/TASK/train.tsv
_RECENT_NS = 2_000_000_000  # a file may change again without another time stamp


@dataclass(frozen=True)
class RunOutputs:
    """The output files of a complete run, to be checked against its manifest before they are used.

    Every check raises `InputError`, with the file and the fix, when one is missing, of another size or content, or
    when the manifest has no sha256 for it.

    Attributes:
        folder: of the run.
        job: that wrote it.
        entries: by name of the file inside the folder, its `bytes` and `sha256`.
    """

    folder: str
    job: str
    entries: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, folder: str, content: Mapping[str, Any]) -> "RunOutputs":
        """The outputs of a run, from the `content` of its manifest."""
        return cls(folder, content["job"], content["outputs"])

    def check_sizes(self, names: Iterable[str]) -> None:
        """Check that files are there and have their sizes, without reading them."""
        with ThreadPoolExecutor(storage.READ_THREADS) as readers:
            list(readers.map(self._check_size, names))

    def check_contents(self, names: Iterable[str]) -> None:
        """Check sizes and contents of files."""
        with ThreadPoolExecutor(storage.READ_THREADS) as readers:
            list(readers.map(self.check_content, names))

    def check_content(self, name: str, sha256: str | None = None) -> None:
        """Check size and content of a file, whose sha256 is computed unless it is given."""
        expected = self._check_size(name)
        if (sha256 or _sha256(storage.join(self.folder, name))) != expected:
            raise self._error(name, "its content is not what the manifest says (sha256)")

    def read(self, name: str) -> bytes:
        """The content of a file, checked."""
        data = storage.read_bytes(storage.join(self.folder, name))
        self.check_content(name, hashlib.sha256(data).hexdigest())
        return data

    def _check_size(self, name: str) -> str:
        """The recorded sha256 of a file that has its recorded size."""
        entry, size = self.entries.get(name), storage.file_size(storage.join(self.folder, name))
        if entry is None or size is None:
            raise self._error(name, "not there" if size is None else "not in the manifest")
        if not isinstance(entry, Mapping) or not _SHA256.fullmatch(str(entry.get("sha256"))):
            raise self._error(name, "its manifest has no sha256 for it")
        if size != entry.get("bytes", size):
            raise self._error(name, f"{size} bytes where the manifest says {entry['bytes']}")
        return str(entry["sha256"])

    def _error(self, name: str, reason: str) -> InputError:
        return InputError(f"{storage.join(self.folder, name)}: {reason}; restore it, or run jobs.{self.job} again")


def verify_file(uri: str, sha256: str | None = None) -> None:
    """Check a file against the manifest of the complete run that has written it; a file of no run passes.

    Args:
        sha256: of its content, where that is known already.

    Raises:
        InputError: as the checks of `Outputs`.
    """
    folder = uri if "://" in uri else str(storage.local_path(uri))
    names: list[str] = []
    for _ in range(_DEPTH):
        folder, _, name = folder.rpartition("/")
        names.insert(0, unquote(name) if "://" in uri else name)
        if not (folder.partition("://")[2] if "://" in uri else folder):
            return
        manifest = _manifest_of(folder)
        if manifest is not None and "/".join(names) in manifest["content"]["outputs"]:
            RunOutputs.of(folder, manifest["content"]).check_content("/".join(names), sha256)
            return


def read_verified(uri: str) -> bytes:
    """Return the content of a file, checked as in `verify_file`, which would read it once more.

    Raises:
        InputError: as `verify_file`.
    """
    data = storage.read_bytes(uri)
    verify_file(uri, hashlib.sha256(data).hexdigest())
    return data


def _manifest_of(folder: str) -> dict[str, Any] | None:
    """The manifest in a folder; None without one, or with a file of that name that another program has written."""
    uri = storage.join(folder, MANIFEST_FILE)
    with contextlib.suppress(ValueError):  # also of a folder above the run that this user may not read
        found = json.loads(storage.read_bytes(uri)) if storage.file_size(uri) else None
        return found if is_manifest(found) else None
    return None


@functools.lru_cache(maxsize=1024)
def _sha256_at(uri: str, stamp: tuple[int, int]) -> str:
    return storage.sha256(uri)


def _sha256(uri: str) -> str:
    """sha256 of a file, which a process computes once as long as the file has not changed."""
    stamp = storage.file_stamp(uri)
    if time.time_ns() - stamp[1] < _RECENT_NS:
        return storage.sha256(uri)
    return _sha256_at(uri, stamp)
