"""Ray's API within this process: tasks run sequentially, and a training run has one worker in a thread.

Only replaces names of Ray itself, so that this module does not depend on the structure of the project.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import ray
import ray.data
from ray.train.torch import TorchTrainer


class _Dataset:
    """Dataset with one block per table."""

    def __init__(self, tables: Callable[[], Iterator[pa.Table]]) -> None:
        self._tables = tables

    def map_batches(self, fn: Any, fn_constructor_args: tuple[Any, ...] | None = None, **_: Any) -> "_Dataset":
        function = fn if fn_constructor_args is None else fn(*fn_constructor_args)
        return _Dataset(lambda: map(function, self._tables()))

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        return self._tables()


def _from_items(items: list[dict[str, Any]], **_: Any) -> _Dataset:
    return _Dataset(lambda: (pa.Table.from_pylist([item]) for item in items))


_FIT = TorchTrainer.fit


def _fit(trainer: TorchTrainer) -> Any:
    trainer.running_in_local_mode = True
    return _FIT(trainer)


@contextlib.contextmanager
def ray_in_process(cpus: float = 1.0) -> Iterator[None]:
    """Replace Ray until the block ends, by a cluster of one node with some CPUs."""
    nodes = [{"NodeID": "0", "Alive": True, "Resources": {"CPU": cpus}, "Labels": {}}]
    with (
        patch.object(ray, "is_initialized", lambda: True),
        patch.object(ray, "nodes", lambda: nodes),
        patch.object(ray, "put", lambda value: value),
        patch.object(ray, "get", lambda value, **_: value),
        patch.object(ray.data, "from_items", _from_items),
        patch.object(TorchTrainer, "fit", _fit),
    ):
        yield
