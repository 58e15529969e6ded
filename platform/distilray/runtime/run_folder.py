"""A run folder: `config.yaml` first, `metrics.jsonl` during the run, `manifest.json` last, and one writer at a time.

The presence of the manifest means that the run is complete. Its `content` part depends on inputs, config and seed only,
so that two runs of the same thing have the same `content_hash`; its `run` part tells when, where and how long.
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
MANIFEST_SCHEMA = 1
_CONTENT_KEYS = {"job", "outputs"}  # what every manifest has
_RECORDED_PACKAGES = ("ray", "torch", "transformers", "tokenizers", "pyarrow", "numpy", "pydantic")


def read_manifest(folder: str, job: str | None = None) -> dict[str, Any]:
    """The manifest of a complete run.

    Args:
        job: that must have written the run.

    Raises:
        InputError: no manifest (the run is missing or incomplete), torn JSON, another schema version, a run of
            another job, or an output that lies outside the folder.
    """
    uri = storage.join(folder, MANIFEST_FILE)
    if not storage.exists(uri):
        raise InputError(f"{folder}: no {MANIFEST_FILE}, so no complete run; run the job that writes it to its end")
    data = storage.read_bytes(uri)
    try:
        manifest = json.loads(data)
    except ValueError:
        raise InputError(f"{uri}: not JSON; remove the folder and run its job again") from None
    if not is_manifest(manifest):
        raise InputError(f"{uri}: not a manifest of schema {MANIFEST_SCHEMA}; run its job again with this version")
    if job is not None and manifest["content"]["job"] != job:
        raise InputError(f"{folder}: written by {manifest['content']['job']}, not by {job}; name a run of jobs.{job}")
    for name in manifest["content"]["outputs"]:
        if {"", ".", ".."} & set(name.split("/")):
            raise InputError(f"{uri}: names the output {name!r}, which is not in the folder; do not use this run")
    return manifest


def is_complete(folder: str) -> bool:
    """Return whether a folder has the manifest of a complete run."""
    return storage.exists(storage.join(folder, MANIFEST_FILE))


def is_manifest(value: Any) -> bool:
    """Whether a value is what `RunFolder.finish` writes."""
    if not isinstance(value, dict) or value.get("schema") != MANIFEST_SCHEMA or "content_hash" not in value:
        return False
    content = value.get("content")
    return isinstance(content, dict) and content.keys() >= _CONTENT_KEYS and isinstance(content["outputs"], dict)


def describe_input(uri: str) -> dict[str, Any]:
    """What a manifest records of one input: the content hash of a run folder, or size and fingerprint of anything else.

    Args:
        uri: a run folder, a file, a folder, or a pattern, as `find_files` takes it.

    Raises:
        InputError: nothing is there.
    """
    if "*" not in uri and storage.exists(storage.join(uri, MANIFEST_FILE)):
        return {"content_hash": read_manifest(uri)["content_hash"]}
    files = find_files(uri)
    with ThreadPoolExecutor(storage.READ_THREADS) as readers:
        sizes = list(readers.map(storage.file_size, files))
        prints = list(readers.map(storage.fingerprint, files))
    # The names of files below a folder count, that of a file given by its own path does not.
    above = len(os.path.commonprefix(files).rpartition("/")[0]) + 1  # noqa: RUF071 - cut back to a folder
    names = [file[above:] for file in files] if len(files) > 1 else [""]
    digest = hashlib.sha256("".join(f"{name} {found}\n" for name, found in zip(names, prints, strict=True)).encode())
    return {"bytes": sum(size or 0 for size in sizes), "fingerprint": digest.hexdigest()}


class RunMismatchError(InputError):
    """A run folder with a run of the same job that differs in the config keys or inputs `differing`."""

    def __init__(self, message: str, differing: str) -> None:
        super().__init__(message)
        self.differing = differing


class RunFolder:
    """One run of one job: its folder, its inputs, and whether it is complete."""

    def __init__(self, job: str, config: JobConfig, inputs: Mapping[str, str]) -> None:
        self.job = job
        self.config = config
        self.uri = config.run_dir
        self.inputs = {name: {"uri": uri, **describe_input(uri)} for name, uri in inputs.items()}
        self._owner: RunOwner | None = None
        self._started = time.time()

    def path(self, *names: str) -> str:
        """URI of something inside the folder."""
        return storage.join(self.uri, *names)

    def complete_manifest(self) -> dict[str, Any] | None:
        """The manifest when this very run (job, config, inputs) is complete, None when it is still to be done.

        Raises:
            RunMismatchError: the folder holds a run with another config or other inputs.
            InputError: the folder holds a run of another job, or none of this version.
        """
        manifest = read_manifest(self.uri) if storage.exists(self.path(MANIFEST_FILE)) else None
        if manifest is not None:
            self._refuse_other(manifest["content"]["job"], manifest["content"]["config"], manifest["content"]["inputs"])
        elif storage.exists(self.path(CONFIG_FILE)):
            self._refuse_other(*_read_begun(self.path(CONFIG_FILE)))
        return manifest

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Keep other processes from writing this folder while the block runs.

        Raises:
            InputError: another process writes it; the message names its host, PID and start time.
        """
        with RunOwner(self.uri) as self._owner:
            yield

    def begin(self) -> None:
        """Create the folder and write `config.yaml`."""
        storage.make_folder(self.uri)
        record = {
            "job": self.job,
            "config": self.config.model_dump(mode="json"),
            "identity": self.config.identity_values(),
            "inputs": self._input_identities(),
        }
        storage.write_bytes(self.path(CONFIG_FILE), yaml.safe_dump(record, sort_keys=False).encode())

    def describe_outputs(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the manifest entries of files in the folder: bytes and sha256, by name."""
        uris = {name: self.path(name) for name in names}
        return {name: {"bytes": storage.file_size(uri), "sha256": storage.sha256(uri)} for name, uri in uris.items()}

    def finish(self, counts: Mapping[str, Any], outputs: Mapping[str, Any], summary: str) -> dict[str, Any]:
        """Writes the manifest, which completes the run, and returns it.

        Args:
            counts: numbers that depend on inputs, config and seed only, or a `timing` entry that does not.
            outputs: what the run hands over, by name: rows, bytes, sha256.
            summary: the run in one line for people.

        Raises:
            InputError: another process has taken the folder over.
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
            "schema": MANIFEST_SCHEMA,
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

    def set_aside(self) -> str:
        """Rename a local folder, so that another run can be written in its place; return the new name.

        Raises:
            InputError: another process writes it.
        """
        with self.owned():
            pass
        path = storage.local_path(self.uri)
        names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        target = next(name for name in names if not name.exists())
        with writing(self.uri):
            path.rename(target)
        return str(target)

    def remove_strays(self, name: str, outputs: Collection[str]) -> None:
        """Removes the files of an inner folder that are no outputs of the run: a task that was killed has left them."""
        for file in storage.list_files(self.path(name)):
            if f"{name}/{file.rpartition('/')[2]}" not in outputs:
                storage.remove_file(file)

    def _input_identities(self) -> dict[str, Any]:
        return {
            name: {key: value for key, value in entry.items() if key != "uri"} for name, entry in self.inputs.items()
        }

    def _refuse_other(self, job: str, values: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        if job != self.job:
            raise InputError(f"{self.uri}: holds a run of {job}, not of {self.job}; choose another run_dir")
        differing = ", ".join(_differing_keys(values, self.config.identity_values())[:3])
        if differing:
            message = f"holds a run with another {differing}; remove the folder or choose another run_dir"
            raise RunMismatchError(f"{self.uri}: {message}", differing)
        if changed := ", ".join(_differing_keys(inputs, self._input_identities())[:3]):
            message = f"made from another input ({changed}); remove it or choose another run_dir"
            raise RunMismatchError(f"{self.uri}: {message}", changed)


def _read_begun(uri: str) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Job, identity values and inputs that `begin` has written."""
    data = storage.read_bytes(uri)
    try:
        begun = yaml.safe_load(data)
        return begun["job"], dict(begun["identity"]), dict(begun["inputs"])
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
    """The commit of the code that runs, `+changes` when the tree differs from it; None outside a checkout and an image.

    An image has no history. It holds the commit that it was built from in the file `COMMIT` beside the code.
    """
    here = os.path.dirname(__file__)
    command = ["git", "-C", here, "describe", "--always", "--dirty=+changes", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return found or _commit_of_image() or None


def _commit_of_image() -> str:
    try:
        return (Path(__file__).parents[3] / COMMIT_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the packages that decide a result."""
    found = {"python": platform.python_version(), "distilray": __version__, "platform": sys.platform}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
