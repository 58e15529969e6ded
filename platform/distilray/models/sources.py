"""Model sources: a folder or run, local or in an object store, a model on the Hugging Face Hub, or a sample.

`pin` replaces the branch or tag of a hub model by its commit, which downloads the model; `localize` returns the local
folder of any model. Only configuration, safetensors, ONNX and tokenizer files are downloaded, never code or pickles.
"""

import functools
import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import constants as hub_constants
from huggingface_hub import errors as hub_errors
from huggingface_hub import snapshot_download
from pyarrow import fs

from distilray.config.paths import HUB_PREFIX, SAMPLE_PREFIX, is_path
from distilray.config.sample import resolve_sample
from distilray.errors import InputError, reading
from distilray.models.onnx_format import ONNX_FILE
from distilray.runtime import storage
from distilray.runtime.cache import LocalCache
from distilray.runtime.outputs import verify_file
from distilray.runtime.run_folder import is_complete, read_manifest

MODEL_FOLDER = "model"  # inside a training run
CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"  # optional
SAVED_FILES = (*MODEL_FILES, TOKENIZER_CONFIG_FILE)  # of a model that we save
_INNER_FOLDERS = (MODEL_FOLDER, "data/model")  # of a training run, of an MLflow model
_NO_FOLDER = "no such folder; choose a run, a model folder, the URI of one, or hub:OWNER/NAME"
CACHE_FOLDER = "~/.cache/distilray/models"
_HUB_ID = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@(?!.*\.\.)(\w[\w./-]*))?", re.ASCII)
_FIXES = {
    CONFIG_FILE: "choose a complete training run, or a model folder that save_pretrained wrote",
    WEIGHTS_FILE: "other weight formats are not supported: load the model with transformers and use save_pretrained",
    TOKENIZER_FILE: "vocab.txt is not enough: AutoTokenizer.from_pretrained(F).save_pretrained(F) adds the file to F",
}
_OFFLINE = "not in the local cache, and HF_HUB_OFFLINE=1 (or TRANSFORMERS_OFFLINE) disables downloads; set it to 0"
# The first match is used. Messages of the hub's client are not shown: they have many lines and may contain a token.
_HUB_ERRORS: tuple[tuple[type[Exception], str], ...] = (
    (hub_errors.GatedRepoError, "the model is gated; accept its terms and log in"),
    (hub_errors.RepositoryNotFoundError, "the hub has no such model, or it is private; check the id"),
    (hub_errors.RevisionNotFoundError, "the model has no such revision; check the part after @"),
    (hub_errors.LocalEntryNotFoundError, "not complete in the local cache, and the hub cannot be reached"),
)


def localize(source: str, needed: Collection[str] = MODEL_FILES, *, cache_dir: str = CACHE_FOLDER) -> str:
    """Return the local folder of a model; remote models are downloaded once for all processes of a machine.

    Args:
        source: path or URI of a model folder, or of a run or MLflow model that contains one; `hub:OWNER/NAME` or
            `hub:OWNER/NAME@REVISION`; or a `sample:` name.
        needed: required files of `MODEL_FILES`; `tokenizer_config.json` is also downloaded if it exists.
        cache_dir: cache for models of an object store. Models of the hub are in the cache of its client.

    Raises:
        InputError: the source does not exist or cannot be reached, a required file is missing, or a file does not match
            the manifest of its run.
    """
    if source.startswith(HUB_PREFIX):
        return _hub_snapshot(source, tuple(needed))
    source = resolve_sample(source)
    if storage.is_local(source):
        return _local_folder(source, needed)
    try:
        return _download(source, needed, cache_dir)
    except OSError as error:
        raise InputError(f"{source}: cannot be fetched ({error}); check address, credentials and disk space") from None


def pin_tokenizer(source: str) -> str:
    """Return the local folder of a tokenizer on the hub; other sources are returned unchanged."""
    return localize(source, (TOKENIZER_FILE,)) if source.startswith(HUB_PREFIX) else source


def pin(source: str) -> str:
    """Return an immutable source: a branch or tag of a model on the hub is replaced by its commit.

    Raises:
        InputError: see `localize`; also for a local folder that does not exist.
    """
    if source.startswith(HUB_PREFIX):
        return f"{source.partition('@')[0]}@{Path(localize(source)).name}"
    if is_location(source) and is_path(source) and not storage.is_folder(source):
        raise InputError(f"{source}: {_NO_FOLDER}")
    return source


