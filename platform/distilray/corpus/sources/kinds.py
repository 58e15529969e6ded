"""The kinds of sources, one row each: what a recipe names, and the functions that read it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distilray.config.corpus import WikipediaSource
from distilray.corpus.cleaning import clean_wikitext
from distilray.corpus.sources import books, json_lines, parquet, separated_values, text, wikipedia
from distilray.corpus.sources.ranges import RawDocument
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange


@dataclass(frozen=True)
class SourceKind:
    """How a kind of source is read. The first argument of each function but `is_input` is the source of the recipe.

    Attributes:
        is_input: whether a file of a folder belongs to the kind, by its name.
        check_file: looks at a file; raises InputError when it is none of the kind.
        file_ranges: (source, uri, name, part_bytes=) -> the ranges of a file.
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


_SEPARATED_VALUES = SourceKind(
    separated_values.is_input,
    separated_values.check_file,
    separated_values.file_ranges,
    separated_values.read_documents,
    separated_values.prose,
)
KINDS: Mapping[str, SourceKind] = {
    "wikipedia": SourceKind(
        wikipedia.is_input, wikipedia.check_file, wikipedia.file_ranges, wikipedia.read_documents, _wikitext_prose
    ),
    "books": SourceKind(books.is_input, books.check_file, books.file_ranges, books.read_documents, books.prose),
    "parquet": SourceKind(
        parquet.is_input, parquet.check_file, parquet.file_ranges, parquet.read_documents, parquet.prose
    ),
    "jsonl": SourceKind(
        json_lines.is_input,
        json_lines.check_file,
        json_lines.file_ranges,
        json_lines.read_documents,
        json_lines.prose,
    ),
    "csv": _SEPARATED_VALUES,
    "tsv": _SEPARATED_VALUES,
    "text": SourceKind(text.is_input, text.check_file, text.file_ranges, text.read_documents, text.prose),
}
