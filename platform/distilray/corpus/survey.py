"""Survey of unknown text: kinds of files, columns, language and size, from samples of the files."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from distilray.config.corpus import Source
from distilray.config.sample import resolve_sample
from distilray.corpus.filters import detect_language
from distilray.corpus.sources.charsets import EncodingError, decode
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.corpus.sources.other_formats import is_binary, suggested_fix
from distilray.corpus.text_columns import (
    HEAD_BYTES,
    FileSettings,
    csv_settings,
    has_wrapped_lines,
    head_bytes,
    json_lines_settings,
    parquet_settings,
    read_head,
)
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.streams import EmptyFileError, split_suffix
from distilray.runtime import storage
from distilray.runtime.file_search import find_files

_FILES = 12  # files that are sampled per kind
_MAX_DOCUMENT_BYTES = 16 << 20
_LANGUAGE_DOCUMENTS = 200
_COMPRESSION = 3.5  # text bytes per stored byte of a compressed file
_BOOK_BYTES = 50_000  # wrapped text files above this size are books
_SMALL_FILE_BYTES = 200_000  # a text file up to this size is one document if there are many
_MANY_FILES = 20
_MAX_UNREADABLE = 0.1  # share of the bytes of all files above which kinds that cannot be read are an error
_LONG_LINE_BYTES = 1_000_000
_BLANK_SHARE = 0.05  # share of blank lines above which they separate documents
_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)
_ORDER = ("wikipedia", "parquet", "jsonl", "csv", "text")  # `is_input` of these kinds is disjoint


@dataclass(frozen=True)
class SurveyedSource:
    """A kind of file below a path.

    Attributes:
        source: settings that `build_corpus` reads the files with.
        reason: why these settings were chosen.
        files: number of files.
        stored_bytes: size of the files.
        text_bytes: estimated bytes of text.
        samples: texts of some documents.
    """

    source: Source
    reason: str
    files: int
    stored_bytes: int
    text_bytes: int
    samples: Sequence[str]

    @property
    def documents(self) -> int:
        """Estimated number of documents."""
        if self.source.kind == "books" or getattr(self.source, "document_per", None) == "file":
            return self.files
        return round(self.text_bytes / max(1.0, statistics.fmean(len(sample.encode()) for sample in self.samples)))


@dataclass(frozen=True)
class Survey:
    """Result of a survey.

    Attributes:
        language: ISO 639 code of most of the documents.
        language_share: share of the sampled documents in that language.
        skipped: reasons for which files are not read, with the numbers of these files.
    """

    sources: Sequence[SurveyedSource]
    language: str
    language_share: float
    skipped: Mapping[str, int]

    @property
    def text_bytes(self) -> int:
        return sum(source.text_bytes for source in self.sources)

    @property
    def documents(self) -> int:
        return sum(source.documents for source in self.sources)

    @property
    def samples(self) -> list[str]:
        return [sample for source in self.sources for sample in source.samples]


def survey_text(path: str, *, text_column: str | None = None) -> Survey:
    """Survey a file, a folder, or the files that match a pattern.

    Args:
        text_column: column of the text in tables; default: detected.

    Raises:
        InputError: there is no file with text, or no source reads most of the files.
    """
    files, skipped = _files_by_kind(path)
    sources: list[SurveyedSource] = []
    errors: list[InputError] = []
    for kind, uris in files.items():
        try:
            sources.append(_survey_kind(kind, path, uris, text_column))
        except InputError as error:
            errors.append(error)
            skipped[f"of kind {kind} ({error})"] += len(uris)
    read = sum(source.stored_bytes for source in sources)
    if errors and read < (1 - _MAX_UNREADABLE) * sum(map(_total_size, files.values())):
        fix = (
            "; or name the other files with a pattern, such as 'FOLDER/*.txt'"
            if sum(map(len, files.values())) > 1
            else ""
        )
        raise InputError(f"{errors[0]}{fix}")
    languages = Counter(detect_language(text)[0] for source in sources for text in source.samples[:_LANGUAGE_DOCUMENTS])
    (language, count), *_ = languages.most_common(1)
    return Survey(sources, language, count / languages.total(), skipped)


def _files_by_kind(path: str) -> tuple[dict[str, list[str]], Counter[str]]:
    """Return the files by kind of source, and the numbers of the other files by reason."""
    files: dict[str, list[str]] = {}
    skipped: Counter[str] = Counter()
    resolved = resolve_sample(path)
    uris = find_files(resolved)
    for uri in uris:
        kind = next((kind for kind in _ORDER if SOURCE_KINDS[kind].is_input(uri)), None)
        if kind is None and uri == resolved and not suggested_fix(uri) and b"\0" not in head_bytes(uri):
            kind = "text"  # the user has named this file
        if not storage.file_size(uri):
            skipped["empty"] += 1
        elif kind is None or is_binary(uri):
            skipped[split_suffix(uri)[2] or "binary"] += 1
        else:
            files.setdefault(kind, []).append(uri)
    if not files:
        fix = next(filter(None, map(suggested_fix, uris)), "provide .txt, .jsonl, .csv, .parquet or a wiki dump")
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        raise InputError(f"{path}: no text in {len(uris):,} file(s) ({reasons}); {fix}")
    return files, skipped


def _survey_kind(kind: str, path: str, files: Sequence[str], text_column: str | None) -> SurveyedSource:
    sampled = files[:: max(1, len(files) // _FILES)][:_FILES]
    chosen = _CHOOSERS[kind](files, sampled, text_column)
    source = _SOURCE.validate_python({"kind": kind, "path": path, "name": kind, **chosen.values})
    samples: list[str] = []
    problems: list[str] = []
    estimates = []  # (stored bytes, text bytes per stored byte)
    for uri in sampled:
        texts, ratio, bad = _sample(source, uri, chosen.text_share)
        samples += texts
        problems += bad
        estimates.append((storage.file_size(uri) or 0, ratio))
    if not samples:
        detail = f" ({problems[0]})" if problems else ""
        raise InputError(f"{path}: no readable text in {len(files):,} {kind} file(s){detail}; check the files")
    ratio = sum(size * ratio for size, ratio in estimates) / max(1, sum(size for size, _ in estimates))
    total = _total_size(files)
    return SurveyedSource(source, chosen.reason, len(files), total, round(total * ratio), samples)


def _sample(source: Source, uri: str, text_share: float) -> tuple[list[str], float, list[str]]:
    """Return texts from the start of a file, the bytes of text per stored byte, and problems with documents."""
    kind = SOURCE_KINDS[source.kind]
    try:
        kind.check_file(source, uri)
    except EmptyFileError:
        return [], 0.0, []
    file_range = kind.file_ranges(source, uri, uri, chunk_bytes=HEAD_BYTES)[0]
    texts: list[str] = []
    problems: list[str] = []
    size = 0
    for document in kind.read_documents(source, file_range, max_document_bytes=_MAX_DOCUMENT_BYTES):
        if isinstance(document, BadRow):
            problems.append(document.detail)
        elif document.dropped is None and (text := kind.prose(source, document)):
            texts.append(text)
            size += len(text.encode())
        if size > 2 * HEAD_BYTES and file_range.form == "whole":
            return texts, text_share * (_COMPRESSION if split_suffix(uri)[1] else 1.0), problems
    return texts, size / max(1, file_range.stored_bytes), problems


def _choose_text(files: Sequence[str], sampled: Sequence[str], text_column: str | None) -> FileSettings:
    """Choose between books and the three ways to divide a text file into documents."""
    heads = [_any_head(uri) for uri in sampled]
    median_size = statistics.median(storage.file_size(uri) or 0 for uri in sampled)
    wrapped = has_wrapped_lines(heads)
    many = len(files) >= _MANY_FILES
    if many and wrapped and median_size > _BOOK_BYTES:
        return FileSettings({"kind": "books"}, "many long files with wrapped lines")
    if many and median_size <= _SMALL_FILE_BYTES:
        return FileSettings({"document_per": "file", "hard_wrapped": wrapped}, "many small files, one document each")
    heads = [read_head(uri) for uri in sampled]
    blank, lines = (sum(head.count(line_end) for head in heads) for line_end in ("\n\n", "\n"))
    if not lines and median_size > _LONG_LINE_BYTES:
        raise InputError(
            f"{sampled[0]}: a single line of {median_size / 1e6:,.1f} MB would be a single document; divide it, for "
            "example with: fold -s -w 1000 FILE > NEW_FILE"
        )
    if blank > _BLANK_SHARE * lines:
        reason = f"blank lines separate the documents{', whose lines are wrapped' if wrapped else ''}"
        return FileSettings({"document_per": "blank_line", "hard_wrapped": wrapped}, reason)
    return FileSettings({"document_per": "line"}, "every line is a document")


def _any_head(uri: str) -> str:
    """Return the start of a text file in any encoding; empty if it is not text."""
    try:
        return decode(head_bytes(uri))[0].replace("\r\n", "\n")
    except EncodingError:
        return ""


def _total_size(files: Sequence[str]) -> int:
    return sum(storage.file_size(uri) or 0 for uri in files)


_CHOOSERS: Mapping[str, Callable[[Sequence[str], Sequence[str], str | None], FileSettings]] = {
    "wikipedia": lambda files, sampled, text_column: FileSettings({}, "a dump of MediaWiki"),
    "parquet": lambda files, sampled, text_column: parquet_settings(sampled, text_column),
    "jsonl": lambda files, sampled, text_column: json_lines_settings(sampled, text_column),
    "csv": lambda files, sampled, text_column: csv_settings(sampled, text_column),
    "text": _choose_text,
}
