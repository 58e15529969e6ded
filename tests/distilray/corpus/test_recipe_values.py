"""Values of the recipe of `build_corpus`, from the recipe to the published documents."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus import pipeline
from distilray.corpus.chunks import plan_chunks, source_files
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.runtime.run_folder import RunFolder
from tests.distilray.corpus.sources.reading import document_file
from tests.distilray.interruptions import tasks_in_process
from tests.tiny.corpus import sentences_of
from tests.tiny.dumps import write
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


def write_source(folder: Path, kind: str, text: str) -> dict[str, Any]:
    """Write a file with one document and return the source that reads it."""
    name, data = document_file(kind, text)
    whole_file = {"document_per": "file"} if kind == "text" else {}
    return {"kind": kind, "name": "own", "path": write(folder, data, name), **whole_file}


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_documents_have_the_license_and_the_sentences_of_the_language_of_their_source(
    tmp_path: Path, kind: str
) -> None:
    text = "Das Schiff fuhr am 3. Mai ab. Niemand war da."  # English would end a sentence after the number
    source = {**write_source(tmp_path, kind, text), "license": "CC0-1.0"}
    german, english = (build(tmp_path / language, {**source, "language": language})[1][0] for language in ("de", "en"))
    assert (german["license"], len(german["sentences"]), len(english["sentences"])) == ("CC0-1.0", 2, 3)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tsv", "text"])
def test_a_line_break_in_hard_wrapped_text_is_a_space(tmp_path: Path, kind: str) -> None:
    source = write_source(tmp_path, kind, WRAPPED)
    wrapped, split = (
        build(tmp_path / name, {**source, "hard_wrapped": name == "wrapped"})[1][0]["sentences"]
        for name in ("wrapped", "split")
    )
    assert wrapped == ["The ship came in.", "Nobody was at the helm of it."]
    assert split != wrapped


NEARLY = " ".join(sentences_of(3, seed=1)[0] + sentences_of(3, seed=2)[0])
TEXTS = [
    "A ship came in the old quiet harbour yesterday.",  # five words of the evaluation set
    NEARLY,
    f"{NEARLY} And one more sentence follows here.",
    "Nobody was at the helm of it. " * 100,  # 3,000 bytes
]


BANDS = {"bands": 32, "rows_per_band": 2}
TOLERANT = {"fault_tolerance": {"max_bad_fraction": 1.0}}


@pytest.mark.parametrize(
    ("values", "dropped", "quarantined"),
    [
        ({}, [], 0),
        ({"decontamination": {"paths": ["RTE"], "ngram_words": 5}}, [0], 0),
        ({"decontamination": {"paths": ["RTE"], "ngram_words": 6}}, [], 0),
        ({"duplicates": {"near": {"threshold": 0.3, **BANDS}}}, [2], 0),
        ({"duplicates": {"near": {"threshold": 1.0, **BANDS}}}, [], 0),
        ({"max_document_mb": 0.002, **TOLERANT}, [3], 1),
        ({"max_document_mb": 0.004, **TOLERANT}, [], 0),
    ],
    ids=["defaults", "5 words", "6 words", "similar", "equal", "2 kB", "4 kB"],
)
def test_documents_are_dropped_by_the_bounds_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], dropped: list[int], quarantined: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("RTE").mkdir()
    Path("RTE/dev.tsv").write_text("index\tsentence\n0\tin the old quiet harbour there is nothing new\n")
    folder, rows = build(tmp_path, jsonl_source(tmp_path, TEXTS), **values)
    texts = [" ".join(row["sentences"]) for row in rows]
    assert texts == [text.strip() for number, text in enumerate(TEXTS) if number not in dropped]
    assert len((folder / "quarantine.jsonl").read_text().splitlines()) == quarantined


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
    config = BuildCorpusConfig.model_validate({"run_dir": "-", "sources": [lines], "chunk_mb": megabytes})
    chunks = plan_chunks(config, source_files(config))
    expected = Path(lines["path"]).stat().st_size / (megabytes * (1 << 20))
    assert len(chunks) == pytest.approx(max(1, expected), abs=1)
