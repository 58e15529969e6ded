"""Environment variables: the cluster that they name, and values for what is started in a block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping


def inside_cluster() -> bool:
    """Return whether RAY_ADDRESS names a cluster, as Ray sets it for every submitted job."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for this process and its children, and restore them after the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
