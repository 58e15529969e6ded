"""Stages in this process that are cut off: at a file that they are about to publish, or between two of their tasks."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from types import ModuleType
from typing import Any
from unittest.mock import patch

import ray

from distilray.runtime import pieces

Values = dict[str, Any]


class KilledError(BaseException):
    """The end of the process; not an `Exception`, since no code can catch it."""


@contextmanager
def killed_at_file(number: int) -> Iterator[list[str]]:
    """Kill the process before it publishes its file `number`, from 0; yield the files that were published.

    A file is published when it gets its final name.
    """
    published: list[str] = []
    replace = os.replace

    def publish(source: Any, target: Any, **options: Any) -> None:
        if len(published) == number:
            raise KilledError
        replace(source, target, **options)
        published.append(str(target))

    with patch.object(os, "replace", publish):
        yield published


@contextmanager
def tasks_in_process(pipeline: ModuleType, *, order: int = 1, limit: int | None = None) -> Iterator[list[Values]]:
    """Run the tasks of a pipeline here, without Ray; yield the items that were processed.

    Args:
        order: -1 processes the items of each phase from the last to the first.
        limit: tasks after which the process is killed, over all phases.
    """
    numbers, processed = count(), list[Values]()

    def run_tasks(items: Sequence[Values], task: Callable[[Values], Values], **_: object) -> Iterator[Values]:
        for item in items[::order]:
            if next(numbers) == limit:
                raise KilledError
            yield task(item)
            processed.append(item)

    with (
        patch.object(pieces, "run_tasks", run_tasks),
        patch.object(pipeline, "ray_session", lambda _: nullcontext()),
        patch.object(ray, "put", lambda value: value),
        patch.object(ray, "get", lambda value: value),
    ):
        yield processed
