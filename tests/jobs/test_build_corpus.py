import bz2
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from distilray.config import sample
from distilray.schemas import DOCUMENTS, check_schema
from jobs import build_corpus
from tests.distilray.corpus.large_dump import sample_parts

RECIPE = "jobs/recipes/build_corpus/quickstart.yaml"


def recipe(folder: Path, **values: object) -> str:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"run_dir": str(folder / "run"), **values}))
    return str(file)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert build_corpus.main(["--recipe", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def documents(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((folder / "documents").iterdir()) for row in pq.read_table(file).to_pylist()]


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_corpus.main(["--recipe", RECIPE, "--dry-run", f"run_dir={tmp_path}/run"]) == 0
    assert "plan, nothing started" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"<html></html>", "root element <html>"),
        (b"some words", "neither XML nor bz2"),
        (b"<mediawiki></mediawiki>", "a dump without pages"),
        (b"<mediawiki><page><title>T</title></page>", "cut short"),
    ],
)
def test_a_bad_dump_is_reported_in_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    dump = tmp_path / "wiki.xml"
    if content is not None:
        dump.write_bytes(content)
    line = refusal(capsys, recipe(tmp_path, sources=[{"path": str(dump)}]))
    assert str(dump) in line
    assert reason in line


def test_a_dump_that_is_cut_short_is_no_complete_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.xml.bz2"
    cut.write_bytes(sample.wikipedia_dump().read_bytes()[:900_000])
    line = refusal(capsys, recipe(tmp_path, sources=[{"path": str(cut)}]))
    assert f"{cut}: the bz2 data is cut short" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("chunk_md=3", "did you mean 'chunk_mb'"),
        ("filters.min_letter_fraction=2", "filters.min_letter_fraction"),
        ("file_mb=0", "file_mb"),
        ("sources=[]", "sources"),
        ("sources=[{kind: tape, path: x}]", "sources.0"),
        ("sources=[{kind: parquet, path: x, name: y, text: z}]", "unknown key"),
        ("ray.num_cpus=0", "ray.num_cpus"),
        ("decontamination.paths=[]", "decontamination.paths"),
        ("decontamination.paths=[/no/such/glue]", "/no/such/glue"),
        ("tokenizer_path=README.md", "README.md: not a readable tokenizer.json"),
        ("filters.language=xx", "filters.language"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, reason: str
) -> None:
    assert reason in refusal(capsys, RECIPE, f"run_dir={tmp_path}/run", override)


