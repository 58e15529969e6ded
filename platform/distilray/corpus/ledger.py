"""What a run of the corpus has done so far: files of work, and a mark for each piece that is done.

A mark is written after the file that it stands for, whole or not at all. A run that goes on does what has no mark.
`work/` is removed when all documents are published; the marks stay, as they hold the counts.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from distilray.runtime import storage

Stage = Literal["parts", "files"]
_READERS = 16


class Ledger:
    """The ledger in a run folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def part_file(self, number: int) -> str:
        """The cleaned documents of a part."""
        return storage.join(self.folder, "work/parts", f"{number:06d}.parquet")

    def duplicates_file(self, name: str) -> str:
        """Documents that one search for duplicates has found; it is its own mark."""
        return storage.join(self.folder, "work/duplicates", f"{name}.parquet")

    def quarantine_file(self, number: int) -> str:
        """What could not be read of a part, as JSON lines; absent when all was."""
        return storage.join(self.folder, "ledger/quarantine", f"{number:06d}.jsonl")

    def mark(self, stage: Stage, number: int, facts: dict[str, Any]) -> None:
        """Marks a piece as done, with its counts."""
        storage.write_bytes(self._mark_file(stage, number), json.dumps(facts, sort_keys=True).encode())

    def done(self, stage: Stage) -> set[int]:
        """Numbers of the pieces that are done."""
        return self._numbers(stage, ".json")

    def facts(self, stage: Stage, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The counts of pieces that are done, in the order of `numbers`, a few in memory at a time."""
        with ThreadPoolExecutor(_READERS) as readers:
            for at in range(0, len(numbers), 8 * _READERS):
                files = [self._mark_file(stage, number) for number in numbers[at : at + 8 * _READERS]]
                yield from (json.loads(data) for data in readers.map(storage.read_bytes, files))

    def quarantined(self, numbers: Sequence[int]) -> list[int]:
        """Those of the parts of which something is in quarantine."""
        there = self._numbers("quarantine", ".jsonl")
        return [number for number in numbers if number in there]

    def begin(self) -> None:
        """Makes the folders; of an object store they need not be there."""
        for name in ("work/parts", "work/duplicates", "ledger/parts", "ledger/files", "ledger/quarantine", "documents"):
            storage.make_folder(storage.join(self.folder, name))

    def remove_work(self) -> None:
        """Removes the files of work; only the marks are left."""
        storage.remove_folder(storage.join(self.folder, "work"))

    def _numbers(self, name: str, suffix: str) -> set[int]:
        files = storage.list_files(storage.join(self.folder, "ledger", name), suffix)
        return {int(file.rpartition("/")[2].removesuffix(suffix)) for file in files}

    def _mark_file(self, stage: Stage, number: int) -> str:
        return storage.join(self.folder, "ledger", stage, f"{number:06d}.json")
