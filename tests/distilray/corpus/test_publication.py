from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from distilray.corpus.duplicate_search import plan_searches, run_search
from distilray.corpus.publication import ChunkGroup, plan_groups, publish_group
from distilray.schemas import DOCUMENTS, check_schema
from tests.tiny.extraction import extract

TEXTS = [f"The dog number {number} barks. It is {'very ' * number}old." for number in range(6)]


def chunk(number: int, *, source: int = 0, documents: int = 1, file_bytes: int = 10) -> dict[str, Any]:
    return {"number": number, "source": source, "documents": documents, "file_bytes": file_bytes}


def test_a_group_has_the_chunks_of_one_source_up_to_its_size() -> None:
    records = [chunk(0), chunk(1), chunk(2), chunk(3, documents=0), chunk(4, source=1)]
    groups = plan_groups(iter(records), file_bytes=20)
    assert groups == [ChunkGroup(0, 0, (0, 1)), ChunkGroup(1, 0, (2,)), ChunkGroup(2, 1, (4,))]


def published(
    folder: Path, texts: list[str], *, file_bytes: int = 1 << 20, **values: Any
) -> tuple[Any, list[dict[str, Any]]]:
    config, counts = extract(folder, texts, **values)
    for stage in plan_searches(config, len(texts)):
        for each in stage:
            run_search(each, config, config.run_dir, [each.number for each in counts])
    group = ChunkGroup(0, 0, tuple(each.number for each in counts))
    done = publish_group(group, config.run_dir, file_bytes=file_bytes)
    return done, [row for name in sorted(done.outputs) for row in pq.read_table(folder / name).to_pylist()]


def test_duplicates_are_dropped_and_the_rest_is_published_in_order_and_counted(tmp_path: Path) -> None:
    done, rows = published(tmp_path, [*TEXTS, TEXTS[2], TEXTS[0]])
    assert [row["doc_id"] for row in rows] == [f"texts:{number:03d}.txt" for number in range(6)]
    sentences = [sentence for row in rows for sentence in row["sentences"]]
    assert done.dropped == {"exact_duplicate": 2}
    assert (done.documents, done.sentences) == (6, 12) == (len(rows), len(sentences))
    assert done.sums["words"] == sum(len(sentence.split()) for sentence in sentences)
    assert (done.words_per_document, done.words_per_sentence) == ({8: 6}, {2: 1, 4: 10, 8: 1})
    for name in done.outputs:
        check_schema(pq.read_schema(tmp_path / name), DOCUMENTS, name)


def test_a_file_that_is_full_is_followed_by_another(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("distilray.corpus.publication._ROW_GROUP_ROWS", 2)
    done, rows = published(tmp_path, TEXTS, file_bytes=1)
    assert [entry["rows"] for entry in done.outputs.values()] == [2, 2, 2]
    assert list(done.outputs) == sorted(done.outputs)
    assert [row["doc_id"] for row in rows] == [f"texts:{number:03d}.txt" for number in range(6)]


def test_duplicates_are_found_in_every_row_group_of_a_chunk(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("distilray.corpus.extraction._BATCH_BYTES", 1)
    done, rows = published(tmp_path, [*TEXTS[:3], TEXTS[1], TEXTS[3]], chunk_mb=1)
    assert [row["doc_id"] for row in rows] == [f"texts:{number:03d}.txt" for number in (0, 1, 2, 4)]
    assert done.dropped == {"exact_duplicate": 1}
