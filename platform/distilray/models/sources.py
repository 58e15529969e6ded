"""Sources of models: a folder or run, local or in an object store, a model on the Hugging Face hub, or a sample.

`pin` replaces a name that may change by one that cannot, and fetches nothing but a model on the hub; `localise` returns
a folder on this machine. Only configuration, safetensors and tokenizer are ever fetched: no code, no pickle.
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

MODEL_FOLDER = "model"  # of a run that trains
CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"  # comes with them if it is there
_INNER_FOLDERS = (MODEL_FOLDER, "data/model")  # the second one in a folder of MLflow
_NO_FOLDER = "no such folder; name a run, a model folder, the URI of one, or hub:OWNER/NAME"
CACHE_FOLDER = "~/.cache/distilray/models"
_HUB_ID = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@(?!.*\.\.)(\w[\w./-]*))?", re.ASCII)
_FIXES = {
    CONFIG_FILE: "name a complete training run, or a model folder as save_pretrained writes it",
    WEIGHTS_FILE: "no other weights are read: load them with transformers, save_pretrained a folder and name that",
    TOKENIZER_FILE: "vocab.txt alone is not read: AutoTokenizer.from_pretrained(F).save_pretrained(F) writes it into F",
}
_OFFLINE = (
    "not in the cache of this machine, and HF_HUB_OFFLINE=1 (or TRANSFORMERS_OFFLINE) forbids the hub; set it to 0"
)
# The first that fits. What the hub's client says itself has many lines, and may hold a token.
_HUB_FAULTS: tuple[tuple[type[Exception], str], ...] = (
    (hub_errors.GatedRepoError, "its owner gives it only to users who accepted its terms and are logged in"),
    (hub_errors.RepositoryNotFoundError, "the hub has no such model, or a private one; check the id"),
    (hub_errors.RevisionNotFoundError, "the model has no such revision; check what stands after @"),
    (hub_errors.LocalEntryNotFoundError, "not complete in the cache of this machine, and the hub cannot be reached"),
)


def localize(source: str, needed: Collection[str] = MODEL_FILES, *, cache_dir: str = CACHE_FOLDER) -> str:
    """Return the folder of a model on this machine, fetched if needed, once for all processes of the machine.

    Args:
        source: a model folder, or a run or MLflow folder with one inside, as path or URI; `hub:OWNER/NAME`, with
            `@REVISION` if it is not `main`; or a `sample:` name.
        needed: which of `MODEL_FILES` must be there; `tokenizer_config.json` comes with them if there is one.
        cache_dir: where models of an object store are kept. Those of the hub are in the cache of its client.

    Raises:
        InputError: not there or not reachable, a needed file is missing, or one is not what its run's manifest says.
    """
    if source.startswith(HUB_PREFIX):
        return _hub_snapshot(source, tuple(needed))
    source = resolve_sample(source)
    if storage.is_local(source):
        return _local_folder(source, needed)
    try:
        return _fetched(source, needed, cache_dir)
    except OSError as error:
        raise InputError(f"{source}: cannot be fetched ({error}); check address, credentials, space") from None


def pin_tokenizer(source: str) -> str:
    """Return the local folder of a tokenizer on the hub, fetched if needed; any other source as it is."""
    return localize(source, (TOKENIZER_FILE,)) if source.startswith(HUB_PREFIX) else source


def pin(source: str) -> str:
    """Return a source with the commit of a model on the hub in place of its branch or tag, so that it cannot change.

    Raises:
        InputError: as `localise`; also a local folder that does not exist.
    """
    if source.startswith(HUB_PREFIX):
        return f"{source.partition('@')[0]}@{Path(localize(source)).name}"
    if is_location(source) and is_path(source) and not storage.is_folder(source):
        raise InputError(f"{source}: {_NO_FOLDER}")
    return source


def model_folder(source: str) -> str:
    """Return the folder of the model inside a run or a folder of MLflow; a model folder as it is."""
    inner = (storage.join(source, name) for name in _INNER_FOLDERS)
    return next((folder for folder in inner if storage.is_folder(folder)), source)


def is_onnx(source: str) -> bool:
    """Return whether a source of a model (see `localise`) is a folder with `model.onnx`."""
    return is_location(source) and storage.exists(storage.join(source, ONNX_FILE))


def model_inputs(name: str, source: str) -> dict[str, str]:
    """Return what manifests record of a model: a complete run, or weights and configuration, wherever they are stored.

    Raises:
        InputError: as `localise`.
    """
    if _is_complete_run(source):
        return {name: source}
    folder, weights = (source, ONNX_FILE) if is_onnx(source) else (localize(source), WEIGHTS_FILE)
    return {name: storage.join(folder, weights), f"{name}_config": storage.join(folder, CONFIG_FILE)}


def tokenizer_inputs(name: str, source: str) -> dict[str, str]:
    """Return what manifests record of a tokenizer: its file."""
    return {name: storage.join(resolve_sample(source), TOKENIZER_FILE)}


def is_location(source: str) -> bool:
    """Whether a source is a path or URI, and no name of the hub or of a sample."""
    return not source.startswith((HUB_PREFIX, SAMPLE_PREFIX))


def _is_complete_run(source: str) -> bool:
    return is_location(source) and is_complete(source)


def _require(source: str, needed: Collection[str], found: Collection[str]) -> None:
    for name in needed:
        if name not in found:
            raise InputError(f"{source}: no {name}; {_FIXES[name]}")


def _local_folder(source: str, needed: Collection[str]) -> str:
    folder = storage.local_path(source)
    with reading(source):
        if not folder.is_dir():
            raise InputError(f"{source}: {_NO_FOLDER}")
        folder = Path(model_folder(str(folder)))
        there = {file.name for file in folder.iterdir()}
    _require(str(folder), needed, there)
    for name in there.intersection((*needed, TOKENIZER_CONFIG_FILE)):
        verify_file(str(folder / name))
    return str(folder)


@functools.cache  # a process stays with the commit that it found first
def _hub_snapshot(source: str, needed: tuple[str, ...]) -> str:
    matched = _HUB_ID.fullmatch(source)
    if matched is None:
        raise InputError(f"{source}: not an id of the hub; write hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    name, revision = matched.groups()
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=[*needed, TOKENIZER_CONFIG_FILE])
    except Exception as error:  # the client also raises what its HTTP library raises
        other = f"cannot be fetched ({getattr(error, 'strerror', None) or type(error).__name__})"
        reason = next((reason for kind, reason in _HUB_FAULTS if isinstance(error, kind)), other)
        if isinstance(error, hub_errors.LocalEntryNotFoundError) and hub_constants.is_offline_mode():
            reason = _OFFLINE
        raise InputError(
            f"{source}: {reason}; or fetch it on a machine that can: "
            f"hf download {name} {' '.join(needed)} --local-dir FOLDER, and name the folder"
        ) from None
    _require(source, needed, {file.name for file in Path(folder).iterdir()})
    return folder


def _fetched(uri: str, needed: Collection[str], cache_dir: str) -> str:
    """Return the local copy of a model in an object store, fetched if the cache does not have its files as they are."""
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
