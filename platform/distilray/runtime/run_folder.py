"""Run folders: `config.yaml` is written first, `metrics.jsonl` during the run and `manifest.json` last.

A folder has one writer at a time. Its run is complete once the manifest exists. The section `content` of the manifest
depends only on inputs, config and seed, so equal runs have equal `content_hash`. The section `run` records time,
duration and environment.
"""

import contextlib
import datetime
import functools
import hashlib
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from distilray import __version__
from distilray.config.base import JobConfig
from distilray.errors import InputError, writing
from distilray.runtime import storage
from distilray.runtime.file_search import find_files
from distilray.runtime.run_owner import RunOwner

CONFIG_FILE = "config.yaml"
COMMIT_FILE = "COMMIT"
METRICS_FILE = "metrics.jsonl"
MANIFEST_FILE = "manifest.json"
SCHEMA = 2  # of manifests and of config.yaml
_CONTENT_KEYS = {"job", "outputs"}  # required in every manifest
_RECORDED_PACKAGES = ("ray", "torch", "transformers", "tokenizers", "pyarrow", "numpy", "pydantic")


def read_manifest(folder: str, job: str | None = None) -> dict[str, Any]:
    """Read the manifest of a complete run.

    Args:
        job: job that must have written the run.

    Raises:
        InputError: the manifest is missing (no run, or an incomplete one) or damaged, has another schema version,
            belongs to another job, or names an output outside the folder.
    """
    uri = storage.join(folder, MANIFEST_FILE)
    if not storage.exists(uri):
        raise InputError(f"{folder}: no {MANIFEST_FILE}, so no complete run; run the job that writes it to completion")
    data = storage.read_bytes(uri)
    try:
        manifest = json.loads(data)
    except ValueError:
        raise InputError(f"{uri}: not JSON; delete the folder and run its job again") from None
    if not is_manifest(manifest) or manifest["schema"] != SCHEMA:
        fix = "delete the folder and run its job again"
        raise InputError(f"{uri}: not a manifest of schema {SCHEMA} (earlier versions wrote schema 1); {fix}")
    if job is not None and manifest["content"]["job"] != job:
        raise InputError(f"{folder}: written by {manifest['content']['job']}, not by {job}; name a run of jobs.{job}")
    for name in manifest["content"]["outputs"]:
        if {"", ".", ".."} & set(name.split("/")):
            raise InputError(f"{uri}: output {name!r} is outside the folder; do not use this run")
    return manifest


def is_complete(folder: str) -> bool:
    return storage.exists(storage.join(folder, MANIFEST_FILE))


def is_manifest(value: Any) -> bool:
    """Return whether a JSON value is a manifest of any schema version; all versions record outputs in the same way."""
    if not isinstance(value, dict) or not {"schema", "content_hash"} <= value.keys():
        return False
    content = value.get("content")
    return isinstance(content, dict) and content.keys() >= _CONTENT_KEYS and isinstance(content["outputs"], dict)


def describe_input(uri: str) -> dict[str, Any]:
    """Return the manifest entry that identifies an input: the content hash of a run, or size and fingerprint of files.

    Args:
        uri: run folder, file, folder or glob pattern, see `find_files`.

    Raises:
        InputError: there is no such input.
    """
    if "*" not in uri and storage.exists(storage.join(uri, MANIFEST_FILE)):
        return {"content_hash": read_manifest(uri)["content_hash"]}
    files = find_files(uri)
    with ThreadPoolExecutor(storage.READ_THREADS) as readers:
        sizes = list(readers.map(storage.file_size, files))
        fingerprints = list(readers.map(storage.fingerprint, files))
    # Names relative to the folder are part of the fingerprint; the name of a single file is not.
    prefix_length = len(os.path.commonprefix(files).rpartition("/")[0]) + 1  # noqa: RUF071 - shortened to a folder
    names = [file[prefix_length:] for file in files] if len(files) > 1 else [""]
    lines = (f"{name} {fingerprint}\n" for name, fingerprint in zip(names, fingerprints, strict=True))
    digest = hashlib.sha256("".join(lines).encode())
    return {"bytes": sum(size or 0 for size in sizes), "fingerprint": digest.hexdigest()}


class RunMismatchError(InputError):
    """The folder contains a run of the same job that differs in the config keys or inputs `differing`."""

    def __init__(self, message: str, differing: str) -> None:
        super().__init__(message)
        self.differing = differing