def model_folder(source: str) -> str:
    """Return the model folder inside a run or an MLflow model; a model folder is returned unchanged."""
    inner = (storage.join(source, name) for name in _INNER_FOLDERS)
    return next((folder for folder in inner if storage.is_folder(folder)), source)


def is_onnx(source: str) -> bool:
    """Return whether a source is a folder that contains `model.onnx`."""
    return is_location(source) and storage.exists(storage.join(source, ONNX_FILE))


def model_inputs(name: str, source: str) -> dict[str, str]:
    """Return the inputs that a manifest records for a model: a complete run, or weights and configuration.

    Raises:
        InputError: see `localize`.
    """
    if _is_complete_run(source):
        return {name: source}
    folder, weights = (source, ONNX_FILE) if is_onnx(source) else (localize(source), WEIGHTS_FILE)
    return {name: storage.join(folder, weights), f"{name}_config": storage.join(folder, CONFIG_FILE)}


def tokenizer_inputs(name: str, source: str) -> dict[str, str]:
    """Return the inputs that a manifest records for a tokenizer: its file."""
    return {name: storage.join(resolve_sample(source), TOKENIZER_FILE)}


def is_location(source: str) -> bool:
    """Return whether a source is a path or URI, not a hub or sample name."""
    return not source.startswith((HUB_PREFIX, SAMPLE_PREFIX))


def _is_complete_run(source: str) -> bool:
    return is_location(source) and is_complete(source)


def _require(source: str, needed: Collection[str], available: Collection[str]) -> None:
    for name in needed:
        if name not in available:
            raise InputError(f"{source}: no {name}; {_FIXES[name]}")


def _local_folder(source: str, needed: Collection[str]) -> str:
    folder = storage.local_path(source)
    with reading(source):
        if not folder.is_dir():
            raise InputError(f"{source}: {_NO_FOLDER}")
        folder = Path(model_folder(str(folder)))
        available = {file.name for file in folder.iterdir()}
    _require(str(folder), needed, available)
    for name in available.intersection((*needed, TOKENIZER_CONFIG_FILE)):
        verify_file(str(folder / name))
    return str(folder)


@functools.cache  # a process always uses the same commit
def _hub_snapshot(source: str, needed: tuple[str, ...]) -> str:
    match = _HUB_ID.fullmatch(source)
    if match is None:
        raise InputError(f"{source}: not an id of the hub; write hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    name, revision = match.groups()
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=[*needed, TOKENIZER_CONFIG_FILE])
    except Exception as error:  # the client also raises what its HTTP library raises
        fallback = f"cannot be fetched ({getattr(error, 'strerror', None) or type(error).__name__})"
        reason = next((reason for kind, reason in _HUB_ERRORS if isinstance(error, kind)), fallback)
        if isinstance(error, hub_errors.LocalEntryNotFoundError) and hub_constants.is_offline_mode():
            reason = _OFFLINE
        raise InputError(
            f"{source}: {reason}; or download it on another machine with "
            f"hf download {name} {' '.join(needed)} --local-dir FOLDER, and use that folder"
        ) from None
    _require(source, needed, {file.name for file in Path(folder).iterdir()})
    return folder


def _download(uri: str, needed: Collection[str], cache_dir: str) -> str:
    """Return the local copy of a model in an object store, and download it if the cached files are not current."""
    folder = model_folder(uri)
    store, path = storage.filesystem(folder)

    def stamps() -> dict[str, tuple[int, int]]:
        infos = store.get_file_info([f"{path.rstrip('/')}/{name}" for name in (*needed, TOKENIZER_CONFIG_FILE)])
        return {info.base_name: (info.size, info.mtime_ns) for info in infos if info.type == fs.FileType.File}

    files = stamps()
    _require(uri, needed, files)
    state = read_manifest(uri)["content_hash"] if is_complete(uri) else list(files.items())
    key = hashlib.sha256(json.dumps([uri, state, sorted(files)]).encode()).hexdigest()
    cache = LocalCache(cache_dir, noun="a model")

    def fetch(target: Path) -> None:
        uris = {name: storage.join(folder, name) for name in files}
        digests = {uri: cache.download(uri, target / name) for name, uri in uris.items()}
        if stamps() != files:
            raise InputError(f"{uri}: changed while it was fetched; run the job again when it is complete")
        for file, digest in digests.items():
            verify_file(file, digest)

    return str(cache.get(key, fetch))
