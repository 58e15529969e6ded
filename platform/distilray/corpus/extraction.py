"""Extraction: reads one chunk of the input and writes its clean documents, with counts of everything that was read."""

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from distilray.config.corpus import BuildCorpusConfig, DecontaminationConfig, Source
from distilray.corpus.chunks import Chunk
from distilray.corpus.decontamination import EvaluationNgrams, matching_sets, matching_sets_by_sentence
from distilray.corpus.duplicates import band_keys, pack_signatures, signatures, text_key
from distilray.corpus.filters import count_basic_tokens, text_drop_reason
from distilray.corpus.quality import count_holes, count_residue
from distilray.corpus.sentences import split_sentences
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.corpus.sources.raw_documents import EMPTY, HEADING, RawDocument
from distilray.corpus.wikitext.arguments import HOLE, UNKNOWN, unknown_names
from distilray.corpus.wikitext.cleaning import count_templates
from distilray.corpus.writing_systems import count_words
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from distilray.runtime import storage
from distilray.schemas import DOCUMENTS

CONTAMINATED = "contaminated"
_MB = 1 << 20
_BATCH_BYTES = 2 * _MB  # clean text per written batch
_KEY = pa.binary(16)

# Columns of a work file besides those of a document. The near-duplicate search adds band keys and signatures.
_COUNT_FIELDS = [(name, pa.int64()) for name in ("words", "tokens", "residue", "holes")]
_COUNTED = pa.schema([*_COUNT_FIELDS, ("id_key", _KEY), ("text_key", _KEY)])


@dataclass(frozen=True)
class ScreeningData:
    """Data that every extraction task needs, loaded once."""

    evaluation: EvaluationNgrams | None = None
    tokenizer_json: str | None = None


@dataclass
class ChunkCounts:
    """Counts of one chunk.

    `read` = `documents` + the total of `dropped`. `refused` documents could not be read and are not part of `read`.

    Attributes:
        refused: quarantined documents.
        lost_bytes: stored bytes that damage made unreadable.
        text_bytes: UTF-8 size of the documents before cleaning.
        unknown_templates: uses of templates without a rule inside sentences, by name; see `count_templates`.
        quarantined: quarantine entries by reason: refused documents and damaged sections of files.
        contaminated: documents that share an n-gram with an evaluation set, by set.
        seconds: wall-clock time by step; like `cpu_seconds`, not reproducible.
    """

    number: int
    source: int
    stored_bytes: int
    read: int = 0
    documents: int = 0
    refused: int = 0
    lost_bytes: int = 0
    text_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    sentences_dropped: Counter[str] = field(default_factory=Counter)
    unknown_templates: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    contaminated: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    file_bytes: int = 0


def chunk_file(folder: str, number: int) -> str:
    """Return the URI of the work file with the clean documents of a chunk."""
    return storage.join(folder, "work/chunks", f"{number:06d}.parquet")


def quarantine_file(folder: str, number: int) -> str:
    """Return the URI of the quarantine (JSON lines) of a chunk. The file exists only if the chunk has bad input."""
    return storage.join(folder, "pieces/quarantine", f"{number:06d}.jsonl")


