"""What a recipe reads: complete runs, and models with all their files. Nothing is fetched, no weights are loaded."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distilray.config.base import JobConfig, Kind, locations
from distilray.config.paths import HUB_PREFIX, is_path
from distilray.config.sample import resolve
from distilray.errors import InputError
from distilray.models.architectures import family_name
from distilray.models.onnx_file import ONNX_FILE
from distilray.models.sources import CONFIG_FILE, MODEL_FILES, TOKENIZER_FILE, WEIGHTS_FILE, model_folder
from distilray.operations.doctor.check import Finding, fail, ok, together, warn
from distilray.operations.locations import check_locations, unshared_mounts
from distilray.runtime import storage
from distilray.runtime.run_folder import read_manifest

_NO_PYTORCH = "save it with save_pretrained, as safetensors, its tokenizer beside it"
_HEADER_MOST = 100 << 20  # bytes of the header of a safetensors file
AS_A_JOB = "look from inside: ray job submit ... -- python -m jobs.doctor ..."


def locations_of(config: JobConfig, kind: Kind) -> dict[str, str]:
    """The inputs of a kind that a recipe must have, by dotted key."""
    found = [each for each in locations(config) if each.is_input and not each.location.is_optional]
    return {each.key: each.value for each in found if each.location.kind == kind}


def check_folders(config: JobConfig, mounts: str | None) -> Finding:
    """Check that all machines of a cluster see the locations of a recipe.

    Args:
        mounts: content of /proc/mounts of a machine of the cluster; None outside of it.

    Raises:
        InputError: see `check_locations`.
    """
    check_locations(config)
    kinds = {} if mounts is None else unshared_mounts(config, mounts)
    fix = "a folder that all machines mount, or a URI"
    findings = [warn(f"{key} is on {kind}, a disk of this machine alone", fix) for key, kind in kinds.items()]
    return together(findings, "folders are absolute or URIs" + ("" if mounts is None else ", on shared file systems"))


def check_runs(runs: Mapping[str, str], *, outside: bool = False) -> Finding:
    """Every run that is read is complete: its manifest is there, and all files that it names, as large as it says.

    Args:
        runs: by key of the recipe.
        outside: whether the paths are those of machines that this process cannot see.
    """
    findings = [_each(key, uri, _check_run, outside) for key, uri in runs.items()]
    told = ", ".join(finding.found for finding in findings) or "the recipe reads no run"
    return together(findings, told)


def check_models(
    models: Mapping[str, str], tokenizers: Mapping[str, str], *, offline: bool, outside: bool = False
) -> Finding:
    """Check that every model or tokenizer that is read has its files, whole.

    Args:
        models: by key of the recipe.
        tokenizers: of which the other files of a model need not be there.
        offline: whether the hub may not be asked.
        outside: see `check_runs`.
    """
    findings = []
    for key, source in {**models, **tokenizers}.items():
        if source.startswith(HUB_PREFIX):
            needed = (TOKENIZER_FILE,) if key in tokenizers else MODEL_FILES
            findings.append(_check_hub(key, source, needed, offline=offline))
        else:
            findings.append(_each(key, source, _check_tokenizer if key in tokenizers else _check_model, outside))
    told = ", ".join(finding.found for finding in findings) or "the recipe reads no model"
    return together(findings, told)


def model_bytes(source: str) -> int | None:
    """Size of the weights of a model in a folder or object store; None where it is not known without fetching it."""
    if source.startswith(HUB_PREFIX):
        return None
    return storage.file_size(storage.join(model_folder(resolve(source)), WEIGHTS_FILE))


def _each(key: str, uri: str, check: Callable[[str, str], Finding], outside: bool) -> Finding:
    if outside and is_path(resolve(uri)) and not storage.exists(resolve(uri)):
        return warn(f"{key}: {uri} is not on this machine, and cannot be looked at from here", AS_A_JOB)
    try:
        return check(key, uri)
    except InputError as error:
        found, _, fix = str(error).partition("; ")
        return fail(f"{key}: {found}", fix or "correct the recipe")


def _check_run(key: str, uri: str) -> Finding:
    content = read_manifest(uri)["content"]
    files = {name: entry["bytes"] for name, entry in content["outputs"].items() if "bytes" in entry}
    sizes = {name: storage.file_size(storage.join(uri, name)) for name in files}
    torn = [name for name, size in sizes.items() if size != files[name]]
    if torn:
        what = "is missing" if sizes[torn[0]] is None else f"has {sizes[torn[0]]:,} bytes, not {files[torn[0]]:,}"
        told = f"{key}: {uri}/{torn[0]} {what} ({len(torn)} of {len(files)} files)"
        return fail(told, f"run jobs.{content['job']} again, or copy the run whole")
    return ok(f"{key} {uri} complete ({content['job']}, {len(files)} files)")


def _check_hub(key: str, source: str, needed: Sequence[str], *, offline: bool) -> Finding:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix(HUB_PREFIX).partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        missing = [file for file in needed if not (folder / file).is_file()]
    except (OSError, ValueError):
        missing = list(needed)
    if not missing:
        return ok(f"{key} {source} in the cache")
    if offline:
        fix = f"hf download {name} {' '.join(needed)} on a machine that can, and name its folder"
        return fail(f"{key}: {source} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", fix)
    told = f"{key}: {source} is not in the cache of this machine; the first run fetches it"
    return warn(told, f"hf download {name} {' '.join(needed)}")


def _check_tokenizer(key: str, source: str) -> Finding:
    _require(_existing_folder(source), (TOKENIZER_FILE,))
    return ok(f"{key} {source} there")


def _existing_folder(source: str) -> str:
    folder = model_folder(resolve(source))
    if not storage.exists(folder):
        raise InputError(f"{source}: no such folder; name a run, a model folder, the URI of one, or hub:OWNER/NAME")
    return folder


def _check_model(key: str, source: str) -> Finding:
    folder = _existing_folder(source)
    if storage.exists(storage.join(folder, ONNX_FILE)):
        _require(folder, (CONFIG_FILE, TOKENIZER_FILE))
        return ok(f"{key} {source} there (ONNX)")
    _require(folder, MODEL_FILES)
    settings = _json(storage.join(folder, CONFIG_FILE), storage.read_bytes(storage.join(folder, CONFIG_FILE)))
    tensors = _tensors(storage.join(folder, WEIGHTS_FILE))
    return ok(f"{key} {source} ({family_name(settings)}, {tensors} tensors)")


def _require(folder: str, names: Collection[str]) -> None:
    for name in names:
        if not storage.exists(storage.join(folder, name)):
            raise InputError(f"{folder}: no {name}; {_NO_PYTORCH}")


def _tensors(uri: str) -> int:
    """Tensors of a safetensors file, whose header fits its size."""
    size = storage.file_size(uri) or 0
    length = int.from_bytes(storage.read_range(uri, 0, 8), "little")
    if not 2 <= length <= min(size, _HEADER_MOST):
        raise InputError(f"{uri}: no safetensors file; {_NO_PYTORCH}")
    header = _json(uri, storage.read_range(uri, 8, 8 + length))
    ends = list(_ends(uri, header))
    told = 8 + length + max(ends, default=0)
    if told != size:
        raise InputError(f"{uri}: torn, {size:,} bytes where its header tells of {told:,}; copy it again")
    return len(ends)


def _ends(uri: str, header: Mapping[str, Any]) -> Iterator[int]:
    for name, entry in header.items():
        if name != "__metadata__":
            try:
                yield int(entry["data_offsets"][1])
            except (TypeError, LookupError, ValueError):
                raise InputError(f"{uri}: no safetensors file; {_NO_PYTORCH}") from None


def _json(uri: str, data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{uri}: not what its name says; {_NO_PYTORCH}")
    return found
