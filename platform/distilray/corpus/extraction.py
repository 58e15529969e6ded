"""A part of the input into a file of clean documents, with the counts of all that was read."""

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
from distilray.corpus.sources.ranges import EMPTY, HEADING, RawDocument
from distilray.corpus.wikitext.cleaning import HOLE, UNKNOWN, count_templates, unknown_names
from distilray.corpus.writing_systems import count_words
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange
from distilray.runtime import storage
from distilray.schemas import DOCUMENTS

CONTAMINATED = "contaminated"
_MB = 1 << 20
_BATCH_BYTES = 2 * _MB  # of clean text, written at a time
_KEY = pa.binary(16)

# The columns of a work file behind those of a document; keys of bands and signatures follow where near duplicates are
# looked for.
_COUNTED = pa.schema(
    [(name, pa.int64()) for name in ("words", "tokens", "residue", "holes")] + [("id_key", _KEY), ("text_key", _KEY)]
)


@dataclass(frozen=True)
class ScreeningData:
    """What documents are compared with, made once for all parts."""

    evaluation: EvaluationNgrams | None = None
    tokenizer_json: str | None = None


@dataclass
class ChunkCounts:
    """The counts of a part. In it: `read` = `documents` + all of `dropped`; `refused` documents were never read.

    Attributes:
        quarantined: places in quarantine by reason; `refused` of them are documents, the others damage of a file.
        lost_bytes: of the files as stored, that damage made unreadable.
        text_bytes: of the documents before cleaning, in UTF-8.
        unknown_templates: uses between words, by name, of templates that no rule covers; a limited number of names.
        contaminated: documents that shared an n-gram, by evaluation set.
        seconds: by the clock and by stage; like `cpu_seconds` measured, and not the same in two runs.
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
    """Return the file of the cleaned documents of a part."""
    return storage.join(folder, "work/parts", f"{number:06d}.parquet")


def quarantine_file(folder: str, number: int) -> str:
    """Return the file of what could not be read of a part, as JSON lines; absent when all was."""
    return storage.join(folder, "pieces/quarantine", f"{number:06d}.jsonl")


def extract_chunk(
    part: Chunk,
    config: BuildCorpusConfig,
    folder: str,
    screen: ScreeningData,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> ChunkCounts:
    """Read a part, write its documents and what is in quarantine, and return its counts."""
    # Pages become many small objects without cycles, which the collector would visit again and again.
    gc.set_threshold(20_000, 10, 10)
    work = Extraction(part, config, screen, clock)
    began = time.process_time()
    with storage.FileWriter(chunk_file(folder, part.number)) as file:
        with pq.ParquetWriter(file, work.schema, compression="zstd") as writer:
            for batch in work.batches():
                with work.timed("write"):
                    writer.write_table(batch)
        work.facts.file_bytes = file.bytes
    if work.quarantine:
        lines = [json.dumps(_quarantine_entry(row), ensure_ascii=False) + "\n" for row in work.quarantine]
        storage.write_bytes(quarantine_file(folder, part.number), "".join(lines).encode())
    facts = work.facts
    facts.cpu_seconds = time.process_time() - began
    assert facts.read == facts.documents + sum(facts.dropped.values()), "a document was neither kept nor dropped"
    return facts


def _quarantine_entry(row: BadRow) -> dict[str, Any]:
    entry = asdict(row)
    del entry["row"]  # unknown where a file is read in ranges
    return entry


def chunk_schema(config: BuildCorpusConfig) -> pa.Schema:
    """The schema of a file of work."""
    near = config.duplicates.near
    bands = [(f"band_{band:02d}", pa.uint64()) for band in range(near.bands)] if near else []
    signature = [("signature", pa.binary(near.bands * near.rows_per_band))] if near else []
    return pa.schema([*DOCUMENTS, *_COUNTED, *[pa.field(name, kind) for name, kind in bands + signature]])


class Extraction:
    """Documents of one part. `facts` and `quarantine` are complete when `batches` has ended."""

    def __init__(
        self, part: Chunk, config: BuildCorpusConfig, screen: ScreeningData, clock: Callable[[], float]
    ) -> None:
        self.schema = chunk_schema(config)
        self.facts = ChunkCounts(part.number, part.source, part.stored_bytes)
        self.quarantine: list[BadRow] = []
        self._part, self._config, self._screen, self._clock = part, config, screen, clock
        self._source: Source = config.sources[part.source]
        self._kind = SOURCE_KINDS[self._source.kind]
        self._tokenizer = Tokenizer.from_str(screen.tokenizer_json) if screen.tokenizer_json else None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the seconds of the block for a stage."""
        started = self._clock()
        try:
            yield
        finally:
            self.facts.seconds[stage] = self.facts.seconds.get(stage, 0.0) + self._clock() - started

    def batches(self) -> Iterator[pa.Table]:
        """The documents that are kept, in order, as tables of about 2 MB of text."""
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
        for file_range in self._part.ranges:
            found = iter(self._documents(file_range, limit))
            while True:
                with self.timed("read"):
                    raw = next(found, None)
                if raw is None:
                    break
                if isinstance(raw, BadRow):
                    self._put_in_quarantine(raw)
                    continue
                self.facts.read += 1
                self.facts.text_bytes += raw.text_bytes
                if raw.headings:
                    self.facts.sentences_dropped[HEADING] += raw.headings
                yield file_range.name, raw

    def _documents(self, part: FileRange, limit: int) -> Iterator[RawDocument | BadRow]:
        """The documents of a range; a file without any is one dropped document."""
        documents = self._kind.read_documents(self._source, part, max_document_bytes=limit)
        first = None if part.form == EMPTY else next(documents, None)
        if first is not None:
            yield first
            yield from documents
        elif part.form == EMPTY or storage.file_size(part.uri) == part.stored_bytes:
            yield RawDocument(part.name, "", "", 0, dropped=EMPTY)

    def _put_in_quarantine(self, entry: BadRow) -> None:
        self.quarantine.append(entry)
        self.facts.quarantined[entry.reason] += 1
        self.facts.lost_bytes += entry.lost_bytes
        self.facts.refused += entry.lost_bytes == 0

    def _sentences(self, raw: RawDocument) -> list[str] | None:
        """The sentences of a document, None when it is dropped."""
        reason = raw.dropped
        sentences: list[str] = []
        if reason is None:
            sentences = self._clean(raw)
            with self.timed("filter"):
                reason = text_drop_reason(sentences, self._config.filters)
        if reason is None and self._screen.evaluation is not None and self._config.decontamination is not None:
            with self.timed("decontaminate"):
                reason, sentences = self._decontaminate(
                    sentences, self._screen.evaluation, self._config.decontamination
                )
        if reason is not None:
            self.facts.dropped[reason] += 1
            return None
        return sentences

    def _clean(self, raw: RawDocument) -> list[str]:
        """The sentences of a document without those that have a mark."""
        with self.timed("clean"):
            text = self._kind.prose(self._source, raw)
        with self.timed("split"):
            sentences = split_sentences(text, self._language(raw))
        if UNKNOWN in text:
            sentences = self._without_unknown_templates(sentences)
        whole = [sentence for sentence in sentences if HOLE not in sentence] if HOLE in text else sentences
        self.facts.sentences_dropped["formula_or_code"] += len(sentences) - len(whole)
        return whole

    def _language(self, raw: RawDocument) -> str:
        return self._source.language or self._config.filters.language or raw.site.language

    def _without_unknown_templates(self, sentences: list[str]) -> list[str]:
        names = [name for sentence in sentences for name in unknown_names(sentence)]
        count_templates(self.facts.unknown_templates, Counter(names))
        kept = [sentence for sentence in sentences if UNKNOWN not in sentence]
        self.facts.sentences_dropped["unknown_template"] += len(sentences) - len(kept)
        return kept

    def _decontaminate(
        self, sentences: list[str], evaluation: EvaluationNgrams, config: DecontaminationConfig
    ) -> tuple[str | None, list[str]]:
        found = matching_sets(evaluation, sentences)
        if not found:
            return None, sentences
        self.facts.contaminated.update(name for bit, name in enumerate(evaluation.names) if found >> bit & 1)
        if config.drop == "document":
            return CONTAMINATED, []
        masks = matching_sets_by_sentence(evaluation, sentences)
        kept = [sentence for sentence, mask in zip(sentences, masks, strict=True) if not mask]
        self.facts.sentences_dropped[CONTAMINATED] += len(sentences) - len(kept)
        return text_drop_reason(kept, self._config.filters), kept

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
        near, documents = self._config.duplicates.near, [row["sentences"] for row in rows]
        self.facts.documents += len(rows)
        if self._tokenizer is not None:
            with self.timed("count"):
                for row in rows:
                    encoded = self._tokenizer.encode_batch_fast(row["sentences"], add_special_tokens=False)
                    row["tokens"] = sum(map(len, encoded))
        table = pa.Table.from_pylist(rows, schema=pa.schema([*DOCUMENTS, *_COUNTED]))
        if near is not None:
            with self.timed("fingerprint"):
                made = signatures(documents, near)
                for band, keys in enumerate(band_keys(made, near).T):
                    table = table.append_column(f"band_{band:02d}", pa.array(keys))
                packed = [row.tobytes() for row in pack_signatures(made)]
                table = table.append_column("signature", pa.array(packed, self.schema.field("signature").type))
        return table.cast(self.schema)
