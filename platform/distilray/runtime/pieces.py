"""Resumable work, split into pieces. One task processes each piece and then records it in the run folder.

The record of a piece is written atomically after its data. A resumed run processes only the pieces without a record.
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
_READ_AHEAD = 128  # records held in memory
_KB, _MB = 1 << 10, 1 << 20

Values = dict[str, Any]


class CompletedPieces:
    """Records of the completed pieces of one phase of a run, by number. A record contains the counts of its piece."""

    def __init__(self, run_dir: str, phase: str) -> None:
        self.run_dir = run_dir
        self._folder = storage.join(run_dir, _RECORDS_FOLDER, phase)

    def add(self, number: int, record: Mapping[str, Any]) -> None:
        """Record that a piece is complete. Its data must already be written."""
        storage.write_bytes(self._file(number), json.dumps(record, sort_keys=True).encode())

    def numbers(self) -> set[int]:
        """Return the numbers of the completed pieces."""
        files = storage.list_files(self._folder, _SUFFIX)
        return {int(file.rpartition("/")[2].removesuffix(_SUFFIX)) for file in files}

    def records(self, numbers: Sequence[int]) -> Iterator[Values]:
        """Yield the records of completed pieces in the order of `numbers`, holding only a few in memory."""
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
    count_key: str | None = None,
    **resources: Any,
) -> Iterator[Values]:
    """Run the incomplete pieces and return the records of all pieces in the order of `items`.

    Args:
        items: pieces as values that Arrow can store, each with a `number`.
        task: runs on a worker, writes the data of a piece and returns its record, which is written afterwards.
        completed: the completed pieces.
        job: name of the job, for messages while it waits for resources.
        label: label of the progress display.
        unit: unit of `size`; bytes are displayed as kB or MB.
        size: contribution of a piece to the progress.
        count_key: key of a number in the records, whose sum over this attempt is displayed with the progress.
        resources: resources of a task, see `run_tasks`.

    Raises:
        InputError: raised by a task, or a task can never run.
    """
    done = completed.numbers()
    sizes = {item["number"]: size(item) for item in items}
    total, finished = sum(sizes.values()), sum(sizes[number] for number in sizes.keys() & done)
    scale = 1
    if unit == "bytes":
        scale, unit = (_MB, "MB") if total > 100 * _MB else (_KB, "kB")
    run = functools.partial(_run_piece, task=task, completed=completed, count_key=count_key)
    remaining = [item for item in items if item["number"] not in done]
    with Progress(label, total=max(1, total // scale), unit=unit) as progress:
        progress.start_at(finished // scale)
        count = 0
        for result in run_tasks(remaining, run, job=job, run_dir=completed.run_dir, **resources):
            finished, count = finished + sizes[result["number"]], count + result["count"]
            progress.advance_to(finished // scale, f"{count:,} {count_key}" if count_key else "")
    return completed.records([item["number"] for item in items])


def _run_piece(
    item: Values, *, task: Callable[[Values], Values], completed: CompletedPieces, count_key: str | None
) -> Values:
    record = task(item)
    completed.add(item["number"], record)
    return {"number": item["number"], "count": record[count_key] if count_key else 0}
