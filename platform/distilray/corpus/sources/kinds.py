"""Source kinds: a table from the `kind` in a recipe to the functions that read it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distilray.config.corpus import WikipediaSource
from distilray.corpus.sources import books, json_lines, parquet_rows, separated_values, texts, wikipedia
from distilray.corpus.sources.raw_documents import RawDocument
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange


@dataclass(frozen=True)
class SourceKind:
    """Functions that read one kind of source. Except for `is_input`, their first argument is the source config.

    Attributes:
        is_input: (name) -> whether a file in a folder belongs to the kind.
        check_file: (source, uri); raises `InputError` if the file does not belong to the kind.
        file_ranges: (source, uri, name, chunk_bytes=) -> ranges of a file.
        read_documents: (source, file_range, max_document_bytes=) -> documents, and `BadRow` for unreadable input.
        prose: (source, document) -> paragraphs separated by blank lines.
    """

    is_input: Callable[[str], bool]
    check_file: Callable[[Any, str], None]
    file_ranges: Callable[..., list[FileRange]]
    read_documents: Callable[..., Iterator[RawDocument | BadRow]]
    prose: Callable[[Any, RawDocument], str]


def _wikitext_prose(source: WikipediaSource, document: RawDocument) -> str:
    return clean_wikitext(document.text, document.site, source.templates)


def _kind(module: Any, prose: Callable[[Any, RawDocument], str] = texts.prose) -> SourceKind:
    return SourceKind(module.is_input, module.check_file, module.file_ranges, module.read_documents, prose)


SOURCE_KINDS: Mapping[str, SourceKind] = {
    "wikipedia": _kind(wikipedia, _wikitext_prose),
    "books": _kind(books, books.prose),
    "parquet": _kind(parquet_rows),
    "jsonl": _kind(json_lines),
    "csv": _kind(separated_values),
    "tsv": _kind(separated_values),
    "text": _kind(texts),
}
