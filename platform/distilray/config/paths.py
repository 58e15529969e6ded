"""Paths and URIs as text; needs nothing but the standard library, since the doctor runs without the other packages."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from distilray.errors import InputError

SAMPLE_PREFIX = "sample:"
HUB_PREFIX = "hub:"  # a model on the Hugging Face hub, which `models.sources` downloads


def expand_home(path: str) -> str:
    """Return the path with a leading `~` or `~user` replaced by the home folder; other paths and URIs as they are.

    Raises:
        InputError: there is no such user, or the user has no home folder.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 - the path may be a URI
    if expanded.startswith("~"):
        user = path.partition("/")[0]
        raise InputError(f"{path}: {user} is no user of this machine; correct it, or write ./{path} for such a name")
    return expanded


def is_path(uri: str) -> bool:
    """Return whether a location is a path or file URI, by its form alone: pyarrow would ask an object store."""
    return "://" not in uri or uri.startswith("file://")


def path_of(uri: str) -> Path:
    """Return the absolute path that a path or file URI names."""
    return Path(unquote(urlsplit(uri).path) if "://" in uri else expand_home(uri)).absolute()
