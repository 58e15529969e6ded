"""Values of the recipe of `build_corpus`, from the recipe to the published documents."""

import bz2
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus import pipeline
from distilray.runtime.run_folder import RunFolder
from tests.distilray.interruptions import tasks_in_process
from tests.tiny.corpus import sentences_of
from tests.tiny.dumps import dump, page
from tests.tiny.extraction import LENIENT

WRAPPED = "The ship came in. Nobody was\nat the helm of it."


def build(folder: Path, source: dict[str, Any], **values: Any) -> tuple[Path, list[dict[str, Any]]]:
    """Return the run folder and the rows of its documents."""
    recipe = {"run_dir": str(folder / "run"), "sources": [source], "filters": LENIENT, **values}
    config = BuildCorpusConfig.model_validate(recipe)
    run = RunFolder("build_corpus", config, {})
    run.begin()
    with tasks_in_process(pipeline):
        outputs = pipeline.build_corpus(config, run).outputs
    files = [pq.read_table(folder / "run" / name) for name in outputs if name.endswith(".parquet")]
    return folder / "run", pa.concat_tables(files).to_pylist()


def write_source(folder: Path, kind: str, text: str) -> dict[str, Any]:
    """Write a file with one document and return the source that reads it."""
    file = folder / f"input.{ {'wikipedia': 'xml.bz2', 'books': 'txt', 'text': 'txt'}.get(kind, kind) }"
    if kind == "parquet":
        pq.write_table(pa.table({"text": [text]}), file)
    elif kind in ("csv", "tsv"):
        file.write_text(f'text\n"{text}"\n')
    elif kind == "jsonl":
        file.write_text(json.dumps({"text": text}) + "\n")
    elif kind == "wikipedia":
        file.write_bytes(bz2.compress(dump(page(1, "A", text))))
    else:
        file.write_text(text)
    own = {"document_per": "file"} if kind == "text" else {}
    return {"kind": kind, "name": "own", "path": str(file), **own}


every_kind = pytest.mark.parametrize("kind", ["wikipedia", "books", "parquet", "jsonl", "csv", "tsv", "text"])


@every_kind
def test_documents_carry_the_license_of_their_source(tmp_path: Path, kind: str) -> None:
    _, (document,) = build(tmp_path, {**write_source(tmp_path, kind, "A ship came in."), "license": "CC0-1.0"})
    assert document["license"] == "CC0-1.0"


@every_kind
def test_the_language_of_a_source_decides_how_its_text_is_split(tmp_path: Path, kind: str) -> None:
    text = "Das Schiff fuhr am 3. Mai ab. Niemand war da."  # English would end a sentence after the number
    source = write_source(tmp_path, kind, text)
    found = {
        language: build(tmp_path / language, {**source, "language": language})[1][0]["sentences"]
        for language in ("de", "en")
    }
    assert len(found["de"]) == 2 < len(found["en"])


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tsv", "text"])
def test_a_line_break_in_hard_wrapped_text_is_a_space(tmp_path: Path, kind: str) -> None:
    source = write_source(tmp_path, kind, WRAPPED)
    found = {
        wrapped: build(tmp_path / str(wrapped), {**source, "hard_wrapped": wrapped})[1][0]["sentences"]
        for wrapped in (True, False)
    }
    assert found[True] == ["The ship came in.", "Nobody was at the helm of it."]
    assert found[False] != found[True]


@pytest.fixture
def lines(tmp_path: Path) -> dict[str, Any]:
    """Return a source with many documents in one file of about 150 kB."""
    texts = [" ".join(document) for document in sentences_of(500)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"kind": "jsonl", "name": "lines", "path": str(tmp_path / "lines.jsonl")}


def test_a_file_of_documents_has_the_size_of_the_recipe(tmp_path: Path, lines: dict[str, Any]) -> None:
    counts = {}
    for megabytes in (0.01, 0.04, 64.0):
        folder, _ = build(tmp_path / str(megabytes), lines, file_mb=megabytes, chunk_mb=0.01)
        sizes = [file.stat().st_size for file in (folder / "documents").iterdir()]
        counts[megabytes] = len(sizes)
        assert max(sizes) < 2 * megabytes * (1 << 20)
    assert counts[0.01] > counts[0.04] > counts[64.0] == 1


def test_a_chunk_has_the_size_of_the_recipe(tmp_path: Path, lines: dict[str, Any]) -> None:
    size = Path(lines["path"]).stat().st_size
    for megabytes in (0.02, 0.1, 8.0):
        recipe = {"run_dir": "-", "sources": [lines], "chunk_mb": megabytes}
        config = BuildCorpusConfig.model_validate(
            {**recipe, "run_dir": str(tmp_path / f"{megabytes}"), "filters": LENIENT}
        )
        run = RunFolder("build_corpus", config, {})
        run.begin()
        with tasks_in_process(pipeline) as items:
            pipeline.build_corpus(config, run)
        chunks = [item for item in items if "ranges" in item]
        assert len(chunks) == pytest.approx(max(1, size / (megabytes * (1 << 20))), abs=1)


@pytest.mark.parametrize(("megabytes", "documents"), [(0.001, 1), (0.01, 2)])
def test_a_document_beyond_the_size_of_the_recipe_is_in_quarantine(
    tmp_path: Path, megabytes: float, documents: int
) -> None:
    texts = ["A ship came in.", "Nobody was at the helm of it. " * 100]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"kind": "jsonl", "name": "own", "path": str(tmp_path / "own.jsonl")}
    folder, found = build(tmp_path, source, max_document_mb=megabytes, fault_tolerance={"max_bad_fraction": 1.0})
    assert len(found) == documents
    assert len((folder / "quarantine.jsonl").read_text().splitlines()) == 2 - documents


@pytest.mark.parametrize(("words", "documents"), [(5, 1), (6, 2)])
def test_shared_words_count_from_the_length_of_the_recipe(tmp_path: Path, words: int, documents: int) -> None:
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/dev.tsv").write_text("index\tsentence\n0\tin the old quiet harbour there is nothing new\n")
    texts = ["A ship came in the old quiet harbour yesterday.", "Nobody was at the helm of it."]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"kind": "jsonl", "name": "own", "path": str(tmp_path / "own.jsonl")}
    against = {"paths": [str(tmp_path / "RTE")], "ngram_words": words}
    assert len(build(tmp_path, source, decontamination=against)[1]) == documents


@pytest.mark.parametrize(("threshold", "documents"), [(0.3, 1), (1.0, 2)])
def test_near_duplicates_are_those_beyond_the_threshold_of_the_recipe(
    tmp_path: Path, threshold: float, documents: int
) -> None:
    text = " ".join(sentences_of(3, seed=1)[0] + sentences_of(3, seed=2)[0])
    (tmp_path / "own.jsonl").write_text(
        "".join(json.dumps({"text": each}) + "\n" for each in (text, f"{text} And one more sentence stands here."))
    )
    source = {"kind": "jsonl", "name": "own", "path": str(tmp_path / "own.jsonl")}
    near = {"threshold": threshold, "bands": 32, "rows_per_band": 2}
    assert len(build(tmp_path, source, duplicates={"near": near})[1]) == documents
