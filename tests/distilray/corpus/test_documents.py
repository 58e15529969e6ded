from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilray.config.corpus import FilterConfig
from distilray.corpus.cleaning import HOLE
from distilray.corpus.documents import DumpFile, clean_pages, documents_of, page_tables
from distilray.corpus.output import CorpusWriter
from distilray.errors import InputError
from distilray.schemas import DOCUMENTS, check_schema

PROSE = "The dog is an animal that barks. It lives with people, and it has done so for a very long time indeed. "
CELLS = {
    "document": PROSE,
    "redirect": "#REDIRECT [[Dog]]",
    "disambiguation": PROSE + "{{disambig}}",
    "too_few_sentences": "* only a list",
    "too_short": "One. Two.",
    "page_too_large": "x" * 3000,
}


def write_dump(folder: Path, kinds: list[str]) -> DumpFile:
    pages = "".join(
        f"<page><title>T{n}</title><ns>0</ns><id>{n}</id><revision><id>{n + 100}</id><text>{CELLS[kind]}</text>"
        "</revision></page>"
        for n, kind in enumerate(kinds)
    )
    file = folder / "wiki.xml"
    file.write_text(f"<mediawiki>{pages}</mediawiki>")
    return DumpFile(str(file), "wikipedia", "wiki.xml", "CC-BY-SA-4.0")


def build(folder: Path, kinds: list[str], *, pages_per_table: int = 3, documents_per_file: int = 2) -> CorpusWriter:
    writer = CorpusWriter(str(folder / "out"), documents_per_file=documents_per_file)
    for pages in page_tables(write_dump(folder, kinds), pages_per_table=pages_per_table, max_page_bytes=2000):
        writer.add(clean_pages(pages, filters=FilterConfig(min_words=5)))
    return writer


@settings(deadline=None, max_examples=25)
@given(kinds=st.lists(st.sampled_from(sorted(CELLS)), max_size=12), pages_per_table=st.integers(1, 5))
def test_pages_in_are_documents_and_dropped_pages_by_reason(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], pages_per_table: int
) -> None:
    kinds = ["document", *kinds]
    counts = build(tmp_path_factory.mktemp("sum"), kinds, pages_per_table=pages_per_table).finish().counts
    expected = Counter(kinds)
    assert counts["pages"] == len(kinds)
    assert counts["documents"] == expected.pop("document")
    assert counts["dropped"] == dict(expected)


def test_the_files_hold_the_documents_in_order_and_in_the_schema(tmp_path: Path) -> None:
    outcome = build(tmp_path, ["document", "redirect", "document", "too_short", "document"]).finish()
    tables = [pq.read_table(tmp_path / "out" / name) for name in outcome.outputs]
    assert list(outcome.outputs) == ["documents/documents-00000.parquet", "documents/documents-00001.parquet"]
    assert [row for table in tables for row in table["doc_id"].to_pylist()] == [
        "wikipedia:0",
        "wikipedia:2",
        "wikipedia:4",
    ]
    for table, name in zip(tables, outcome.outputs, strict=True):
        check_schema(table.schema, DOCUMENTS, name)


def test_the_content_of_the_files_does_not_depend_on_the_blocks(tmp_path: Path) -> None:
    kinds = ["document", "redirect"] * 5
    one, other = (build(tmp_path, kinds, pages_per_table=size).finish() for size in (1, 7))
    assert one.outputs == other.outputs


def test_a_document_tells_where_it_comes_from(tmp_path: Path) -> None:
    (pages,) = page_tables(write_dump(tmp_path, ["document"]), pages_per_table=9, max_page_bytes=2000)
    (row,) = documents_of(clean_pages(pages, filters=FilterConfig(min_words=5))).to_pylist()
    sentences = row.pop("sentences")
    assert row == {
        "doc_id": "wikipedia:0",
        "source": "wikipedia",
        "title": "T0",
        "file": "wiki.xml",
        "page_id": 0,
        "revision_id": 100,
        "licence": "CC-BY-SA-4.0",
    }
    assert " ".join(sentences) == PROSE.strip()


def test_a_sentence_with_a_formula_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "document", PROSE + "Here &lt;math&gt;x&lt;/math&gt; is a number.")
    writer = build(tmp_path, ["document"])
    counts = writer.finish().counts
    (table,) = [pq.read_table(file) for file in (tmp_path / "out/documents").iterdir()]
    assert counts["sentences_dropped"] == {"formula_or_code": 1}
    assert counts["sentences"] == len(table["sentences"][0]) == 2
    assert HOLE not in str(table["sentences"])


def test_a_corpus_without_documents_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 3 pages .*redirect 2, too_short 1"):
        build(tmp_path, ["redirect", "too_short", "redirect"]).finish()
