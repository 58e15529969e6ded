import bz2
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilray.config import sample
from distilray.schemas import DOCUMENTS, check_schema
from jobs import build_corpus
from tests.distilray.corpus.large_dump import sample_parts
from tests.golden.ray_in_process import ray_in_process
from tests.jobs.commands import content_hash, content_of, file_names, read_json, run_job
from tests.tiny.dumps import dump, page, write_multistream

RECIPE = "jobs/recipes/build_corpus/quickstart.yaml"


def run_here(run_dir: Path, *arguments: str, **values: object) -> int:
    """Run the job without Ray."""
    with ray_in_process():
        return run_job("build_corpus", run_dir, *arguments, **values)


def documents(run_dir: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((run_dir / "documents").iterdir()) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html></html>", "root element <html>"),
        (b"some words", "neither XML nor bz2"),
        (b"<mediawiki></mediawiki>", "a dump without pages"),
        (b"<mediawiki><page><title>T</title></page>", "cut short"),
        (None, ": the bz2 data is cut short"),
    ],
    ids=["empty", "html", "text", "no pages", "truncated", "truncated sample"],
)
def test_an_invalid_dump_is_reported_in_one_line(tmp_path, error_line, data, reason):
    file = tmp_path / "wiki.xml"
    file.write_bytes(sample.wikipedia_dump().read_bytes()[:900_000] if data is None else data)
    line = error_line(run_here(tmp_path / "run", sources=[{"path": str(file)}]))
    assert str(file) in line
    assert reason in line
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Corpus of the sample, built with two CPUs."""
    run_dir = tmp_path_factory.mktemp("sample") / "run"
    assert build_corpus.main(["--recipe", RECIPE, f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.mark.slow
def test_every_page_of_the_sample_is_a_document_or_dropped_for_a_reason(sample_run: Path) -> None:
    counts = content_of(sample_run)["counts"]
    assert counts["read"] == len(sample_parts()[1]) == 206
    assert counts["dropped"]["redirect"] + counts["dropped"].get("not_an_article", 0) == 100
    assert counts["documents"] == 206 - sum(counts["dropped"].values()) > 90
    assert counts["residue_per_1000_words"] < 0.2
    assert counts["holes_per_1000_words"] < 0.5


@pytest.mark.slow
def test_no_list_table_or_heading_of_the_sample_is_a_sentence(sample_run: Path) -> None:
    sentences = {sentence for document in documents(sample_run) for sentence in document["sentences"]}
    line = re.compile(r"^(?:[*#;:|!]|\{\||==)[^\n]*$", re.MULTILINE)
    lines = [match for page in sample_parts()[1] for match in line.findall(page.decode())]
    markup = {match.strip(" *#;:|!=\t") for match in lines if len(match.split()) > 4}
    assert len(markup) > 3000
    assert sentences & markup == set()
    assert not [sentence for sentence in sentences if sentence.startswith(("* ", "# ", "|", "{|", "==", "! "))]


@pytest.mark.slow
def test_one_process_builds_the_same_corpus_as_two_cpus(sample_run: Path, tmp_path: Path) -> None:
    with ray_in_process():
        assert build_corpus.main(["--recipe", RECIPE, f"run_dir={tmp_path}/run"]) == 0
    assert content_hash(tmp_path / "run") == content_hash(sample_run)


DOGS = "The old dog slept under the table of the kitchen. It dreamt of rabbits and of long warm summers by the river."
SHIPS = "A ship came into the harbour in the morning. Its sails were torn, and nobody stood at the helm of it."
TOWERS = "The tower was built of stone by the monks. It stood for nine hundred years before the great flood came."
LEAKED = "one two three four five six seven eight nine ten eleven twelve thirteen"
FOREST = " ".join(f"The path number {n} leads through the forest to the {n}th of the lakes." for n in range(40))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with a source of each kind, including exact and near duplicates and evaluation text."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "books").mkdir()
    pages = page(1, "Dogs", DOGS), page(2, "Forest", FOREST), page(1, "Dogs again", SHIPS.replace("ship", "boat"))
    (folder / "wiki.xml.bz2").write_bytes(bz2.compress(dump(*pages)))
    (folder / "books/ships.txt").write_text(SHIPS)
    (folder / "books/dogs.txt").write_text(DOGS.upper().replace(". ", ".\n"))  # a duplicate of page 1
    pq.write_table(
        pa.table({"body": [TOWERS, FOREST.replace("number 7", "with the number 7")]}), folder / "rows.parquet"
    )
    lines = [{"text": SHIPS + " " + SHIPS.replace("morning", "evening").lower()}, {"text": f"Count {LEAKED}. {DOGS}"}]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "notes.txt").write_text("Too short.\n")
    (folder / "table").mkdir()
    (folder / "table/a.tsv").write_text(f'n\ttext\n1\t"{SHIPS.replace("ship", "train")}"\n')
    (folder / "table/b.csv").touch()
    (folder / "CoLA").mkdir()
    (folder / "CoLA/dev.tsv").write_text(f"index\tsentence\n0\tso {LEAKED} it is\n")
    sources = [
        {"kind": "wikipedia", "path": f"{folder}/wiki.xml.bz2"},
        {"kind": "books", "path": f"{folder}/books", "license": "public domain"},
        {"kind": "parquet", "path": f"{folder}/rows.parquet", "name": "rows", "text_column": "body"},
        {"kind": "jsonl", "path": f"{folder}/lines.jsonl", "name": "lines"},
        {"kind": "text", "path": f"{folder}/notes.txt", "name": "notes"},
        {"kind": "csv", "path": f"{folder}/table", "name": "table"},
    ]
    recipe = {
        "sources": sources,
        "duplicates": {"near": {}},
        "decontamination": {"paths": [f"{folder}/CoLA"]},
        "filters": {"max_repeated_fraction": 1.0},
    }
    leftover = folder / "run/documents/documents-00007-000.parquet"  # of an interrupted run
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    assert run_here(folder / "run", **recipe) == 0
    return folder / "run"


def test_each_kind_of_source_yields_documents_with_their_provenance(mixed: Path) -> None:
    keys = ("doc_id", "source", "file", "page_id", "license")
    assert [tuple(row[key] for key in keys) for row in documents(mixed)] == [
        ("wikipedia:1", "wikipedia", "wiki.xml.bz2", 1, "CC-BY-SA-4.0"),
        ("wikipedia:2", "wikipedia", "wiki.xml.bz2", 2, "CC-BY-SA-4.0"),
        ("books:ships", "books", "ships.txt", None, "public domain"),
        ("rows:rows.parquet:0", "rows", "rows.parquet", None, "unknown"),
        ("lines:lines.jsonl:0", "lines", "lines.jsonl", None, "unknown"),
        ("table:a.tsv:7", "table", "a.tsv", None, "unknown"),
    ]


def test_each_dropped_document_is_counted_for_its_reason_at_its_source(mixed: Path) -> None:
    sources = content_of(mixed)["counts"]["sources"]
    assert {name: source["dropped"] for name, source in sources.items()} == {
        "0_wikipedia": {"duplicate_id": 1},
        "1_books": {"exact_duplicate": 1},
        "2_rows": {"near_duplicate": 1},
        "3_lines": {"contaminated": 1},
        "4_notes": {"too_few_sentences": 1},
        "5_table": {"empty": 1},
    }
    assert sources["3_lines"]["contaminated"] == {"CoLA": 1}


def test_the_report_adds_up(mixed: Path) -> None:
    report = read_json(mixed / "corpus_report.json")
    for source in report["sources"].values():
        assert source["read"] == source["documents"] + sum(source["dropped"].values())
        assert sum(source["words_per_document"].values()) == source["documents"]
        assert sum(source["words_per_sentence"].values()) == source["sentences"]
    assert report["words"] == sum(len(" ".join(row["sentences"]).split()) for row in documents(mixed))
    assert report["books"]["duplicates"] == 1
    assert report["books"]["books_short_of_bookcorpus"] == 11_037
    assert report["evaluation_sets"] == {"CoLA": {"documents": 1}}
    assert report["full_wikipedia"]["hours_by_cores"]["64"] > 0


def test_a_run_contains_only_the_files_of_its_manifest_and_its_records(mixed: Path) -> None:
    outputs = content_of(mixed)["outputs"]
    assert {f"documents/{name}" for name in file_names(mixed / "documents")} == set(outputs)
    records = {"config.yaml", "corpus_report.json", "documents", "manifest.json", "pieces", "quarantine.jsonl"}
    assert file_names(mixed) == records
    for name, entry in outputs.items():
        table = pq.read_table(mixed / name)
        check_schema(table.schema, DOCUMENTS, name)
        assert table.schema.field("sentences").type == pa.list_(pa.string())
        assert table.num_rows == entry["rows"]
        assert sample.check_sha256(mixed / name, entry["sha256"])


def test_a_complete_run_is_skipped_and_another_config_in_its_folder_is_rejected(mixed, capfd, error_line) -> None:
    recipe = ["--recipe", f"{mixed.parent}/recipe.yaml"]
    assert build_corpus.main(recipe) == 0
    assert "skipped" in capfd.readouterr().out
    assert "filters.min_words" in error_line(build_corpus.main([*recipe, "filters.min_words=3"]))


def test_too_much_bad_input_fails_the_run_and_a_higher_limit_completes_it_without_reading_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Four streams with three pages each: one stream is damaged, and one page of another is not well-formed.
    pages = [page(number, f"Page {number}", DOGS.replace("dog", f"dog {number}")) for number in range(12)]
    pages[10] = pages[10].replace("<title>", "<title><b>")
    multistream = write_multistream(tmp_path, pages, pages_per_stream=3, index=False)
    _, _, damaged, _, malformed = multistream.offsets[:5]
    data = bytearray(Path(multistream.uri).read_bytes())
    data[damaged + 60] ^= 255
    Path(multistream.uri).write_bytes(data)
    run_dir, sources = tmp_path / "run", [{"path": multistream.uri}]

    assert run_here(run_dir, sources=sources) == 1
    errors = capsys.readouterr().err
    assert "more input is unusable than fault_tolerance.max_bad_fraction=0.01 allows: wikipedia" in errors
    assert '"reason": "bz2_damaged"' in errors
    assert '"reason": "xml_malformed"' in errors
    assert "Traceback" not in errors
    assert not (run_dir / "manifest.json").exists()

    before = {file: file.stat().st_mtime_ns for file in (run_dir / "pieces/chunks").iterdir()}
    assert run_here(run_dir, "fault_tolerance.max_bad_fraction=0.5", sources=sources) == 0
    assert {file: file.stat().st_mtime_ns for file in (run_dir / "pieces/chunks").iterdir()} == before
    counts = content_of(run_dir)["counts"]
    assert counts["documents"] == 8
    assert counts["sources"]["0_wikipedia"]["quarantined"] == {"bz2_damaged": 1, "xml_malformed": 1}
    listed = [json.loads(line) for line in (run_dir / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["offset"] for entry in listed] == [damaged, malformed]


def test_a_corpus_without_a_document_is_reported_in_one_line(tmp_path: Path, error_line) -> None:
    (tmp_path / "notes.txt").write_text("Too short.\n")
    line = error_line(
        run_here(tmp_path / "run", sources=[{"kind": "text", "name": "notes", "path": f"{tmp_path}/notes.txt"}])
    )
    assert "sources: kept 0 of 1 documents (1 dropped: 1 too few sentences)" in line
