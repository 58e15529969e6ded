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
from distilray.corpus.chunks import plan_chunks, source_files
from distilray.runtime.run_folder import RunFolder
from tests.distilray.corpus.sources.reading import parquet
from tests.distilray.interruptions import tasks_in_process
from tests.tiny.corpus import sentences_of
from tests.tiny.dumps import dump, page, write
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


def jsonl_source(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Write one document per line and return the source that reads them."""
    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"kind": "jsonl", "name": "own", "path": str(file)}


FILES = {
    "wikipedia": ("a.xml.bz2", lambda text: bz2.compress(dump(page(1, "A", text)))),
    "books": ("a.txt", str.encode),
    "parquet": ("a.parquet", lambda text: parquet({"text": [text]})),
    "jsonl": ("a.jsonl", lambda text: json.dumps({"text": text}).encode()),
    "csv": ("a.csv", lambda text: f'text\n"{text}"\n'.encode()),
    "tsv": ("a.tsv", lambda text: f'text\n"{text}"\n'.encode()),
    "text": ("a.txt", str.encode),
}
every_kind = pytest.mark.parametrize("kind", FILES)


def write_source(folder: Path, kind: str, text: str) -> dict[str, Any]:
    """Write a file with one document and return the source that reads it."""
    name, content = FILES[kind]
    whole_file = {"document_per": "file"} if kind == "text" else {}
    return {"kind": kind, "name": "own", "path": write(folder, content(text), name), **whole_file}


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
    """Return a source with many documents in one file of about 60 kB."""
    return jsonl_source(tmp_path, [" ".join(document) for document in sentences_of(200)])


def test_a_file_of_documents_has_the_size_of_the_recipe(tmp_path: Path, lines: dict[str, Any]) -> None:
    counts = {}
    for megabytes in (0.004, 0.015, 64.0):
        folder, _ = build(tmp_path / str(megabytes), lines, file_mb=megabytes, chunk_mb=0.004)
        sizes = [file.stat().st_size for file in (folder / "documents").iterdir()]
        counts[megabytes] = len(sizes)
        assert max(sizes) < 2.5 * megabytes * (1 << 20)
    assert counts[0.004] > counts[0.015] > counts[64.0] == 1


@pytest.mark.parametrize("megabytes", [0.01, 0.03, 8.0])
def test_a_chunk_has_the_size_of_the_recipe(lines: dict[str, Any], megabytes: float) -> None:
    recipe = {"run_dir": "-", "sources": [lines], "chunk_mb": megabytes}
    config = BuildCorpusConfig.model_validate(recipe)
    size = Path(lines["path"]).stat().st_size
    chunks = plan_chunks(config, source_files(config))
    assert len(chunks) == pytest.approx(max(1, size / (megabytes * (1 << 20))), abs=1)


def test_a_document_beyond_the_size_of_the_recipe_is_in_quarantine(tmp_path: Path) -> None:
    source = jsonl_source(tmp_path, ["A ship came in.", "Nobody was at the helm of it. " * 100])
    for megabytes, documents in ((0.001, 1), (0.01, 2)):
        values = {"max_document_mb": megabytes, "fault_tolerance": {"max_bad_fraction": 1.0}}
        folder, found = build(tmp_path / str(megabytes), source, **values)
        assert len(found) == documents
        assert len((folder / "quarantine.jsonl").read_text().splitlines()) == 2 - documents


@pytest.mark.parametrize(("words", "documents"), [(5, 1), (6, 2)])
def test_shared_words_count_from_the_length_of_the_recipe(tmp_path: Path, words: int, documents: int) -> None:
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/dev.tsv").write_text("index\tsentence\n0\tin the old quiet harbour there is nothing new\n")
    source = jsonl_source(
        tmp_path, ["A ship came in the old quiet harbour yesterday.", "Nobody was at the helm of it."]
    )
    against = {"paths": [str(tmp_path / "RTE")], "ngram_words": words}
    assert len(build(tmp_path, source, decontamination=against)[1]) == documents


@pytest.mark.parametrize(("threshold", "documents"), [(0.3, 1), (1.0, 2)])
def test_near_duplicates_are_those_beyond_the_threshold_of_the_recipe(
    tmp_path: Path, threshold: float, documents: int
) -> None:
    text = " ".join(sentences_of(3, seed=1)[0] + sentences_of(3, seed=2)[0])
    source = jsonl_source(tmp_path, [text, f"{text} And one more sentence follows here."])
    near = {"threshold": threshold, "bands": 32, "rows_per_band": 2}
    assert len(build(tmp_path, source, duplicates={"near": near})[1]) == documents
