"""Corpus report: documents read, kept and dropped by source, text statistics, and throughput."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.duplicate_search import DUPLICATE_REASONS
from distilray.corpus.quality import per_thousand
from distilray.corpus.wikitext.cleaning import count_templates

# The paper's corpus: 11,038 books and 800 M words. An audit counted about 7,185 unique books (Bandy and Vincent 2021).
BOOKCORPUS = {"books": 11_038, "words": 800_000_000, "unique_books": 7_185}
FULL_DUMP_BYTES = 24_000_000_000  # English Wikipedia in 2025, multistream .bz2
PROJECTED_CORES = (1, 16, 64, 256)
LISTED_TEMPLATES = 50


@dataclass
class SourceReport:
    """Counts of one source.

    `read` = `documents` + the total of `dropped`. `refused` documents are in the quarantine and not part of `read`.
    """

    name: str
    kind: str
    files: int = 0
    stored_bytes: int = 0
    text_bytes: int = 0
    read: int = 0
    documents: int = 0
    refused: int = 0
    lost_bytes: int = 0
    sentences: int = 0
    words: int = 0
    tokens: int = 0
    residue: int = 0
    holes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    sentences_dropped: Counter[str] = field(default_factory=Counter)
    unknown_templates: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    contaminated: Counter[str] = field(default_factory=Counter)
    words_per_document: Counter[int] = field(default_factory=Counter)
    words_per_sentence: Counter[int] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    @property
    def bad_fraction(self) -> float:
        """Fraction of unreadable bytes plus fraction of refused documents."""
        documents = self.read + self.refused
        lost = self.lost_bytes / self.stored_bytes if self.stored_bytes else 0.0
        return lost + (self.refused / documents if documents else 0.0)

    def add_chunk(self, counts: Mapping[str, Any]) -> None:
        """Add the `ChunkCounts` of an extracted chunk."""
        for name in ("stored_bytes", "text_bytes", "read", "refused", "lost_bytes", "cpu_seconds"):
            setattr(self, name, getattr(self, name) + counts[name])
        for name in ("dropped", "sentences_dropped", "quarantined", "contaminated"):
            getattr(self, name).update(counts[name])
        count_templates(self.unknown_templates, counts["unknown_templates"])
        for step, seconds in counts["seconds"].items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    def add_group(self, counts: Mapping[str, Any]) -> None:
        """Add the `GroupCounts` of a published group of chunks."""
        self.documents += counts["documents"]
        self.sentences += counts["sentences"]
        for name in ("words", "tokens", "residue", "holes"):
            setattr(self, name, getattr(self, name) + counts["sums"].get(name, 0))
        self.dropped.update(counts["dropped"])
        for name in ("words_per_document", "words_per_sentence"):
            getattr(self, name).update({int(low): count for low, count in counts[name].items()})

    def counts(self) -> dict[str, Any]:
        """Return the reproducible part of the report: everything that depends on the input alone."""
        return {
            "kind": self.kind,
            "files": self.files,
            "stored_bytes": self.stored_bytes,
            "text_bytes": self.text_bytes,
            "read": self.read,
            "documents": self.documents,
            "dropped": _sorted(self.dropped),
            "refused": self.refused,
            "quarantined": _sorted(self.quarantined),
            "lost_bytes": self.lost_bytes,
            "sentences": self.sentences,
            "sentences_dropped": _sorted(self.sentences_dropped),
            "unknown_templates": _most_used(self.unknown_templates),
            "words": self.words,
            "tokens": self.tokens,
            "contaminated": _sorted(self.contaminated),
            "residue_per_1000_words": per_thousand(self.residue, self.words),
            "holes_per_1000_words": per_thousand(self.holes, self.words),
            "words_per_document": _histogram(self.words_per_document),
            "words_per_sentence": _histogram(self.words_per_sentence),
        }


def source_reports(config: BuildCorpusConfig, files: Iterable[int]) -> list[SourceReport]:
    """Return an empty report for each source of the recipe. `files` contains the source index of each file."""
    reports = [SourceReport(source.name, source.kind) for source in config.sources]
    for number in files:
        reports[number].files += 1
    return reports


def corpus_counts(reports: Sequence[SourceReport]) -> dict[str, Any]:
    """Return the counts for the manifest: totals, and the counts of each source."""
    dropped: Counter[str] = Counter()
    sentences_dropped: Counter[str] = Counter()
    for report in reports:
        dropped.update(report.dropped)
        sentences_dropped.update(report.sentences_dropped)
    words = sum(report.words for report in reports)
    totals = {name: sum(getattr(report, name) for report in reports) for name in ("read", "documents", "refused")}
    assert totals["read"] == totals["documents"] + sum(dropped.values()), "a document was neither kept nor dropped"
    return {
        **totals,
        "dropped": _sorted(dropped),
        "sentences": sum(report.sentences for report in reports),
        "sentences_dropped": _sorted(sentences_dropped),
        "words": words,
        "tokens": sum(report.tokens for report in reports),
        "residue_per_1000_words": per_thousand(sum(report.residue for report in reports), words),
        "holes_per_1000_words": per_thousand(sum(report.holes for report in reports), words),
        "sources": {_key(number, report): report.counts() for number, report in enumerate(reports)},
    }


def summary(reports: Sequence[SourceReport]) -> str:
    """Return the one-line summary of a run: `kept 39 of 79 documents (40 dropped: 39 list-like, ...`."""
    dropped, sentences_dropped, quarantined = (
        sum((getattr(report, name) for report in reports), Counter[str]())
        for name in ("dropped", "sentences_dropped", "quarantined")
    )
    documents, read, sentences, words, lost = (
        sum(getattr(report, name) for report in reports)
        for name in ("documents", "read", "sentences", "words", "lost_bytes")
    )
    clauses = [
        f"kept {documents:,} of {read:,} documents{_dropped(dropped)}",
        f"{sentences:,} sentences{_dropped(sentences_dropped)}",
        f"{words:,} words",
    ]
    if quarantined:
        clauses.append(f"quarantined: {_reasons(quarantined)}" + (f" ({lost:,} bytes lost)" if lost else ""))
    return ", ".join(clauses)


def corpus_report(reports: Sequence[SourceReport], *, token_unit: str, evaluation: Sequence[str]) -> dict[str, Any]:
    """Return the report as JSON types: counts, comparison with BookCorpus, contamination, throughput and projection.

    Args:
        reports: one per source.
        token_unit: unit of `tokens`.
        evaluation: names of the evaluation sets that documents were compared with.
    """
    contaminated: Counter[str] = Counter(dict.fromkeys(evaluation, 0))
    for report in reports:
        contaminated.update(report.contaminated)
    return {
        "schema": 1,
        "token_unit": token_unit,
        **corpus_counts(reports),
        "evaluation_sets": {name: {"documents": contaminated[name]} for name in sorted(contaminated)},
        "books": _books([report for report in reports if report.kind == "books"]),
        "stages": _stages(reports),
        "full_wikipedia": _projection([report for report in reports if report.kind == "wikipedia"]),
    }


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """Serialize the report as JSON."""
    return json.dumps(report, indent=1, ensure_ascii=False).encode()


def _books(reports: Sequence[SourceReport]) -> dict[str, Any] | None:
    if not reports:
        return None
    words = sum(report.words for report in reports)
    unique = sum(report.documents for report in reports)
    return {
        "files": sum(report.files for report in reports),
        "words": words,
        "duplicates": sum(report.dropped[reason] for report in reports for reason in DUPLICATE_REASONS),
        "unique_books": unique,
        "bookcorpus": BOOKCORPUS,
        "share_of_bookcorpus_books": round(unique / BOOKCORPUS["books"], 4),
        "share_of_bookcorpus_words": round(words / BOOKCORPUS["words"], 4),
        "books_short_of_bookcorpus": max(0, BOOKCORPUS["books"] - unique),
        "words_short_of_bookcorpus": max(0, BOOKCORPUS["words"] - words),
    }


def _stages(reports: Sequence[SourceReport]) -> dict[str, dict[str, float]]:
    """Return seconds and MB/s of uncleaned text for each step of extraction.

    `cpu` is the CPU time of all steps. `all` is wall-clock time, which exceeds it when cores or storage are shared.
    """
    seconds: dict[str, float] = {}
    for report in reports:
        for step, spent in report.seconds.items():
            seconds[step] = seconds.get(step, 0.0) + spent
    cpu = sum(report.cpu_seconds for report in reports)
    megabytes = sum(report.text_bytes for report in reports) / 1e6
    return {
        step: {"seconds": round(spent, 3), "mb_per_s": round(megabytes / spent, 2) if spent else 0.0}
        for step, spent in [*seconds.items(), ("all", sum(seconds.values())), ("cpu", cpu)]
    }


def _projection(reports: Sequence[SourceReport]) -> dict[str, Any] | None:
    """Estimate the hours to process the English Wikipedia at the speed of this run, by number of cores."""
    stored = sum(report.stored_bytes for report in reports)
    spent = sum(sum(report.seconds.values()) for report in reports)
    if not stored or not spent:
        return None
    core_hours = FULL_DUMP_BYTES / (stored / spent) / 3600
    return {
        "stored_bytes": FULL_DUMP_BYTES,
        "hours_by_cores": {str(cores): round(core_hours / cores, 2) for cores in PROJECTED_CORES},
    }


def _dropped(counter: Counter[str]) -> str:
    return f" ({counter.total():,} dropped: {_reasons(counter)})" if counter.total() else ""


def _reasons(counter: Counter[str]) -> str:
    """Format counts by reason, the most frequent first: `39 list-like, 1 too short`."""
    counts = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    words = ((reason.replace("_like", "-like").replace("_", " "), count) for reason, count in counts)
    return ", ".join(f"{count:,} {reason}" for reason, count in words if count)


def _key(number: int, report: SourceReport) -> str:
    return f"{number}_{report.name}"


def _histogram(bins: Counter[int]) -> dict[str, int]:
    return {str(low): bins[low] for low in sorted(bins)}


def _most_used(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))[:LISTED_TEMPLATES])


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in sorted(counter) if counter[name]}
