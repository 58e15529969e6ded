"""Which pieces of a run are done: a mark for each, with its counts, in the folder of the run.

A mark is written after what it stands for, whole or not at all. A run that goes on does what has no mark.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distilray.runtime import storage

_HELD = 128  # marks in memory at a time
_SUFFIX = ".json"


class Marks:
    """The marks in a run folder, by stage and by number of the piece."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def mark(self, stage: str, number: int, facts: dict[str, Any]) -> None:
        """Marks a piece as done, with its counts."""
        storage.write_bytes(self._mark_file(stage, number), json.dumps(facts, sort_keys=True).encode())

    def done(self, stage: str) -> set[int]:
        """Numbers of the pieces that are done."""
        return self.numbers(stage, _SUFFIX)

    def facts(self, stage: str, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The counts of pieces that are done, in the order of `numbers`, a few in memory at a time."""
        with ThreadPoolExecutor(storage.READERS) as readers:
            for at in range(0, len(numbers), _HELD):
                files = [self._mark_file(stage, number) for number in numbers[at : at + _HELD]]
                yield from (json.loads(data) for data in readers.map(storage.read_bytes, files))

    def make_folders(self, *names: str) -> None:
        """Makes folders inside that of the run; of an object store they need not be there."""
        for name in names:
            storage.make_folder(storage.join(self.folder, name))

    def remove_work(self) -> None:
        """Removes the files of work; only the marks are left."""
        storage.remove_folder(storage.join(self.folder, "work"))

    def numbers(self, name: str, suffix: str) -> set[int]:
        """Numbers of the files in a folder of the ledger whose names end with `suffix`."""
        files = storage.list_files(storage.join(self.folder, "ledger", name), suffix)
        return {int(file.rpartition("/")[2].removesuffix(suffix)) for file in files}

    def _mark_file(self, stage: str, number: int) -> str:
        return storage.join(self.folder, "ledger", stage, f"{number:06d}{_SUFFIX}")