class RunFolder:
    """Folder of one run of one job."""

    def __init__(self, job: str, config: JobConfig, inputs: Mapping[str, str]) -> None:
        self.job = job
        self.config = config
        self.uri = config.run_dir
        self.inputs = {name: {"uri": uri, **describe_input(uri)} for name, uri in inputs.items()}
        self._owner: RunOwner | None = None
        self._started = time.time()

    def path(self, *names: str) -> str:
        return storage.join(self.uri, *names)

    def complete_manifest(self) -> dict[str, Any] | None:
        """Return the manifest if this run (job, config and inputs) is complete, else None.

        Raises:
            RunMismatchError: the folder contains a run with another config or other inputs.
            InputError: the folder contains a run of another job, or of another version.
        """
        manifest = read_manifest(self.uri) if storage.exists(self.path(MANIFEST_FILE)) else None
        if manifest is not None:
            content = manifest["content"]
            self._check_same_run(content["job"], content["config"], content["inputs"])
        elif storage.exists(self.path(CONFIG_FILE)):
            self._check_same_run(*_read_started(self.path(CONFIG_FILE)))
        return manifest

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Own the folder while the block runs, so that no other process writes to it.

        Raises:
            InputError: another process owns it; the message names its host, PID and start time.
        """
        with RunOwner(self.uri) as self._owner:
            yield

    def begin(self) -> None:
        """Create the folder and write `config.yaml`."""
        storage.make_folder(self.uri)
        record = {
            "schema": SCHEMA,
            "job": self.job,
            "config": self.config.model_dump(mode="json"),
            "identity": self.config.identity_values(),
            "inputs": self._input_identities(),
        }
        storage.write_bytes(self.path(CONFIG_FILE), yaml.safe_dump(record, sort_keys=False).encode())

    def describe_outputs(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the manifest entries (bytes and SHA-256) of files in the folder, by name."""
        uris = {name: self.path(name) for name in names}
        return {name: {"bytes": storage.file_size(uri), "sha256": storage.sha256(uri)} for name, uri in uris.items()}

    def finish(self, counts: Mapping[str, Any], outputs: Mapping[str, Any], summary: str) -> dict[str, Any]:
        """Write the manifest, which completes the run, and return it.

        Args:
            counts: numbers that depend only on inputs, config and seed; an entry `timing` is recorded separately.
            outputs: entries of the output files by name: rows, bytes, sha256.
            summary: user-facing description of the run in one line.

        Raises:
            InputError: another process has taken over the folder.
        """
        if self._owner is not None:
            self._owner.check()
        counts = dict(counts)
        timing = counts.pop("timing", {})
        content = {
            "job": self.job,
            "config": self.config.identity_values(),
            "inputs": self._input_identities(),
            "counts": counts,
            "outputs": dict(outputs),
        }
        manifest = {
            "schema": SCHEMA,
            "content_hash": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            "content": content,
            "run": {
                "summary": summary,
                "inputs": {name: entry["uri"] for name, entry in self.inputs.items()},
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "wall_s": round(time.time() - self._started, 3),
                "timing": timing,
                "git_commit": git_commit(),
                "versions": versions(),
                "cpus": os.cpu_count(),
            },
        }
        storage.write_bytes(self.path(MANIFEST_FILE), json.dumps(manifest, indent=1).encode())
        return manifest

    def archive(self) -> str:
        """Rename a local folder to make room for another run, and return the new name."""
        with self.owned():
            pass
        path = storage.local_path(self.uri)
        names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        target = next(name for name in names if not name.exists())
        with writing(self.uri):
            path.rename(target)
        return str(target)

    def remove_leftovers(self, subfolder: str, outputs: Collection[str]) -> None:
        """Remove files that killed tasks left in a subfolder: all that are not outputs of the run."""
        for file in storage.list_files(self.path(subfolder)):
            if f"{subfolder}/{file.rpartition('/')[2]}" not in outputs:
                storage.remove_file(file)

    def _input_identities(self) -> dict[str, Any]:
        return {
            name: {key: value for key, value in entry.items() if key != "uri"} for name, entry in self.inputs.items()
        }

    def _check_same_run(self, job: str, values: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        if job != self.job:
            raise InputError(f"{self.uri}: contains a run of {job}, not of {self.job}; choose another run_dir")
        differing = ", ".join(_differing_keys(values, self.config.identity_values())[:3])
        if differing:
            message = f"contains a run with different {differing}; delete it or choose another run_dir"
            raise RunMismatchError(f"{self.uri}: {message}", differing)
        if changed := ", ".join(_differing_keys(inputs, self._input_identities())[:3]):
            message = f"contains a run with another input ({changed}); delete it or choose another run_dir"
            raise RunMismatchError(f"{self.uri}: {message}", changed)


def _read_started(uri: str) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Return job, identity values and inputs of an incomplete run."""
    data = storage.read_bytes(uri)
    try:
        record = yaml.safe_load(data)
        if record["schema"] != SCHEMA:
            raise ValueError("schema")
        return record["job"], dict(record["identity"]), dict(record["inputs"])
    except (yaml.YAMLError, ValueError, LookupError, TypeError):
        raise InputError(f"{uri}: not written by this version of a job; choose another run_dir") from None


def _differing_keys(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += _differing_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            names.append(prefix + key)
    return names


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the running code, with `+changes` if the tree is dirty; None outside a checkout or image.

    An image has no git history; its file `COMMIT` contains the commit that it was built from.
    """
    here = os.path.dirname(__file__)
    command = ["git", "-C", here, "describe", "--always", "--dirty=+changes", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return commit or _commit_of_image() or None


def _commit_of_image() -> str:
    try:
        return (Path(__file__).parents[3] / COMMIT_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the packages that affect results."""
    installed = {"python": platform.python_version(), "distilray": __version__, "platform": sys.platform}
    for package in _RECORDED_PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "absent"
    return installed
