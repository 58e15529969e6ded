import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from distilray.corpus.wikipedia import open_dump, read_pages
from distilray.runtime import sample
from distilray.schemas import DOCUMENTS, check_schema
from jobs import build_corpus

RECIPE = "jobs/recipes/build_corpus/quickstart.yaml"
RECIPES = sorted(str(file) for file in Path("jobs/recipes/build_corpus").glob("*.yaml"))


def recipe(folder: Path, **values: object) -> str:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"run_dir": str(folder / "run"), **values}))
    return str(file)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert build_corpus.main(["--recipe", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("file", RECIPES)
def test_every_shipped_recipe_is_valid(file: str) -> None:
    build_corpus.JOB.config_class.model_validate(yaml.safe_load(Path(file).read_text()))


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
    ],
)
def test_a_bad_dump_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    dump = tmp_path / "wiki.xml"
    if content is not None:
        dump.write_bytes(content)
    line = refusal(capsys, recipe(tmp_path, sources=[{"path": str(dump)}]))
    assert str(dump) in line
    assert reason in line


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("page_per_block=3", "did you mean 'pages_per_block'"),
        ("filters.min_letter_fraction=2", "filters.min_letter_fraction"),
        ("documents_per_file=0", "documents_per_file"),
        ("sources=[]", "sources"),
        ("ray.num_cpus=0", "ray.num_cpus"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, reason: str
) -> None:
    assert reason in refusal(capsys, RECIPE, f"run_dir={tmp_path}/run", override)


@pytest.fixture(scope="module")
def two_cpu_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "two"
    assert build_corpus.main(["--recipe", RECIPE, f"run_dir={folder}", "ray.num_cpus=2"]) == 0
    return folder


def manifest(folder: Path) -> dict[str, object]:
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.slow
def test_every_article_of_the_sample_is_a_document_or_dropped_for_a_reason(two_cpu_run: Path) -> None:
    counts = manifest(two_cpu_run)["content"]["counts"]
    pages = list(read_pages(open_dump(str(sample.wikipedia_dump()))))
    assert counts["pages"] == len(pages) == 206
    assert counts["dropped"]["redirect"] + counts["dropped"]["not_an_article"] == 100
    assert counts["documents"] == 206 - sum(counts["dropped"].values()) > 90


@pytest.mark.slow
def test_the_files_have_the_schema_and_the_hash_of_the_manifest(two_cpu_run: Path) -> None:
    for name, entry in manifest(two_cpu_run)["content"]["outputs"].items():
        table = pq.read_table(two_cpu_run / name)
        check_schema(table.schema, DOCUMENTS, name)
        assert table.schema.field("sentences").type == pa.list_(pa.string())
        assert table.num_rows == entry["rows"]
        assert sample.check_sha256(two_cpu_run / name, entry["sha256"])


@pytest.mark.slow
def test_no_list_table_or_heading_line_of_the_markup_is_a_sentence(two_cpu_run: Path) -> None:
    sentences = {
        sentence
        for file in (two_cpu_run / "documents").iterdir()
        for document in pq.read_table(file)["sentences"].to_pylist()
        for sentence in document
    }
    line = re.compile(r"^(?:[*#;:|!]|\{\||==)[^\n]*$", re.MULTILINE)
    markup = {
        found.strip(" *#;:|!=\t")
        for page in read_pages(open_dump(str(sample.wikipedia_dump())))
        for found in line.findall(page.text)
        if len(found.split()) > 4
    }
    assert len(markup) > 3000
    assert sentences & markup == set()
    assert not [sentence for sentence in sentences if sentence.startswith(("* ", "# ", "|", "{|", "==", "! "))]


@pytest.mark.slow
def test_the_text_of_the_sample_is_clean(two_cpu_run: Path) -> None:
    counts = manifest(two_cpu_run)["content"]["counts"]
    assert counts["residue_per_1000_words"] < 0.2
    assert counts["holes_per_1000_words"] < 0.5


@pytest.mark.slow
def test_one_cpu_builds_what_two_build(two_cpu_run: Path, tmp_path: Path) -> None:
    assert build_corpus.main(["--recipe", RECIPE, f"run_dir={tmp_path}/one", "ray.num_cpus=1"]) == 0
    assert manifest(tmp_path / "one")["content_hash"] == manifest(two_cpu_run)["content_hash"]


@pytest.mark.slow
def test_the_same_command_again_is_skipped(two_cpu_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_corpus.main(["--recipe", RECIPE, f"run_dir={two_cpu_run}"]) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_refused(two_cpu_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "filters.min_words" in refusal(capsys, RECIPE, f"run_dir={two_cpu_run}", "filters.min_words=3")


@pytest.mark.slow
def test_a_dump_that_is_cut_short_is_one_line_and_no_complete_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.xml.bz2"
    cut.write_bytes(sample.wikipedia_dump().read_bytes()[:900_000])
    line = refusal(capfd, recipe(tmp_path, sources=[{"path": str(cut)}]))
    assert f"{cut}: the bz2 data is cut short" in line
    assert not (tmp_path / "run/manifest.json").exists()


@pytest.mark.slow
def test_what_an_unfinished_run_left_is_cleared(tmp_path: Path) -> None:
    pages = "".join(
        f"<page><title>T</title><ns>0</ns><id>{n}</id>"
        f"<revision><text>{'The dog barks a lot. ' * 20}</text></revision></page>"
        for n in range(5)
    )
    dump = tmp_path / "wiki.xml"
    dump.write_text(f"<mediawiki>{pages}</mediawiki>")
    left = tmp_path / "run/documents/documents-00007.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert build_corpus.main(["--recipe", recipe(tmp_path, sources=[{"path": str(dump)}], documents_per_file=2)]) == 0
    assert [file.name for file in sorted(left.parent.iterdir())] == [f"documents-0000{n}.parquet" for n in range(3)]
