"""Checks of a recipe: complete inputs, writable outputs. Nothing is fetched, no weights are loaded."""

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
from distilray.operations.doctor.check import Finding, bad_input, fail, ok, together, warn
from distilray.operations.locations import check_shared_locations, unshared_file_systems
from distilray.runtime import storage
from distilray.runtime.run_folder import read_manifest

_NO_PYTORCH = "save it with save_pretrained, as safetensors, its tokenizer beside it"
_HEADER_MOST = 100 << 20  # bytes of the header of a safetensors file
_AS_A_JOB = "look from inside: ray job submit ... -- python -m jobs.doctor ..."
_SAVED_SHARE = 3  # of the weights of a model: a checkpoint holds them and two moments
_PROBE = ".distilray-doctor-"  # data readers skip names with a dot
_FIX = "check permissions, credentials and quota of this location, or choose another run_dir"


def locations_of(config: JobConfig, kind: Kind) -> dict[str, str]:
    """Return the inputs of a kind that a recipe must have, by dotted key."""
    inputs = [each for each in locations(config) if each.is_input and not each.location.is_optional]
    return {each.key: each.value for each in inputs if each.location.kind == kind}


def check_folders(config: JobConfig, mounts: str | None) -> Finding:
    """Check that all machines of a cluster see the locations of a recipe.

    Args:
        mounts: content of /proc/mounts of a machine of the cluster; None outside of it.

    Raises:
        InputError: see `check_shared_locations`.
    """
    check_shared_locations(config)
    kinds = {} if mounts is None else unshared_file_systems(config, mounts)
    fix = "a folder that all machines mount, or a URI"
    findings = [warn(f"{key} is on {kind}, a disk of this machine alone", fix) for key, kind in kinds.items()]
    return together(findings, "folders are absolute or URIs" + ("" if mounts is None else ", on shared file systems"))


def check_runs(config: JobConfig, *, outside: bool = False) -> Finding:
    """Check that every input run is complete: its files are there, with the sizes of its manifest.

    Args:
        outside: whether the paths are those of machines that this process cannot see.
    """
    runs = locations_of(config, "run")
    return _all([_check_input(key, uri, _check_run, outside) for key, uri in runs.items()], "the recipe reads no run")


def check_models(config: JobConfig, *, offline: bool, outside: bool = False) -> Finding:
    """Check that every model has its files, whole, and every tokenizer its own.

    Args:
        offline: whether the hub may not be asked.
        outside: see `check_runs`.
    """
    tokenizers = locations_of(config, "tokenizer")
    findings = []
    for key, source in {**locations_of(config, "model"), **tokenizers}.items():
        is_tokenizer = key in tokenizers
        if source.startswith(HUB_PREFIX):
            findings.append(_check_hub(key, source, (TOKENIZER_FILE,) if is_tokenizer else MODEL_FILES, offline))
        else:
            findings.append(_check_input(key, source, _check_tokenizer if is_tokenizer else _check_model, outside))
    return _all(findings, "the recipe reads no model")


def _all(findings: list[Finding], nothing: str) -> Finding:
    return together(findings, ", ".join(finding.found for finding in findings) or nothing)


def _check_input(key: str, uri: str, check: Callable[[str, str], Finding], outside: bool) -> Finding:
    if outside and is_path(resolve_sample(uri)) and not storage.exists(resolve_sample(uri)):
        return warn(f"{key}: {uri} is not on this machine, and cannot be looked at from here", _AS_A_JOB)
    try:
        return check(key, uri)
    except InputError as error:
        return bad_input(error, f"{key}: ", "correct the recipe")


def _check_run(key: str, uri: str) -> Finding:
    content = read_manifest(uri)["content"]
    files = {name: entry["bytes"] for name, entry in content["outputs"].items() if "bytes" in entry}
    sizes = {name: storage.file_size(storage.join(uri, name)) for name in files}
    torn = [name for name, size in sizes.items() if size != files[name]]
    if torn:
        what = "is missing" if sizes[torn[0]] is None else f"has {sizes[torn[0]]:,} bytes, not {files[torn[0]]:,}"
        found = f"{key}: {uri}/{torn[0]} {what} ({len(torn)} of {len(files)} files)"
        return fail(found, f"run jobs.{content['job']} again, or copy the run whole")
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
        found = f"{key}: {source} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
        return fail(found, f"{fix} on a machine that can, and name its folder")
    return warn(f"{key}: {source} is not in the cache of this machine; the first run fetches it", fix)


def _check_tokenizer(key: str, source: str) -> Finding:
    _model_folder(source, (TOKENIZER_FILE,))
    return ok(f"{key} {source} there")


def _check_model(key: str, source: str) -> Finding:
    folder = _model_folder(source)
    if storage.exists(storage.join(folder, ONNX_FILE)):
        _model_folder(source, (CONFIG_FILE, TOKENIZER_FILE))
        return ok(f"{key} {source} there (ONNX)")
    _model_folder(source, MODEL_FILES)
    settings = _json(storage.join(folder, CONFIG_FILE), storage.read_bytes(storage.join(folder, CONFIG_FILE)))
    return ok(f"{key} {source} ({family_name(settings)}, {_tensors(storage.join(folder, WEIGHTS_FILE))} tensors)")


