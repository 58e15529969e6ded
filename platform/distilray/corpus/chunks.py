"""Input files of a recipe, and their division into chunks that tasks read independently."""

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
from distilray.corpus.sources.other_formats import is_binary, suggested_fix
from distilray.corpus.sources.raw_documents import EMPTY, TruncatedFileError
from distilray.errors import InputError
from distilray.formats.lines import FileRange
from distilray.formats.streams import EmptyFileError, split_suffix
from distilray.runtime import storage
from distilray.runtime.file_search import find_files

_MB = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """A file of a source. `source` is an index into the sources of the recipe; `name` becomes the `file` column."""

    source: int
    uri: str
    name: str


@dataclass(frozen=True)
class Chunk:
    """Input of one task: consecutive file ranges of one source. `number` is its position in the corpus."""

    number: int
    source: int
    ranges: tuple[FileRange, ...]

    @property
    def stored_bytes(self) -> int:
        """Size of the ranges as stored."""
        return sum(file_range.stored_bytes for file_range in self.ranges)

    def to_json(self) -> dict[str, Any]:
        """Return the chunk as JSON types, to send it to a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Chunk":
        """Rebuild a chunk from `to_json`."""
        return cls(values["number"], values["source"], tuple(FileRange(**fields) for fields in values["ranges"]))


def source_files(config: BuildCorpusConfig) -> list[SourceFile]:
    """Return the files of all sources, ordered by source and then by name.

    Raises:
        InputError: if a source has no files, or two sources contain the same file.
    """
    files: list[SourceFile] = []
    seen: dict[str, str] = {}
    for number, source in enumerate(config.sources):
        for uri, name in _files(source):
            if uri in seen:
                raise InputError(f"{uri}: listed twice in sources ({seen[uri]}, {source.path}); remove one")
            seen[uri] = source.path
            files.append(SourceFile(number, uri, name))
    return files


def unsupported_files(config: BuildCorpusConfig) -> str:
    """Describe the files in folders and patterns whose format no source reads, and how to fix them; "" if none."""
    files = [uri for source in config.sources for uri in find_files(resolve_sample(source.path)) if suggested_fix(uri)]
    examples = {suggested_fix(uri): uri.rpartition("/")[2] for uri in reversed(files)}
    fixes = "; ".join(f"{name}: {fix}" for fix, name in examples.items())
    return f"{len(files):,} files ({_suffixes(files)}): {fixes}" if files else ""


def check_inputs(config: BuildCorpusConfig, files: list[SourceFile]) -> int:
    """Check the start of every file and return their total size in bytes.

    Raises:
        InputError: if a file does not match the kind of its source, all files of a source are empty, or a dump is
            truncated and `fault_tolerance` does not allow that.
    """

    def is_empty(file: SourceFile) -> bool:
        source = config.sources[file.source]
        try:
            SOURCE_KINDS[source.kind].check_file(source, file.uri)
        except EmptyFileError:
            return True
        except TruncatedFileError:
            if not config.fault_tolerance.allows_truncated_files:
                raise
        return False

    with ThreadPoolExecutor(storage.READ_THREADS) as threads:
        empty = list(threads.map(is_empty, files))
        sizes = list(threads.map(storage.file_size, [file.uri for file in files]))
    for number, source in enumerate(config.sources):
        flags = [flag for file, flag in zip(files, empty, strict=True) if file.source == number]
        if all(flags):
            problem = "the file is empty" if len(flags) == 1 else f"all {len(flags):,} files are empty"
            raise InputError(f"{source.path}: {problem}; remove this source, or replace its files")
    return sum(size or 0 for size in sizes)


def plan_chunks(config: BuildCorpusConfig, files: list[SourceFile]) -> list[Chunk]:
    """Divide all files into chunks, independently of the number of workers."""
    chunk_bytes = int(config.chunk_mb * _MB)

    def split(file: SourceFile) -> list[FileRange]:
        source = config.sources[file.source]
        file_ranges = SOURCE_KINDS[source.kind].file_ranges(source, file.uri, file.name, chunk_bytes=chunk_bytes)
        return file_ranges or [FileRange(file.uri, file.name, 0, 0, EMPTY, 0)]

    with ThreadPoolExecutor(storage.READ_THREADS) as threads:
        ranges_by_file = list(threads.map(split, files))
    packed: list[tuple[int, list[FileRange]]] = []
    room = 0  # bytes
    for file, file_ranges in zip(files, ranges_by_file, strict=True):
        for file_range in file_ranges:
            if not packed or packed[-1][0] != file.source or file_range.stored_bytes > room:
                packed.append((file.source, []))
                room = chunk_bytes
            packed[-1][1].append(file_range)
            room -= file_range.stored_bytes
    return [Chunk(number, source, tuple(ranges)) for number, (source, ranges) in enumerate(packed)]


def _files(source: Source) -> list[tuple[str, str]]:
    """Return the URI and name of each file of a source. In folders and patterns, files of other kinds are skipped."""
    path = resolve_sample(source.path)
    if "://" not in path:
        path = os.path.abspath(path)  # workers have different working directories
    files = find_files(path)
    if "*" not in path and not storage.is_folder(path):
        if fix := suggested_fix(path):
            raise InputError(f"{source.path}: no source reads this format; {fix}")
        return [(path, path.rpartition("/")[2])]
    folder = path.partition("*")[0].rpartition("/")[0] if "*" in path else path.rstrip("/")
    inputs = [uri for uri in files if SOURCE_KINDS[source.kind].is_input(uri) and not is_binary(uri)]
    if not inputs:
        fix = next(filter(None, map(suggested_fix, files)), "set another kind")
        raise InputError(
            f"{source.path}: none of {len(files):,} files belongs to a source of kind '{source.kind}' "
            f"({_suffixes(files)}); {fix}"
        )
    names = [uri.removeprefix(folder + "/") for uri in inputs]
    return [(uri, unquote(name) if "://" in uri else name) for uri, name in zip(inputs, names, strict=True)]


def _suffixes(files: list[str]) -> str:
    """Return the most frequent suffixes with their counts, for messages."""
    counts = Counter(split_suffix(file)[2] or "no suffix" for file in files)
    return ", ".join(f"{suffix} {count:,}" for suffix, count in counts.most_common(3))
