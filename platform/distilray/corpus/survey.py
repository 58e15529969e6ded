"""Survey of unknown text: kinds of files, columns, language and size, from samples of the files."""

import csv
import io
import json
import statistics
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import TypeAdapter

from distilray.config.corpus import Source
from distilray.config.sample import resolve_sample
from distilray.corpus.filters import detect_language
from distilray.corpus.sentences import split_sentences
from distilray.corpus.sources.book_layout import is_wrapped
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.corpus.sources.other_formats import suggested_fix
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.parquet import ParquetTable, is_text
from distilray.formats.streams import UnreadableError, read_chunks, split_suffix
from distilray.runtime import storage
from distilray.runtime.file_search import find_files

_FILES = 12  # files that are sampled per kind
_SAMPLE_BYTES = 256 << 10  # stored bytes that are sampled per file
_FIRST_ROWS = 100  # rows that are sampled per file
_MAX_DOCUMENT_BYTES = 16 << 20
_LANGUAGE_DOCUMENTS = 200
_COMPRESSION = 3.5  # text bytes per stored byte of a compressed file
_BOOK_BYTES = 50_000  # wrapped text files above this size are books
_SMALL_FILE_BYTES = 200_000  # a text file up to this size is one document if there are many
_MANY_FILES = 20
_BLANK_SHARE = 0.05  # share of blank lines above which they separate documents
_DELIMITERS = ",;"
_TEXT_COLUMNS = ("text", "content", "body", "document", "article", "sentence")  # preferred names
_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)
_ORDER = ("wikipedia", "parquet", "jsonl", "csv", "text")  # `is_input` of these kinds is disjoint


@dataclass(frozen=True)
class SurveyedSource:
    """A kind of file below a path.

    Attributes:
        source: settings that `build_corpus` reads the files with.
        reason: why these settings were chosen.
        files: number of files.
        text_bytes: estimated bytes of text.
        samples: texts of some documents.
    """

    source: Source
    reason: str
    files: int
    text_bytes: int
    samples: Sequence[str]


@dataclass(frozen=True)
class Survey:
    """Result of a survey.

    Attributes:
        language: ISO 639 code of most of the documents.
        language_share: share of the sampled documents in that language.
        skipped: file suffixes that no source reads, with their numbers.
    """

    sources: Sequence[SurveyedSource]
    language: str
    language_share: float
    skipped: Mapping[str, int]

    @property
    def text_bytes(self) -> int:
        return sum(source.text_bytes for source in self.sources)

    @property
    def samples(self) -> list[str]:
        return [sample for source in self.sources for sample in source.samples]

    @property
    def sentences_per_document(self) -> float:
        """Median number of sentences of a sampled document."""
        return statistics.median(len(split_sentences(sample, self.language)) for sample in self.samples)


def survey_text(path: str) -> Survey:
    """Survey a file, a folder, or the files that match a pattern.

    Raises:
        InputError: there is no file with text, or no source reads the files.
    """
    files: dict[str, list[str]] = {}
    skipped: Counter[str] = Counter()
    uris = find_files(resolve_sample(path))
    for uri in uris:
        kind = next((kind for kind in _ORDER if SOURCE_KINDS[kind].is_input(uri)), None)
        if kind is None or not storage.file_size(uri):
            skipped[split_suffix(uri)[2] or "no suffix"] += 1
        else:
            files.setdefault(kind, []).append(uri)
    if not files:
        fix = next(filter(None, map(suggested_fix, uris)), "provide .txt, .jsonl, .csv, .parquet or a wiki dump")
        raise InputError(f"{path}: no text in {len(uris):,} file(s); {fix}")
    sources = [_survey_kind(kind, path, uris) for kind, uris in files.items()]
    languages = Counter(detect_language(text)[0] for source in sources for text in source.samples[:_LANGUAGE_DOCUMENTS])
    if not languages:
        raise InputError(f"{path}: no readable text in {sum(map(len, files.values())):,} file(s); check the files")
    (language, count), *_ = languages.most_common(1)
    return Survey(sources, language, count / languages.total(), skipped)


