"""What an upload holds, and when it is too large: a cluster keeps it in the memory of its head, for every job."""

from collections.abc import Sequence
from dataclasses import dataclass

from distilray.errors import InputError

MAX_MB = 20  # ours holds less than 2; Ray itself gives up at 100
_SHOWN = 3


@dataclass(frozen=True)
class Upload:
    """The files of an upload with their bytes, by their path from the root."""

    files: Sequence[tuple[str, int]]

    @property
    def total_bytes(self) -> int:
        """Of all files; they travel as they are."""
        return sum(size for _, size in self.files)

    def __str__(self) -> str:
        return f"{len(self.files):,} files, {self.total_bytes / 1e6:.1f} MB"

    def check(self) -> None:
        """Refuses what is larger than `MAX_MB`.

        Raises:
            InputError: with the largest paths.
        """
        if self.total_bytes <= MAX_MB * 1e6:
            return
        largest = sorted(self.files, key=lambda file: -file[1])[:_SHOWN]
        named = ", ".join(f"{path} ({size / 1e6:.1f} MB)" for path, size in largest)
        raise InputError(
            f"the upload would hold {self}, more than {MAX_MB} MB; the largest are {named}: move data out of the "
            "checkout, or name it in .rayignore"
        )

    def check_holds(self, path: str, meaning: str) -> None:
        """Refuses an upload without a file that the job reads from it.

        Raises:
            InputError: the file is left out.
        """
        if path not in {name for name, _ in self.files}:
            raise InputError(
                f"{path}: the upload leaves it out (.gitignore, .rayignore or jobs/runtime_env.yaml), so the cluster "
                f"would not find {meaning}; copy it to jobs/recipes/"
            )