def extract_chunk(
    chunk: Chunk,
    config: BuildCorpusConfig,
    folder: str,
    screening: ScreeningData,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> ChunkCounts:
    """Write the documents and the quarantine of a chunk and return its counts."""
    # Parsing creates many small objects without cycles. Collect garbage less often, because traversing them is slow.
    gc.set_threshold(20_000, 10, 10)
    extraction = Extraction(chunk, config, screening, clock)
    cpu_start = time.process_time()
    with storage.FileWriter(chunk_file(folder, chunk.number)) as file:
        with pq.ParquetWriter(file, extraction.schema, compression="zstd") as writer:
            for batch in extraction.batches():
                with extraction.timed("write"):
                    writer.write_table(batch)
        extraction.counts.file_bytes = file.bytes
    if extraction.quarantine:
        lines = "".join(map(_quarantine_line, extraction.quarantine))
        storage.write_bytes(quarantine_file(folder, chunk.number), lines.encode())
    counts = extraction.counts
    counts.cpu_seconds = time.process_time() - cpu_start
    assert counts.read == counts.documents + sum(counts.dropped.values()), "a document was neither kept nor dropped"
    return counts


def _quarantine_line(row: BadRow) -> str:
    entry = asdict(row)
    del entry["row"]  # unknown when a file is read in ranges
    return json.dumps(entry, ensure_ascii=False) + "\n"


def chunk_schema(config: BuildCorpusConfig) -> pa.Schema:
    near = config.duplicates.near
    bands = [(f"band_{band:02d}", pa.uint64()) for band in range(near.bands)] if near else []
    signature = [("signature", pa.binary(near.bands * near.rows_per_band))] if near else []
    return pa.schema([*DOCUMENTS, *_COUNTED, *[pa.field(name, kind) for name, kind in bands + signature]])


class Extraction:
    """Extracts the documents of one chunk. `counts` and `quarantine` are complete once `batches` is exhausted."""

    def __init__(
        self, chunk: Chunk, config: BuildCorpusConfig, screening: ScreeningData, clock: Callable[[], float]
    ) -> None:
        self.schema = chunk_schema(config)
        self.counts = ChunkCounts(chunk.number, chunk.source, chunk.stored_bytes)
        self.quarantine: list[BadRow] = []
        self._chunk, self._config, self._screening, self._clock = chunk, config, screening, clock
        self._source: Source = config.sources[chunk.source]
        self._kind = SOURCE_KINDS[self._source.kind]
        self._tokenizer = Tokenizer.from_str(screening.tokenizer_json) if screening.tokenizer_json else None

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the wall-clock time of the `with` block to a step."""
        started = self._clock()
        try:
            yield
        finally:
            self.counts.seconds[step] = self.counts.seconds.get(step, 0.0) + self._clock() - started

    def batches(self) -> Iterator[pa.Table]:
        """Yield the kept documents in order, as tables with about 2 MB of text each."""
        rows: list[dict[str, Any]] = []
        size = 0
        for name, raw in self._raw_documents():
            sentences = self._sentences(raw)
            if sentences is None:
                continue
            rows.append(self._row(name, raw, sentences))
            size += sum(map(len, sentences))
            if size >= _BATCH_BYTES:
                yield self._table(rows)
                rows, size = [], 0
        if rows:
            yield self._table(rows)

    def _raw_documents(self) -> Iterator[tuple[str, RawDocument]]:
        limit = int(self._config.max_document_mb * _MB)
        for file_range in self._chunk.ranges:
            documents = iter(self._read_documents(file_range, limit))
            while True:
                with self.timed("read"):
                    raw = next(documents, None)
                if raw is None:
                    break
                if isinstance(raw, BadRow):
                    self._add_to_quarantine(raw)
                    continue
                self.counts.read += 1
                self.counts.text_bytes += raw.text_bytes
                if raw.headings:
                    self.counts.sentences_dropped[HEADING] += raw.headings
                yield file_range.name, raw

    def _read_documents(self, file_range: FileRange, limit: int) -> Iterator[RawDocument | BadRow]:
        """Yield the documents of a range; a single dropped document if the file has none."""
        documents = self._kind.read_documents(self._source, file_range, max_document_bytes=limit)
        first = None if file_range.form == EMPTY else next(documents, None)
        if first is not None:
            yield first
            yield from documents
        elif file_range.form == EMPTY or storage.file_size(file_range.uri) == file_range.stored_bytes:
            yield RawDocument(file_range.name, "", "", 0, dropped=EMPTY)

    def _add_to_quarantine(self, row: BadRow) -> None:
        self.quarantine.append(row)
        self.counts.quarantined[row.reason] += 1
        self.counts.lost_bytes += row.lost_bytes
        self.counts.refused += row.lost_bytes == 0

    def _sentences(self, raw: RawDocument) -> list[str] | None:
        """Return the sentences of a document, or None if it is dropped."""
        reason = raw.dropped
        sentences: list[str] = []
        if reason is None:
            sentences = self._clean(raw)
            with self.timed("filter"):
                reason = text_drop_reason(sentences, self._config.filters)
        if reason is None and self._screening.evaluation is not None and self._config.decontamination is not None:
            evaluation, decontamination = self._screening.evaluation, self._config.decontamination
            with self.timed("decontaminate"):
                reason, sentences = self._decontaminate(sentences, evaluation, decontamination)
        if reason is not None:
            self.counts.dropped[reason] += 1
            return None
        return sentences

    def _clean(self, raw: RawDocument) -> list[str]:
        """Return the sentences of a document except those that contain a placeholder."""
        with self.timed("clean"):
            text = self._kind.prose(self._source, raw)
        with self.timed("split"):
            sentences = split_sentences(text, self._language(raw))
        if UNKNOWN in text:
            sentences = self._without_unknown_templates(sentences)
        complete = [sentence for sentence in sentences if HOLE not in sentence] if HOLE in text else sentences
        self.counts.sentences_dropped["formula_or_code"] += len(sentences) - len(complete)
        return complete

    def _without_unknown_templates(self, sentences: list[str]) -> list[str]:
        names = [name for sentence in sentences for name in unknown_names(sentence)]
        count_templates(self.counts.unknown_templates, Counter(names))
        kept = [sentence for sentence in sentences if UNKNOWN not in sentence]
        self.counts.sentences_dropped["unknown_template"] += len(sentences) - len(kept)
        return kept

    def _decontaminate(
        self, sentences: list[str], evaluation: EvaluationNgrams, config: DecontaminationConfig
    ) -> tuple[str | None, list[str]]:
        sets = matching_sets(evaluation, sentences)
        if not sets:
            return None, sentences
        self.counts.contaminated.update(name for bit, name in enumerate(evaluation.names) if sets >> bit & 1)
        if config.drop == "document":
            return CONTAMINATED, []
        masks = matching_sets_by_sentence(evaluation, sentences)
        kept = [sentence for sentence, mask in zip(sentences, masks, strict=True) if not mask]
        self.counts.sentences_dropped[CONTAMINATED] += len(sentences) - len(kept)
        return text_drop_reason(kept, self._config.filters), kept

    def _language(self, raw: RawDocument) -> str:
        return self._source.language or self._config.filters.language or raw.site.language

    def _row(self, name: str, raw: RawDocument, sentences: list[str]) -> dict[str, Any]:
        with self.timed("count"):
            text = "\n".join(sentences)
            doc_id = f"{self._source.name}:{raw.key}"
            return {
                "doc_id": doc_id,
                "source": self._source.name,
                "title": raw.title,
                "sentences": sentences,
                "file": name,
                "page_id": raw.page_id,
                "revision_id": raw.revision_id,
                "license": self._source.license,
                "words": count_words(sentences),
                "tokens": count_basic_tokens(sentences) if self._tokenizer is None else 0,
                "residue": count_residue(text),
                "holes": count_holes(text, self._language(raw)),
                "id_key": blake2b(doc_id.encode(), digest_size=16).digest(),
                "text_key": text_key(sentences),
            }

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        near = self._config.duplicates.near
        self.counts.documents += len(rows)
        if self._tokenizer is not None:
            with self.timed("count"):
                for row in rows:
                    encoded = self._tokenizer.encode_batch_fast(row["sentences"], add_special_tokens=False)
                    row["tokens"] = sum(map(len, encoded))
        table = pa.Table.from_pylist(rows, schema=pa.schema([*DOCUMENTS, *_COUNTED]))
        if near is not None:
            with self.timed("fingerprint"):
                minhashes = signatures([row["sentences"] for row in rows], near)
                for band, keys in enumerate(band_keys(minhashes, near).T):
                    table = table.append_column(f"band_{band:02d}", pa.array(keys))
                packed = [row.tobytes() for row in pack_signatures(minhashes)]
                table = table.append_column("signature", pa.array(packed, self.schema.field("signature").type))
        return table.cast(self.schema)
