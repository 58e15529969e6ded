"""The files that a recipe names, and the parts in which they are read."""

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

from distilray.config.corpus import BuildCorpusConfig, Source
from distilray.config.sample import resolve_sample
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.corpus.sources.other_formats import suggested_fix
from distilray.corpus.sources.ranges import EMPTY, TruncatedFileError
from distilray.errors import InputError
from distilray.formats.lines import FileRange
from distilray.formats.streams import EmptyFileError, split_suffix
from distilray.runtime import storage
from distilray.runtime.file_search import find_files

_MB = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: `source` is the place of its source in the recipe, `name` is what its documents say of it."""

    source: int
    uri: str
    name: str


@dataclass(frozen=True)
class Chunk:
    """What one task reads: neighbouring ranges of one source. `number` is its place in the order of the corpus."""

    number: int
    source: int
    ranges: tuple[FileRange, ...]

    @property
    def stored_bytes(self) -> int:
        """Size of the ranges in their files."""
        return sum(each.stored_bytes for each in self.ranges)

    def to_json(self) -> dict[str, Any]:
        """As JSON types, for the way to a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Chunk":
        """Back from `to_json`."""
        return cls(values["number"], values["source"], tuple(FileRange(**each) for each in values["ranges"]))


def source_files(config: BuildCorpusConfig) -> list[SourceFile]:
    """The files of all sources, in the order of the recipe and then of their names.

    Raises:
        InputError: a source without files, or a file that is given twice.
    """
    found: list[SourceFile] = []
    seen: dict[str, str] = {}
    for number, source in enumerate(config.sources):
        for uri, name in _files(source):
            if uri in seen:
                raise InputError(f"{uri}: given twice in sources ({seen[uri]}, {source.path}); remove one")
            seen[uri] = source.path
            found.append(SourceFile(number, uri, name))
    return found


def unsupported_files(config: BuildCorpusConfig) -> str:
    """The files of folders and patterns in formats that no source reads, with what to do; empty if there are none."""
    found = [uri for source in config.sources for uri in find_files(resolve_sample(source.path)) if suggested_fix(uri)]
    fixes = {suggested_fix(uri): uri.rpartition("/")[2] for uri in reversed(found)}
    shown = "; ".join(f"{name}: {fix}" for fix, name in fixes.items())
    return f"{len(found):,} files ({_suffixes(found)}): {shown}" if found else ""


def check_inputs(config: BuildCorpusConfig, files: list[SourceFile]) -> int:
    """Check the beginning of every file and return the bytes of all.

    Raises:
        InputError: a file is not what its source says, all files of a source are empty, or a dump is cut short and
            `fault_tolerance` does not allow it.
    """

    def is_empty(file: SourceFile) -> bool:
        source = config.sources[file.source]
        try:
            SOURCE_KINDS[source.kind].check_file(source, file.uri)
        except EmptyFileError:
            return True
        except TruncatedFileError:
            if not config.fault_tolerance.allows_cut_files:
                raise
        return False

    with ThreadPoolExecutor(storage.READ_THREADS) as threads:
        empty = list(threads.map(is_empty, files))
        sizes = list(threads.map(storage.file_size, [file.uri for file in files]))
    for number, source in enumerate(config.sources):
        of_source = [flag for file, flag in zip(files, empty, strict=True) if file.source == number]
        if all(of_source):
            what = "the file is empty" if len(of_source) == 1 else f"all {len(of_source):,} files are empty"
            raise InputError(f"{source.path}: {what}; remove this source, or write its files again")
    return sum(size or 0 for size in sizes)


def plan_chunks(config: BuildCorpusConfig, files: list[SourceFile]) -> list[Chunk]:
    """The parts of all files: the same for every number of workers."""
    chunk_bytes = int(config.chunk_mb * _MB)

    def split(file: SourceFile) -> list[FileRange]:
        source = config.sources[file.source]
        ranges = SOURCE_KINDS[source.kind].file_ranges(source, file.uri, file.name, chunk_bytes=chunk_bytes)
        return ranges or [FileRange(file.uri, file.name, 0, 0, EMPTY, 0)]

    with ThreadPoolExecutor(storage.READ_THREADS) as threads:
        ranges = list(threads.map(split, files))
    packed: list[tuple[int, list[FileRange]]] = []
    room = 0
    for file, of_file in zip(files, ranges, strict=True):
        for file_range in of_file:
            if not packed or packed[-1][0] != file.source or file_range.stored_bytes > room:
                packed.append((file.source, []))
                room = chunk_bytes
            packed[-1][1].append(file_range)
            room -= file_range.stored_bytes
    return [Chunk(number, source, tuple(of_part)) for number, (source, of_part) in enumerate(packed)]


def _files(source: Source) -> list[tuple[str, str]]:
    """URI and name of each file of a source; of a folder or pattern only those that belong to its kind."""
    path = resolve_sample(source.path)
    if "://" not in path:
        path = os.path.abspath(path)  # workers have folders of their own
    found = find_files(path)
    if "*" not in path and not storage.is_folder(path):
        if fix := suggested_fix(path):
            raise InputError(f"{source.path}: a format that no source reads; {fix}")
        return [(path, path.rpartition("/")[2])]
    above = path.partition("*")[0]
    above = above.rpartition("/")[0] + "/" if "*" in path else above.rstrip("/") + "/"
    kept = [uri for uri in found if SOURCE_KINDS[source.kind].is_input(uri)]
    if not kept:
        fix = next(filter(None, map(suggested_fix, found)), "set another kind")
        raise InputError(
            f"{source.path}: none of {len(found):,} files is one of a source of kind '{source.kind}' "
            f"({_suffixes(found)}); {fix}"
        )
    names = [uri.removeprefix(above) for uri in kept]
    return [(uri, unquote(name) if "://" in uri else name) for uri, name in zip(kept, names, strict=True)]


def _suffixes(files: list[str]) -> str:
    """The most frequent suffixes of files, for messages."""
    counts = Counter(split_suffix(file)[2] or "no suffix" for file in files)
    return ", ".join(f"{suffix} {count:,}" for suffix, count in counts.most_common(3))
