"""Files of the checkout that Ray uploads with a job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathspec import PathSpec

from distilray.errors import InputError

_RAY_EXCLUDES = (".git", ".venv", "venv", "__pycache__")  # Ray's defaults, unless a variable overrides them
_IGNORE_FILES = (".gitignore", ".rayignore")
_MAX_MB = 20  # this checkout has less than 2; Ray's own limit is 100, and the head keeps uploads in memory
_MAX_LISTED = 3


@dataclass(frozen=True)
class Upload:
    """The files that Ray uploads: size in bytes by path in the checkout."""

    files: Mapping[str, int]

    @classmethod
    def of(cls, root: Path, excludes: Sequence[str]) -> "Upload":
        """List the files as Ray does, except those that match `excludes` or an ignore file in one of their folders."""
        rules = [(root, PathSpec.from_lines("gitignore", [*_RAY_EXCLUDES, *excludes]))]
        return cls({file.relative_to(root).as_posix(): file.stat().st_size for file in _walk(root, rules)})

    def __str__(self) -> str:
        return f"{len(self.files):,} files, {sum(self.files.values()) / 1e6:.1f} MB"

    def check(self, recipes: Sequence[str]) -> None:
        """Check that the upload is small enough and contains the recipes.

        Raises:
            InputError: it is too large, or a recipe is excluded.
        """
        if sum(self.files.values()) > _MAX_MB * 1e6:
            largest = sorted(self.files.items(), key=lambda file: -file[1])[:_MAX_LISTED]
            listed = ", ".join(f"{path} ({size / 1e6:.1f} MB)" for path, size in largest)
            raise InputError(
                f"the upload would contain {self}, more than {_MAX_MB} MB; the largest are {listed}: move data out of "
                "the checkout, or add it to .rayignore"
            )
        if absent := next((recipe for recipe in recipes if recipe not in self.files), None):
            raise InputError(
                f"{absent}: excluded from the upload by .gitignore, .rayignore or jobs/runtime_env.yaml, so the job "
                "would not find the recipe; copy it to jobs/recipes/"
            )


def _walk(path: Path, rules: Sequence[tuple[Path, PathSpec[Any]]]) -> Iterator[Path]:
    for name in _IGNORE_FILES:
        if (path / name).is_file():
            rules = [*rules, (path, PathSpec.from_lines("gitignore", (path / name).read_text().splitlines()))]
    if any(spec.match_file(str(path.relative_to(folder))) for folder, spec in rules):
        return
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            yield from _walk(inner, rules)
    elif path.is_file():
        yield path
