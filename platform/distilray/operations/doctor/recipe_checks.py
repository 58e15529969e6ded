"""Checks of a recipe's inputs and outputs that download no models and load no weights."""

import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

from distilray.config.base import JobConfig, Kind, locations
from distilray.config.distillation import TrainingConfig
from distilray.config.paths import HUB_PREFIX, is_path, path_of
from distilray.config.sample import resolve_sample
from distilray.errors import InputError
from distilray.models.architectures import family_name
from distilray.models.onnx_format import ONNX_FILE
from distilray.models.sources import CONFIG_FILE, MODEL_FILES, TOKENIZER_FILE, WEIGHTS_FILE, model_folder
from distilray.operations.doctor.check import Finding, combine, fail, input_failure, ok, warn
from distilray.operations.locations import check_shared_locations, unshared_file_systems
from distilray.runtime import storage
from distilray.runtime.run_folder import read_manifest

_SAVE_AGAIN = "save the model as safetensors with save_pretrained, and its tokenizer in the same folder"
_MAX_HEADER_BYTES = 100 << 20  # of a safetensors file
_RUN_AS_JOB = "run the doctor on the cluster: ray job submit ... -- python -m jobs.doctor ..."
_CHECKPOINT_FACTOR = 3  # a checkpoint contains the weights and two moments of the optimizer
_PROBE = ".distilray-doctor-"  # data readers skip names that start with a dot
_STORE_FIX = "check permissions, credentials and quota of this location, or choose another run_dir"


def required_inputs(config: JobConfig, kind: Kind) -> dict[str, str]:
    """Return the required inputs of a kind, by dotted key."""
    inputs = [entry for entry in locations(config) if entry.is_input and not entry.type.is_optional]
    return {entry.key: entry.value for entry in inputs if entry.type.kind == kind}


def check_locations(config: JobConfig, mounts: str | None) -> Finding:
    """Check that all machines of a cluster can reach the locations in a recipe.

    Args:
        mounts: content of /proc/mounts on a machine of the cluster, or None outside the cluster.

    Raises:
        InputError: see `check_shared_locations`.
    """
    check_shared_locations(config)
    kinds = {} if mounts is None else unshared_file_systems(config, mounts)
    fix = "use a folder that all machines mount, or a URI"
    findings = [warn(f"{key} is on {kind}, a disk of this machine only", fix) for key, kind in kinds.items()]
    ok_message = "all locations are absolute paths or URIs"
    return combine(findings, ok_message if mounts is None else f"{ok_message}, on shared file systems")


def check_runs(config: JobConfig, *, outside: bool = False) -> Finding:
    """Check that every input run is complete and its files have the sizes recorded in its manifest.

    Args:
        outside: whether the paths refer to machines that this process cannot access.
    """
    runs = required_inputs(config, "run")
    findings = [_check_input(key, uri, _check_run, outside) for key, uri in runs.items()]
    return _combine_or(findings, "the recipe reads no run")


def check_models(config: JobConfig, *, offline: bool, outside: bool = False) -> Finding:
    """Check that every model and every tokenizer has all its files, undamaged.

    Args:
        offline: whether requests to the hub are forbidden.
        outside: see `check_runs`.
    """
    tokenizers = required_inputs(config, "tokenizer")
    findings = []
    for key, source in {**required_inputs(config, "model"), **tokenizers}.items():
        is_tokenizer = key in tokenizers
        if source.startswith(HUB_PREFIX):
            findings.append(_check_hub(key, source, (TOKENIZER_FILE,) if is_tokenizer else MODEL_FILES, offline))
        else:
            findings.append(_check_input(key, source, _check_tokenizer if is_tokenizer else _check_model, outside))
    return _combine_or(findings, "the recipe reads no model")


def _combine_or(findings: list[Finding], default: str) -> Finding:
    """Merge findings; if all are ok, join their messages; if there are none, use `default` as the message."""
    return combine(findings, ", ".join(finding.message for finding in findings) or default)


