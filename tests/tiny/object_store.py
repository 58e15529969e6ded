"""Object store without a server."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from pyarrow import fs

from distilray.runtime import storage


def local_object_store(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Replace S3 by the files next to a local folder, and return the URI of the folder."""
    original = storage.filesystem
    store = fs.SubTreeFileSystem(str(folder.parent), fs.LocalFileSystem())

    def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
        if not uri.startswith("s3://"):
            return original(uri)
        return store, unquote(uri.removeprefix("s3://bucket").lstrip("/"))

    monkeypatch.setattr(storage, "filesystem", filesystem)
    return f"s3://bucket/{folder.name}"