def _survey_kind(kind: str, path: str, files: Sequence[str]) -> SurveyedSource:
    sampled = files[:: max(1, len(files) // _FILES)][:_FILES]
    settings, reason = _CHOOSERS[kind](files, sampled)
    source = _SOURCE.validate_python({"kind": kind, "path": path, "name": kind, **settings})
    samples: list[str] = []
    estimates = []  # (stored bytes, text bytes per stored byte)
    for uri in sampled:
        texts, ratio = _sample(source, uri)
        samples += texts
        estimates.append((storage.file_size(uri) or 0, ratio))
    ratio = sum(size * ratio for size, ratio in estimates) / max(1, sum(size for size, _ in estimates))
    total = sum(storage.file_size(uri) or 0 for uri in files)
    return SurveyedSource(source, reason, len(files), round(total * ratio), samples)


def _sample(source: Source, uri: str) -> tuple[list[str], float]:
    """Return texts from the start of a file, and the bytes of text per stored byte."""
    kind = SOURCE_KINDS[source.kind]
    kind.check_file(source, uri)
    file_range = kind.file_ranges(source, uri, uri, chunk_bytes=_SAMPLE_BYTES)[0]
    texts, size = [], 0
    for document in kind.read_documents(source, file_range, max_document_bytes=_MAX_DOCUMENT_BYTES):
        if isinstance(document, BadRow) or document.dropped is not None:
            continue
        texts.append(kind.prose(source, document))
        size += len(texts[-1].encode())
        if size > 2 * _SAMPLE_BYTES and file_range.form == "whole":
            return texts, _COMPRESSION if split_suffix(uri)[1] else 1.0
    return texts, size / max(1, file_range.stored_bytes)


def _choose_text(files: Sequence[str], sampled: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Choose between books and the three ways to divide a text file into documents."""
    heads = [_head(uri) for uri in sampled]
    median_size = statistics.median(storage.file_size(uri) or 0 for uri in sampled)
    wrapped = sum(map(is_wrapped, heads)) > len(heads) / 2
    if wrapped and median_size > _BOOK_BYTES:
        return {"kind": "books"}, "long files with wrapped lines"
    if len(files) >= _MANY_FILES and median_size <= _SMALL_FILE_BYTES:
        return {"document_per": "file", "hard_wrapped": wrapped}, "many small files, one document each"
    blank, lines = (sum(head.count(line_end) for head in heads) for line_end in ("\n\n", "\n"))
    if blank > _BLANK_SHARE * lines:
        return {"document_per": "blank_line", "hard_wrapped": wrapped}, "blank lines separate the documents"
    return {"document_per": "line"}, "every line is a document"


def _choose_json_lines(files: Sequence[str], sampled: Sequence[str]) -> tuple[dict[str, Any], str]:
    values: dict[str, list[str]] = {}
    for line in [line for uri in sampled for line in _head(uri).split("\n")[:_FIRST_ROWS] if line.strip()]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        for key, value in row.items() if isinstance(row, dict) else ():
            if isinstance(value, str):
                values.setdefault(key, []).append(value)
    return _text_column(sampled[0], values)


def _choose_csv(files: Sequence[str], sampled: Sequence[str]) -> tuple[dict[str, Any], str]:
    values: dict[str, list[str]] = {}
    delimiter = None
    for uri in sampled:
        tabs = split_suffix(uri)[2] in (".tsv", ".tab")
        head = _head(uri)
        delimiter = "\t" if tabs else max(_DELIMITERS, key=head.partition("\n")[0].count)
        for row in islice(csv.DictReader(io.StringIO(head), delimiter=delimiter), _FIRST_ROWS):
            for key, value in row.items():
                if isinstance(key, str) and isinstance(value, str):
                    values.setdefault(key, []).append(value)
    settings, reason = _text_column(sampled[0], values)
    return ({**settings, "delimiter": delimiter} if delimiter == ";" else settings), reason


def _choose_parquet(files: Sequence[str], sampled: Sequence[str]) -> tuple[dict[str, Any], str]:
    values: dict[str, list[str]] = {}
    for uri in sampled:
        try:
            with ParquetTable(uri) as table:
                names = [field.name for field in table.schema if is_text(field.type)]
                batch = next(table.batches(names, rows=_FIRST_ROWS), None)
        except UnreadableError as error:
            raise InputError(f"{uri}: {error}") from None
        if batch is None:
            continue
        for name in names:
            values.setdefault(name, []).extend(filter(None, batch.column(name).to_pylist()))
    return _text_column(sampled[0], values)


_CHOOSERS: Mapping[str, Callable[[Sequence[str], Sequence[str]], tuple[dict[str, Any], str]]] = {
    "wikipedia": lambda files, sampled: ({}, "a dump of MediaWiki"),
    "parquet": _choose_parquet,
    "jsonl": _choose_json_lines,
    "csv": _choose_csv,
    "text": _choose_text,
}


def _text_column(uri: str, values: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], str]:
    """Choose the column of the text: one with a usual name, else the one with the longest values."""
    if not values:
        raise InputError(
            f"{uri}: no column with text; convert the file, or name the column in a recipe of build_corpus"
        )
    usual = [name for name in _TEXT_COLUMNS if name in values]
    longest = max(values, key=lambda name: sum(map(len, values[name])))
    column = usual[0] if usual else longest
    return {"text_column": column}, f"text in column '{column}'" + ("" if usual else ", whose values are the longest")


def _head(uri: str) -> str:
    """Return the complete lines at the start of a text file, with undecodable bytes replaced."""
    head = bytearray()
    try:
        for chunk in read_chunks(uri):
            head += chunk
            if len(head) >= _SAMPLE_BYTES:
                del head[head.rfind(b"\n") + 1 or len(head) :]
                break
    except UnreadableError as error:
        if not head:
            raise InputError(f"{uri}: {error}") from None
    return bytes(head).removeprefix(BOM_UTF8).decode(errors="replace").replace("\r\n", "\n")
