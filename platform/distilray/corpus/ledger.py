"""What a run of the corpus has done so far: files of work, and a mark for each piece that is done.

`work/` is removed when all documents are published; the marks stay, as they hold the counts.
"""

from collections.abc import Sequence

from distilray.runtime import storage
from distilray.runtime.marks import Marks

DOCUMENTS_FOLDER = "documents"


class Ledger(Marks):
    """The ledger in a run folder."""

    def part_file(self, number: int) -> str:
        """The cleaned documents of a part."""
        return storage.join(self.folder, "work/parts", f"{number:06d}.parquet")

    def duplicates_file(self, name: str) -> str:
        """Documents that one search for duplicates has found; it is its own mark."""
        return storage.join(self.folder, "work/duplicates", f"{name}.parquet")

    def quarantine_file(self, number: int) -> str:
        """What could not be read of a part, as JSON lines; absent when all was."""
        return storage.join(self.folder, "ledger/quarantine", f"{number:06d}.jsonl")

    def quarantined(self, numbers: Sequence[int]) -> list[int]:
        """Those of the parts of which something is in quarantine."""
        there = self.numbers("quarantine", ".jsonl")
        return [number for number in numbers if number in there]

    def begin(self) -> None:
        """Makes the folders."""
        self.make_folders(
            "work/parts", "work/duplicates", "ledger/parts", "ledger/files", "ledger/quarantine", DOCUMENTS_FOLDER
        )