def _check_input(key: str, uri: str, check: Callable[[str, str], Finding], outside: bool) -> Finding:
    if outside and is_path(resolve_sample(uri)) and not storage.exists(resolve_sample(uri)):
        return warn(f"{key}: {uri} is not on this machine and cannot be checked from here", _RUN_AS_JOB)
    try:
        return check(key, uri)
    except InputError as error:
        return input_failure(error, f"{key}: ", "correct the recipe")


def _check_run(key: str, uri: str) -> Finding:
    content = read_manifest(uri)["content"]
    files = {name: entry["bytes"] for name, entry in content["outputs"].items() if "bytes" in entry}
    sizes = {name: storage.file_size(storage.join(uri, name)) for name in files}
    damaged = [name for name, size in sizes.items() if size != files[name]]
    if damaged:
        name, size = damaged[0], sizes[damaged[0]]
        problem = "is missing" if size is None else f"has {size:,} bytes, not {files[name]:,}"
        message = f"{key}: {uri}/{name} {problem} ({len(damaged)} of {len(files)} files)"
        return fail(message, f"run jobs.{content['job']} again, or copy the whole run again")
    return ok(f"{key} {uri} complete ({content['job']}, {len(files)} files)")


def _check_hub(key: str, source: str, needed: Collection[str], offline: bool) -> Finding:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix(HUB_PREFIX).partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        if all((folder / file).is_file() for file in needed):
            return ok(f"{key} {source} in the cache")
    except (OSError, ValueError):
        pass  # not in the cache
    fix = f"hf download {name} {' '.join(needed)}"
    if offline:
        message = f"{key}: {source} is not in the cache, and HF_HUB_OFFLINE forbids downloads"
        return fail(message, f"{fix} on a machine with access to the hub, and give the folder")
    return warn(f"{key}: {source} is not in the cache of this machine; the first run downloads it", fix)


def _check_tokenizer(key: str, source: str) -> Finding:
    _model_folder(source, (TOKENIZER_FILE,))
    return ok(f"{key} {source} exists")


def _check_model(key: str, source: str) -> Finding:
    folder = _model_folder(source)
    if storage.exists(storage.join(folder, ONNX_FILE)):
        _model_folder(source, (CONFIG_FILE, TOKENIZER_FILE))
        return ok(f"{key} {source} exists (ONNX)")
    _model_folder(source, MODEL_FILES)
    settings = _json(storage.join(folder, CONFIG_FILE), storage.read_bytes(storage.join(folder, CONFIG_FILE)))
    return ok(f"{key} {source} ({family_name(settings)}, {_count_tensors(storage.join(folder, WEIGHTS_FILE))} tensors)")


def _model_folder(source: str, needed: Collection[str] = ()) -> str:
    """Return the folder of a model.

    Raises:
        InputError: the folder or one of the needed files does not exist.
    """
    folder = model_folder(resolve_sample(source))
    if not storage.exists(folder):
        raise InputError(f"{source}: no such folder; give a run, a model folder, the URI of one, or hub:OWNER/NAME")
    for name in needed:
        if not storage.exists(storage.join(folder, name)):
            raise InputError(f"{folder}: no {name}; {_SAVE_AGAIN}")
    return folder


def _count_tensors(uri: str) -> int:
    """Return the number of tensors in a safetensors file.

    Raises:
        InputError: the file is invalid, or its size contradicts its header.
    """
    size = storage.file_size(uri) or 0
    length = int.from_bytes(storage.read_range(uri, 0, 8), "little")
    if not 2 <= length <= min(size, _MAX_HEADER_BYTES):
        raise InputError(f"{uri}: not a safetensors file; {_SAVE_AGAIN}")
    header = _json(uri, storage.read_range(uri, 8, 8 + length))
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (TypeError, LookupError, ValueError):
        raise InputError(f"{uri}: not a safetensors file; {_SAVE_AGAIN}") from None
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise InputError(f"{uri}: damaged, has {size:,} bytes instead of {expected:,}; copy it again")
    return len(ends)


