"""Lexical handling of paths and URIs. Uses only the standard library because the doctor must run without packages."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from distilray.errors import InputError

SAMPLE_PREFIX = "sample:"
HUB_PREFIX = "hub:"  # a model on the Hugging Face Hub, downloaded by `models.sources`


def expand_home(path: str) -> str:
    """Return the path with a leading `~` or `~user` expanded; other paths and URIs are returned unchanged.

    Raises:
        InputError: the user does not exist or has no home directory.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 - the path may be a URI
    if expanded.startswith("~"):
        user = path.partition("/")[0]
        raise InputError(
            f"{path}: no user {user} on this machine; correct it, or write ./{path} for a file of this name"
        )
    return expanded


def is_path(uri: str) -> bool:
    """Return whether a location is a path or file URI. Unlike pyarrow, this never contacts an object store."""
    return "://" not in uri or uri.startswith("file://")


def path_of(uri: str) -> Path:
    """Return the absolute path of a path or file URI."""
    return Path(unquote(urlsplit(uri).path) if "://" in uri else expand_home(uri)).absolute()
