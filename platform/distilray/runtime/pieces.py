"""Resumable work: the pieces of a run, each done by one task and recorded in the run folder once it is complete.

The record of a piece is written after its data, whole or not at all. A run that resumes does the pieces without one.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distilray.runtime import storage
from distilray.runtime.progress import Progress
from distilray.runtime.session import run_tasks

_RECORDS_FOLDER = "pieces"
_SUFFIX = ".json"
_READ_AHEAD = 128  # records in memory at a time
_KB, _MB = 1 << 10, 1 << 20

Values = dict[str, Any]


class CompletedPieces:
    """The completed pieces of one stage of a run: a record with the counts of each, by its number."""

    def __init__(self, run_dir: str, stage: str) -> None:
        self.run_dir = run_dir
        self._folder = storage.join(run_dir, _RECORDS_FOLDER, stage)

    def add(self, number: int, record: Mapping[str, Any]) -> None:
        """Record that a piece is complete. All its data must have been written before."""
        storage.write_bytes(self._file(number), json.dumps(record, sort_keys=True).encode())

    def numbers(self) -> set[int]:
        """Return the numbers of the completed pieces."""
        files = storage.list_files(self._folder, _SUFFIX)
        return {int(file.rpartition("/")[2].removesuffix(_SUFFIX)) for file in files}

    def records(self, numbers: Sequence[int]) -> Iterator[Values]:
        """Yield the records of completed pieces in the order of `numbers`, a few in memory at a time."""
        with ThreadPoolExecutor(storage.READ_THREADS) as readers:
            for start in range(0, len(numbers), _READ_AHEAD):
                files = [self._file(number) for number in numbers[start : start + _READ_AHEAD]]
                yield from (json.loads(data) for data in readers.map(storage.read_bytes, files))

    def _file(self, number: int) -> str:
        return storage.join(self._folder, f"{number:06d}{_SUFFIX}")


def run_pieces(
    items: Sequence[Values],
    task: Callable[[Values], Values],
    completed: CompletedPieces,
    *,
    job: str,
    label: str,
    unit: str,
    size: Callable[[Values], int] = lambda item: 1,
    counted: str | None = None,
    **resources: Any,
) -> Iterator[Values]:
    """Run the pieces that are not complete yet, with progress, and return the records of all, in the order of `items`.

    Args:
        items: the pieces, as values that Arrow holds; each has a `number`.
        task: runs on a worker: writes the data of a piece and returns its record, which is written afterwards.
        completed: the pieces that are complete.
        job: its name, for what is reported while it waits.
        label: the name of the work in the line of progress.
        unit: of `size`; bytes are shown as kB or MB.
        size: the part of a piece in the progress.
        counted: a number in the records, whose sum in this run is shown with the progress.
        resources: of a task, as `run_tasks` takes them.

    Raises:
        InputError: raised by a task, or a task can never run.
    """
    done = completed.numbers()
    sizes = {item["number"]: size(item) for item in items}
    total, finished = sum(sizes.values()), sum(sizes[number] for number in sizes.keys() & done)
    scale = 1
    if unit == "bytes":
        scale, unit = (_MB, "MB") if total > 100 * _MB else (_KB, "kB")
    run = functools.partial(_run_piece, task=task, completed=completed, counted=counted)
    waiting = [item for item in items if item["number"] not in done]
    with Progress(label, total=max(1, total // scale), unit=unit) as progress:
        progress.start_at(finished // scale)
        count = 0
        for result in run_tasks(waiting, run, job=job, run_dir=completed.run_dir, **resources):
            finished, count = finished + sizes[result["number"]], count + result["count"]
            progress.advance_to(finished // scale, f"{count:,} {counted}" if counted else "")
    return completed.records([item["number"] for item in items])


def _run_piece(
    item: Values, *, task: Callable[[Values], Values], completed: CompletedPieces, counted: str | None
) -> Values:
    record = task(item)
    completed.add(item["number"], record)
    return {"number": item["number"], "count": record[counted] if counted else 0}