def _model_folder(source: str, needed: Collection[str] = ()) -> str:
    """Return the folder of a model, which contains the needed files."""
    folder = model_folder(resolve_sample(source))
    if not storage.exists(folder):
        raise InputError(f"{source}: no such folder; name a run, a model folder, the URI of one, or hub:OWNER/NAME")
    for name in needed:
        if not storage.exists(storage.join(folder, name)):
            raise InputError(f"{folder}: no {name}; {_NO_PYTORCH}")
    return folder


def _tensors(uri: str) -> int:
    """Return the number of tensors in a safetensors file, whose header must fit its size."""
    size = storage.file_size(uri) or 0
    length = int.from_bytes(storage.read_range(uri, 0, 8), "little")
    if not 2 <= length <= min(size, _HEADER_MOST):
        raise InputError(f"{uri}: no safetensors file; {_NO_PYTORCH}")
    header = _json(uri, storage.read_range(uri, 8, 8 + length))
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (TypeError, LookupError, ValueError):
        raise InputError(f"{uri}: no safetensors file; {_NO_PYTORCH}") from None
    whole = 8 + length + max(ends, default=0)
    if whole != size:
        raise InputError(f"{uri}: torn, {size:,} bytes where its header tells of {whole:,}; copy it again")
    return len(ends)


def _json(uri: str, data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{uri}: not what its name says; {_NO_PYTORCH}")
    return content


def run_bytes(config: JobConfig) -> int | None:
    """Return the most that a training leaves in its run_dir, model and checkpoints; None if it is not known."""
    source = getattr(config, "teacher_dir", None) or getattr(config, "encoder_dir", None)
    if not isinstance(config, TrainingConfig) or source is None or source.startswith(HUB_PREFIX):
        return None
    size = storage.file_size(storage.join(model_folder(resolve_sample(source)), WEIGHTS_FILE))
    # One checkpoint more than are kept: the best. The weights of a student are fewer than its teacher's.
    return None if size is None else size * (1 + _SAVED_SHARE * (config.intervals.keep_checkpoints + 1))


def check_store(uri: str, *, outside: bool = False) -> Finding:
    """Check that a folder, which need not exist, can be written: publish a file, replace, read, list and remove it.

    Nothing is left there; a folder that did not exist is removed again.

    Args:
        outside: see `check_runs`.

    Raises:
        InputError: no such storage.
    """
    if outside and is_path(uri) and not storage.exists(uri):
        return warn(f"{uri} is not on this machine and cannot be checked from here", _AS_A_JOB)
    name = f"{_PROBE}{os.getpid()}-{secrets.token_hex(8)}"
    probe, missing, started = storage.join(uri, name), [], time.monotonic()
    try:
        missing = _missing_folders(uri)
        problem = _try_out(probe, uri, name)
    except (OSError, InputError) as error:
        cause: BaseException | None = error  # `storage` replaces the error of the system by an `InputError`
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        return _write_failure(uri, cause)
    finally:
        _tidy(probe, missing)
    if problem:
        return fail(f"{uri}: {problem}", _FIX)
    return ok(f"{uri}: written whole, replaced, read, listed and removed in {time.monotonic() - started:.2f} s")


def _write_failure(uri: str, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    if is_path(uri) and error.errno in (errno.EACCES, errno.EPERM):
        found = f"{uri}: no permission for user {os.geteuid()}, {_closed_folder(path_of(uri))}"
        return fail(found, "chmod or chown it, or choose another run_dir")
    if is_path(uri) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return fail(f"{uri}: no space ({reason})", "free space or raise the quota, or choose another run_dir")
    if is_path(uri) and error.errno == errno.EROFS:
        return fail(f"{uri}: {reason}", "mount it for writing, or choose another run_dir")
    return fail(f"{uri}: {reason}", _FIX)


def _closed_folder(path: Path) -> str:
    """Describe the topmost folder above a path that this user cannot enter, else the last that exists."""
    above = [each for each in (path, *path.parents) if os.access(each, os.F_OK)]
    folder = next((each for each in reversed(above) if not os.access(each, os.X_OK)), above[0])
    status = folder.stat()
    return f"{folder} is {stat.filemode(status.st_mode)} of user {status.st_uid}"


def _try_out(probe: str, uri: str, name: str) -> str:
    """Return what did not work, empty if all did."""
    for content in (secrets.token_bytes(1 << 16), secrets.token_bytes(100)):
        storage.write_bytes(probe, content)
        if storage.read_bytes(probe) != content:
            return "reads give something else than what was written"
    if not any(file.rpartition("/")[2] == name for file in storage.list_files(uri)):
        return "a file that was written is not listed"
    storage.remove_file(probe)
    return "a file that was removed is still there" if storage.exists(probe) else ""


def _missing_folders(uri: str) -> list[str]:
    """Return the folder and those above it that do not exist, the deepest first; no bucket."""
    folder, missing = uri.rstrip("/"), []
    top = 3 if "://" in uri else 0  # scheme, nothing, bucket
    while folder and folder.count("/") >= top and not storage.exists(folder):
        missing.append(folder)
        folder = folder.rpartition("/")[0]
    return missing


def _tidy(probe: str, missing: list[str]) -> None:
    """Remove the probe and the folders that appeared with it, unless another process has begun to use them."""
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
        return  # what has not been created, or is in use
