"""The dumps that a recipe names: resolved, checked, described."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.documents import DumpFile
from distilray.corpus.wikipedia import open_dump, read_pages
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.sample import resolve


def dump_files(config: BuildCorpusConfig) -> list[DumpFile]:
    """The dumps of a recipe in its order.

    Raises:
        InputError: a dump is named twice, which would give every document of it twice.
    """
    found: list[DumpFile] = []
    total = 0
    for source in config.sources:
        uri = resolve(source.path)
        if any(uri == other.uri for other in found):
            raise InputError(f"{source.path}: given twice in sources; remove one")
        found.append(DumpFile(uri, source.name, PurePosixPath(uri).name, source.licence, total))
        total += storage.file_size(uri) or 0
    return found


def input_uris(config: BuildCorpusConfig) -> Mapping[str, str]:
    """What the job reads, by the names that its manifest uses."""
    return {f"source_{index}": dump.uri for index, dump in enumerate(dump_files(config))}


def check_dump(dump: DumpFile) -> None:
    """Reads up to the first page.

    Raises:
        InputError: not a dump, or one without pages.
    """
    if next(read_pages(open_dump(dump.uri), max_page_bytes=1 << 20), None) is None:
        raise InputError(f"{dump.uri}: a dump without pages; fetch it again")