@pytest.fixture(scope="module")
def run_of_one(tmp_path_factory: pytest.TempPathFactory, no_ray: None) -> Path:
    """Return a run with one CPU."""
    folder = tmp_path_factory.mktemp("one") / "run"
    assert build_corpus.main(["--recipe", RECIPE, f"run_dir={folder}", "ray.num_cpus=1"]) == 0
    return folder


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory, run_of_one: Path, local_ray: None) -> Path:
    """Return a run with two CPUs."""
    folder = tmp_path_factory.mktemp("corpus") / "run"
    assert build_corpus.main(["--recipe", RECIPE, f"run_dir={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_every_page_of_the_sample_is_a_document_or_dropped_for_a_reason(sample_run: Path) -> None:
    counts = manifest(sample_run)["content"]["counts"]
    assert counts["read"] == len(sample_parts()[1]) == 206
    assert counts["dropped"]["redirect"] + counts["dropped"].get("not_an_article", 0) == 100
    assert counts["documents"] == 206 - sum(counts["dropped"].values()) > 90


@pytest.mark.slow
def test_the_files_have_the_schema_and_the_hash_of_the_manifest(sample_run: Path) -> None:
    for name, entry in manifest(sample_run)["content"]["outputs"].items():
        table = pq.read_table(sample_run / name)
        check_schema(table.schema, DOCUMENTS, name)
        assert table.schema.field("sentences").type == pa.list_(pa.string())
        assert table.num_rows == entry["rows"]
        assert sample.check_sha256(sample_run / name, entry["sha256"])


@pytest.mark.slow
def test_no_list_table_or_heading_line_of_the_markup_is_a_sentence(sample_run: Path) -> None:
    sentences = {sentence for document in documents(sample_run) for sentence in document["sentences"]}
    line = re.compile(r"^(?:[*#;:|!]|\{\||==)[^\n]*$", re.MULTILINE)
    markup = {
        found.strip(" *#;:|!=\t")
        for page in sample_parts()[1]
        for found in line.findall(page.decode())
        if len(found.split()) > 4
    }
    assert len(markup) > 3000
    assert sentences & markup == set()
    assert not [sentence for sentence in sentences if sentence.startswith(("* ", "# ", "|", "{|", "==", "! "))]


@pytest.mark.slow
def test_the_text_of_the_sample_is_clean(sample_run: Path) -> None:
    counts = manifest(sample_run)["content"]["counts"]
    assert counts["residue_per_1000_words"] < 0.2
    assert counts["holes_per_1000_words"] < 0.5


@pytest.mark.slow
def test_one_cpu_builds_what_two_build(sample_run: Path, run_of_one: Path) -> None:
    assert manifest(run_of_one)["content_hash"] == manifest(sample_run)["content_hash"]


@pytest.mark.slow
def test_the_same_command_again_is_skipped(sample_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_corpus.main(["--recipe", RECIPE, f"run_dir={sample_run}"]) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_refused(sample_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "filters.min_words" in refusal(capsys, RECIPE, f"run_dir={sample_run}", "filters.min_words=3")


@pytest.mark.slow
def test_only_the_documents_and_the_records_remain(sample_run: Path) -> None:
    assert sorted(file.name for file in sample_run.iterdir()) == [
        "config.yaml",
        "corpus_report.json",
        "documents",
        "manifest.json",
        "pieces",
        "quarantine.jsonl",
    ]


DOGS = "The old dog slept under the table of the kitchen. It dreamt of rabbits and of long warm summers by the river."
SHIPS = "A ship came into the harbour in the morning. Its sails were torn, and nobody stood at the helm of it."
TOWERS = "The tower was built of stone by the monks. It stood for nine hundred years before the great flood came."
LEAKED = "one two three four five six seven eight nine ten eleven twelve thirteen"
FOREST = " ".join(f"The path number {n} leads through the forest to the {n}th of the lakes." for n in range(40))


def page(number: int, title: str, text: str) -> str:
    return (
        f"<page><title>{title}</title><ns>0</ns><id>{number}</id>"
        f"<revision><id>{number}0</id><text>{text}</text></revision></page>"
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Return a run with a source of each kind, including exact and near duplicates and evaluation text."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "books").mkdir()
    pages = page(1, "Dogs", DOGS) + page(2, "Forest", FOREST) + page(1, "Dogs again", SHIPS.replace("ship", "boat"))
    (folder / "wiki.xml.bz2").write_bytes(bz2.compress(f"<mediawiki>{pages}</mediawiki>".encode()))
    (folder / "books/ships.txt").write_text(SHIPS)
    (folder / "books/dogs.txt").write_text(DOGS.upper().replace(". ", ".\n"))  # as said before by page 1
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
    values = {
        "duplicates": {"near": {}},
        "decontamination": {"paths": [f"{folder}/CoLA"]},
        "filters": {"max_repeated_fraction": 1.0},
    }
    assert build_corpus.main(["--recipe", recipe(folder, sources=sources, **values)]) == 0
    return folder / "run"


@pytest.mark.slow
def test_each_kind_of_source_gives_documents_with_their_provenance(mixed: Path) -> None:
    kept = [(row["doc_id"], row["source"], row["file"], row["page_id"], row["license"]) for row in documents(mixed)]
    assert kept == [
        ("wikipedia:1", "wikipedia", "wiki.xml.bz2", 1, "CC-BY-SA-4.0"),
        ("wikipedia:2", "wikipedia", "wiki.xml.bz2", 2, "CC-BY-SA-4.0"),
        ("books:ships", "books", "ships.txt", None, "public domain"),
        ("rows:rows.parquet:0", "rows", "rows.parquet", None, "unknown"),
        ("lines:lines.jsonl:0", "lines", "lines.jsonl", None, "unknown"),
        ("table:a.tsv:7", "table", "a.tsv", None, "unknown"),
    ]


@pytest.mark.slow
def test_each_dropped_document_is_counted_for_its_reason_at_its_source(mixed: Path) -> None:
    sources = manifest(mixed)["content"]["counts"]["sources"]
    assert {name: source["dropped"] for name, source in sources.items()} == {
        "0_wikipedia": {"duplicate_id": 1},
        "1_books": {"exact_duplicate": 1},
        "2_rows": {"near_duplicate": 1},
        "3_lines": {"contaminated": 1},
        "4_notes": {"too_few_sentences": 1},
        "5_table": {"empty": 1},
    }
    assert sources["3_lines"]["contaminated"] == {"CoLA": 1}


@pytest.mark.slow
def test_the_report_adds_up(mixed: Path) -> None:
    report = json.loads((mixed / "corpus_report.json").read_text())
    for found in report["sources"].values():
        assert found["read"] == found["documents"] + sum(found["dropped"].values())
        assert sum(found["words_per_document"].values()) == found["documents"]
        assert sum(found["words_per_sentence"].values()) == found["sentences"]
    assert report["words"] == sum(len(" ".join(row["sentences"]).split()) for row in documents(mixed))
    assert report["books"]["duplicates"] == 1
    assert report["books"]["books_short_of_bookcorpus"] == 11_037
    assert report["evaluation_sets"] == {"CoLA": {"documents": 1}}
    assert report["full_wikipedia"]["hours_by_cores"]["64"] > 0


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Write a dump of 4 streams with 3 pages each; one stream is damaged and one page is not well-formed."""
    pages = [page(number, f"Page {number}", DOGS.replace("dog", f"dog {number}")) for number in range(12)]
    pages[10] = pages[10].replace("<title>", "<title><b>")
    streams = [bz2.compress("".join(pages[at : at + 3]).encode()) for at in range(0, 12, 3)]
    streams[1] = streams[1][:60] + bytes([streams[1][60] ^ 255]) + streams[1][61:]
    streams = [bz2.compress(b"<mediawiki>"), *streams, bz2.compress(b"</mediawiki>")]
    dump = tmp_path / "wiki-multistream.xml.bz2"
    dump.write_bytes(b"".join(streams))
    return dump


@pytest.mark.slow
def test_bad_input_beyond_its_fraction_fails_with_the_list_and_what_is_good_is_not_read_again(
    damaged: Path, tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe(tmp_path, sources=[{"path": str(damaged)}])
    assert build_corpus.main(["--recipe", file]) == 1
    errors = capsys.readouterr().err
    assert "more input is unusable than fault_tolerance.max_bad_fraction=0.01 allows: wikipedia" in errors
    assert '"reason": "bz2_damaged"' in errors
    assert '"reason": "xml_malformed"' in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run/manifest.json").exists()
    before = {mark: mark.stat().st_mtime_ns for mark in (tmp_path / "run/pieces/chunks").iterdir()}
    assert build_corpus.main(["--recipe", file, "fault_tolerance.max_bad_fraction=0.5"]) == 0
    assert {mark: mark.stat().st_mtime_ns for mark in (tmp_path / "run/pieces/chunks").iterdir()} == before
    counts = manifest(tmp_path / "run")["content"]["counts"]
    assert counts["documents"] == 8
    assert counts["sources"]["0_wikipedia"]["quarantined"] == {"bz2_damaged": 1, "xml_malformed": 1}
    listed = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert [entry["offset"] for entry in listed] == [
        damaged.read_bytes().index(b"BZh9", offset)
        for offset in (len(bz2.compress(b"<mediawiki>")) + 1, listed[1]["offset"])
    ]


@pytest.mark.slow
def test_files_of_an_unfinished_run_are_not_part_of_the_corpus(tmp_path: Path, local_ray: None) -> None:
    dump = tmp_path / "wiki.xml"
    dump.write_text(f"<mediawiki>{page(1, 'Dogs', DOGS)}</mediawiki>")
    left = tmp_path / "run/documents/documents-00007-000.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert build_corpus.main(["--recipe", recipe(tmp_path, sources=[{"path": str(dump)}])]) == 0
    assert [file.name for file in left.parent.iterdir()] == ["documents-00000-000.parquet"]


@pytest.mark.slow
def test_a_corpus_of_which_nothing_is_kept_is_reported_in_one_line(
    tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("Too short.\n")
    file = recipe(tmp_path, sources=[{"kind": "text", "name": "notes", "path": f"{tmp_path}/notes.txt"}])
    assert "sources: kept 0 of 1 documents (1 dropped: 1 too few sentences)" in refusal(capsys, file)
