import json
from typing import Any

import pytest

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.report import SourceReport, corpus_counts, corpus_report, report_bytes, source_reports, summary

CHUNK: dict[str, Any] = {
    "stored_bytes": 1000, "text_bytes": 4000, "read": 10, "refused": 0, "lost_bytes": 0, "cpu_seconds": 2.0,
    "dropped": {"redirect": 4}, "sentences_dropped": {}, "unknown_templates": {"jct": 3}, "quarantined": {},
    "contaminated": {}, "seconds": {"read": 2.0},
}  # fmt: skip
GROUP: dict[str, Any] = {
    "documents": 5, "sentences": 20, "sums": {"words": 200, "tokens": 250, "residue": 1, "holes": 0},
    "dropped": {"exact_duplicate": 1}, "words_per_document": {"32": 5}, "words_per_sentence": {"8": 20},
}  # fmt: skip


def report(kind: str = "wikipedia", chunk: dict[str, Any] = CHUNK) -> SourceReport:
    source = SourceReport("name", kind, files=1)
    source.add_chunk(chunk)
    source.add_group(GROUP)
    return source


def test_a_report_for_each_source_counts_its_files() -> None:
    sources = [{"path": "a"}, {"kind": "books", "path": "b"}]
    config = BuildCorpusConfig.model_validate({"run_dir": "r", "sources": sources})
    assert [(source.kind, source.files) for source in source_reports(config, [0, 1, 1])] == [
        ("wikipedia", 1),
        ("books", 2),
    ]


def test_documents_are_kept_or_dropped() -> None:
    counts = corpus_counts([report(), report("books")])
    assert (counts["read"], counts["documents"], sum(counts["dropped"].values())) == (20, 10, 10)


def test_the_summary_lists_the_reasons_of_drops_the_most_frequent_first() -> None:
    one = report(chunk={**CHUNK, "read": 12, "dropped": {"too_short": 1, "redirect": 4, "list_like": 1}})
    other = report("books", chunk={**CHUNK, "sentences_dropped": {"formula_or_code": 1_200, "heading": 0}})
    assert summary([one, other]) == (
        "kept 10 of 22 documents (12 dropped: 8 redirect, 2 exact duplicate, 1 list-like, 1 too short), "
        "40 sentences (1,200 dropped: 1,200 formula or code), 400 words"
    )
    whole = report(chunk={**CHUNK, "dropped": {}, "read": 6, "quarantined": {"bz2_damaged": 2}, "lost_bytes": 3_000})
    whole.dropped.clear()
    clauses = "kept 5 of 6 documents, 20 sentences, 200 words"
    assert summary([whole]) == f"{clauses}, quarantined: 2 bz2 damaged (3,000 bytes lost)"
    whole.quarantined.clear()
    assert summary([whole]) == clauses


def test_a_lost_document_is_detected() -> None:
    lost = report()
    lost.documents -= 1
    with pytest.raises(AssertionError, match="neither kept nor dropped"):
        corpus_counts([lost])


@pytest.mark.parametrize(
    ("values", "share"),
    [({}, 0.0), ({"lost_bytes": 100}, 0.1), ({"refused": 10}, 0.5), ({"lost_bytes": 100, "refused": 10}, 0.6)],
)
def test_the_bad_share_is_of_bytes_and_of_documents(values: dict[str, int], share: float) -> None:
    assert report(chunk={**CHUNK, **values}).bad_fraction == pytest.approx(share)
    assert SourceReport("empty", "text").bad_fraction == 0.0


def full(*reports: SourceReport, evaluation: tuple[str, ...] = ()) -> dict[str, Any]:
    return json.loads(report_bytes(corpus_report(reports, token_unit="tokens", evaluation=evaluation)))


def test_books_are_compared_with_bookcorpus() -> None:
    books = full(report(), report("books"))["books"]
    assert (books["unique_books"], books["duplicates"], books["words"]) == (5, 1, 200)
    assert books["books_short_of_bookcorpus"] == 11_033
    assert full(report())["books"] is None


def test_the_hours_for_the_whole_dump_follow_from_the_rate() -> None:
    # 1,000 bytes in 2 seconds: 24 GB take 48 million seconds of a core
    hours = full(report())["full_wikipedia"]["hours_by_cores"]
    assert hours["1"] == pytest.approx(48e6 / 3600, abs=0.01)
    assert hours["64"] == pytest.approx(48e6 / 3600 / 64, abs=0.01)


def test_an_evaluation_set_without_a_hit_is_reported_too() -> None:
    leaked = report(chunk={**CHUNK, "contaminated": {"RTE": 2}})
    assert full(leaked, evaluation=("CoLA", "RTE"))["evaluation_sets"] == {
        "CoLA": {"documents": 0},
        "RTE": {"documents": 2},
    }


def test_the_throughput_of_a_step_is_text_per_time() -> None:
    assert full(report())["stages"]["read"] == {"seconds": 2.0, "mb_per_s": 0.0}
    assert full(report(chunk={**CHUNK, "text_bytes": 4_000_000}))["stages"]["read"]["mb_per_s"] == 2.0


def test_unknown_templates_are_listed_by_use_up_to_a_limit() -> None:
    both = report(chunk={**CHUNK, "unknown_templates": {"jct": 2, "GS": 9}})
    both.add_chunk(CHUNK)
    assert list(both.counts()["unknown_templates"].items()) == [("GS", 9), ("jct", 5)]
    many = report(chunk={**CHUNK, "unknown_templates": {f"t{number}": 1 for number in range(3000)}})
    assert len(many.unknown_templates) == 1001
    assert sum(many.unknown_templates.values()) == 3000
    assert next(iter(many.counts()["unknown_templates"])) == "(others)"


def test_counts_are_sorted_and_without_zeros() -> None:
    source = report(chunk={**CHUNK, "dropped": {"redirect": 4, "heading": 0, "empty": 1}})
    source.add_group({**GROUP, "words_per_document": {"128": 1, "16": 1}, "words_per_sentence": {"16": 2, "4": 1}})
    counts = source.counts()
    assert list(counts["dropped"].items()) == [("empty", 1), ("exact_duplicate", 2), ("redirect", 4)]
    assert list(counts["words_per_document"].items()) == [("16", 1), ("32", 5), ("128", 1)]
    assert list(counts["words_per_sentence"]) == ["4", "8", "16"]
    assert (counts["words"], counts["residue_per_1000_words"], counts["holes_per_1000_words"]) == (400, 5.0, 0.0)
