"""The kinds of sources, one row each: what a recipe names, and the functions that read it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distilray.config.corpus import WikipediaSource
from distilray.corpus.sources import books, json_lines, separated_values, texts, wikipedia
from distilray.corpus.sources import parquet_rows as parquet_rows_module
from distilray.corpus.sources.ranges import RawDocument
from distilray.corpus.wikitext.cleaning import clean_wikitext
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange


@dataclass(frozen=True)
class SourceKind:
    """How a kind of source is read. The first argument of each function but `is_input` is the source of the recipe.

    Attributes:
        is_input: whether a file of a folder belongs to the kind, by its name.
        check_file: looks at a file; raises InputError when it is none of the kind.
        file_ranges: (source, uri, name, chunk_bytes=) -> the ranges of a file.
        read_documents: (source, range, max_document_bytes=) -> its documents, and what could not be read.
        prose: (source, document) -> paragraphs with a blank line between.
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
    "parquet": _kind(parquet_rows_module),
    "jsonl": _kind(json_lines),
    "csv": _kind(separated_values),
    "tsv": _kind(separated_values),
    "text": _kind(texts),
}