def _json(uri: str, data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{uri}: invalid JSON; {_SAVE_AGAIN}")
    return content


def run_bytes(config: JobConfig) -> int | None:
    """Return an upper bound for the size of the model and checkpoints that training keeps, or None if unknown."""
    source = getattr(config, "teacher_dir", None) or getattr(config, "encoder_dir", None)
    if not isinstance(config, TrainingConfig) or source is None or source.startswith(HUB_PREFIX):
        return None
    size = storage.file_size(storage.join(model_folder(resolve_sample(source)), WEIGHTS_FILE))
    # One more for the best checkpoint. This is an upper bound, because a student has fewer weights than its teacher.
    return None if size is None else size * (1 + _CHECKPOINT_FACTOR * (config.intervals.keep_checkpoints + 1))


def check_store(uri: str, *, outside: bool = False) -> Finding:
    """Check that a folder, which need not exist, is writable: write, replace, read, list and remove a file.

    The folder is left as it was; if it did not exist, it is removed again.

    Args:
        outside: see `check_runs`.

    Raises:
        InputError: the storage does not exist.
    """
    if outside and is_path(uri) and not storage.exists(uri):
        return warn(f"{uri} is not on this machine and cannot be checked from here", _RUN_AS_JOB)
    name = f"{_PROBE}{os.getpid()}-{secrets.token_hex(8)}"
    probe, missing, started = storage.join(uri, name), [], time.monotonic()
    try:
        missing = _missing_folders(uri)
        problem = _write_and_read(probe, uri, name)
    except (OSError, InputError) as error:
        cause: BaseException | None = error  # `storage` wraps the error of the operating system in an `InputError`
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        return _write_failure(uri, cause)
    finally:
        _remove_probe(probe, missing)
    if problem:
        return fail(f"{uri}: {problem}", _STORE_FIX)
    return ok(f"{uri}: a file was written, replaced, read, listed and removed in {time.monotonic() - started:.2f} s")


def _write_failure(uri: str, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    if is_path(uri) and error.errno in (errno.EACCES, errno.EPERM):
        message = f"{uri}: no permission for user {os.geteuid()}, {_describe_inaccessible_folder(path_of(uri))}"
        return fail(message, "chmod or chown it, or choose another run_dir")
    if is_path(uri) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return fail(f"{uri}: no space ({reason})", "free space or raise the quota, or choose another run_dir")
    if is_path(uri) and error.errno == errno.EROFS:
        return fail(f"{uri}: {reason}", "mount it with write access, or choose another run_dir")
    return fail(f"{uri}: {reason}", _STORE_FIX)


def _describe_inaccessible_folder(path: Path) -> str:
    """Describe the topmost parent that this user cannot enter or, if there is none, the deepest existing one."""
    existing = [parent for parent in (path, *path.parents) if os.access(parent, os.F_OK)]
    folder = next((parent for parent in reversed(existing) if not os.access(parent, os.X_OK)), existing[0])
    status = folder.stat()
    return f"{folder} has mode {stat.filemode(status.st_mode)} and belongs to user {status.st_uid}"


def _write_and_read(probe: str, uri: str, name: str) -> str:
    """Return a description of the operation that failed, or an empty string."""
    for content in (secrets.token_bytes(1 << 16), secrets.token_bytes(100)):
        storage.write_bytes(probe, content)
        if storage.read_bytes(probe) != content:
            return "the content of a file differs from what was written"
    if not any(file.rpartition("/")[2] == name for file in storage.list_files(uri)):
        return "a file that was written is not listed"
    storage.remove_file(probe)
    return "a file still exists after its removal" if storage.exists(probe) else ""


def _missing_folders(uri: str) -> list[str]:
    """Return the folder and its parents that do not exist, deepest first, without the bucket."""
    folder, missing = uri.rstrip("/"), []
    top = 3 if "://" in uri else 0  # slashes up to the first folder of a bucket
    while folder and folder.count("/") >= top and not storage.exists(folder):
        missing.append(folder)
        folder = folder.rpartition("/")[0]
    return missing


def _remove_probe(probe: str, missing: list[str]) -> None:
    """Remove the probe and the folders created for it, unless another process has started to use them."""
    try:
        if storage.exists(probe):
            storage.remove_file(probe)
        for folder in missing:
            store, path = storage.filesystem(folder)
            if isinstance(store, fs.LocalFileSystem):
                Path(path).rmdir()  # refuses a folder that is not empty
            elif not store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True)):
                storage.remove_folder(folder)
    except (OSError, InputError):
        return  # they were never created, or are in use
