"""Work in this process that is cut off: at a change of the disk, or between two of its tasks."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import ray

from distilray.runtime import pieces, storage

Values = dict[str, Any]


class KilledError(BaseException):
    """The end of the process; not an `Exception`, since no code can catch it."""


@contextmanager
def killed_at_change(number: int) -> Iterator[list[str]]:
    """Kill the process before its change `number` of the disk, from 0; yield the files that were changed.

    A change is a file that gets its final name, or one that is removed; a folder is removed file by file. What the
    process was about to publish is left under its temporary name. A negative number kills nothing.
    """
    changed: list[str] = []
    replace, remove_file, remove_folder = os.replace, storage.remove_file, storage.remove_folder
    lock = threading.Lock()  # checkpoints are written in a thread

    def change(file: Any, action: Callable[[], None]) -> None:
        with lock:
            if len(changed) == number:
                raise KilledError
            action()
            changed.append(str(file))

    def publish(source: Any, target: Any, **options: Any) -> None:
        try:
            change(target, lambda: replace(source, target, **options))
        except KilledError:
            with suppress(FileExistsError):
                os.link(source, str(source).replace(f".{os.getpid()}.", ".1."))
            raise

    def empty(uri: str) -> None:
        for file in sorted(Path(uri).rglob("*")):
            if file.is_file():
                change(file, file.unlink)
        remove_folder(uri)

    with (
        patch.object(os, "replace", publish),
        patch.object(os, "fsync", lambda _: None),
        patch.object(storage, "remove_file", lambda uri: change(uri, lambda: remove_file(uri))),
        patch.object(storage, "remove_folder", empty),
    ):
        yield changed


def at_each_folder(changes: Sequence[str]) -> list[int]:
    """The numbers of the changes that are the first or the last of several in a row in one folder."""
    folders = [None, *(Path(file).parent for file in changes), None]
    return [
        number - 1
        for number in range(1, len(folders) - 1)
        if not folders[number - 1] == folders[number] == folders[number + 1]
    ]


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
