import json
import shutil
from pathlib import Path

import pytest

from distilray.config.recipe import load_recipe
from distilray.stages import STAGES
from jobs import write_report
from tests.tiny.recipes import write_recipe
from tests.tiny.runs import write_line, write_run

RECIPES = sorted(Path("jobs/recipes/write_report").glob("*.yaml"))


@pytest.fixture
def line(tmp_path):
    write_line(tmp_path / "line")
    return tmp_path / "line"


def run(line, names, *arguments, **values):
    paths = [str(line / name) for name in names]
    folder = line.parent
    recipe = write_recipe(folder, run_dir=str(folder / "report"), run_paths=paths, **values)
    return write_report.main(["--recipe", recipe, *arguments])


def refusal(line, names, capfd, **values):
    assert run(line, names, **values) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert not (line.parent / "report").exists()
    return said


def test_report_and_card_are_next_to_the_manifest(line, capsys):
    assert run(line, ["corpus", "shards", "student"]) == 0
    folder = line.parent / "report"
    assert {file.name for file in folder.iterdir()} == {"report.html", "README.md", "manifest.json", "config.yaml"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["content"]["outputs"]) == {"report.html", "README.md"}
    assert "missing: train_teacher, evaluate_fill_mask" in capsys.readouterr().out


def test_a_run_that_is_not_complete_is_reported_in_one_line(line, capfd):
    (line / "student/manifest.json").unlink()
    said = refusal(line, ["corpus", "student"], capfd)
    assert f"{line}/student: no manifest.json, so no complete run" in said


def test_a_run_of_an_unknown_job_is_reported_in_one_line(line, capfd):
    write_run(line / "strange", "bake_bread")
    assert f"{line}/strange: a run of 'bake_bread', which a report cannot show" in refusal(line, ["strange"], capfd)


def test_a_duplicate_run_is_reported_in_one_line(line, capfd):
    assert "given twice" in refusal(line, ["student", "student"], capfd)


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("fill_mask", "scores.json", '{"teacher": ', "not JSON"),
        ("fill_mask", "scores.json", "[]", "not a JSON object"),
        ("fill_mask", "scores.json", None, "scores.json is missing"),
        ("student", "metrics.jsonl", '{"step": 1}\n{"step"', "line 2 is not a JSON object"),
        ("student", "config.yaml", "- a", "config.yaml: damaged"),
        ("corpus", "corpus_report.json", "{}", "no 'documents' in its files"),
    ],
)
def test_a_torn_file_of_a_run_is_reported_in_one_line_that_names_it(line, capfd, name, file, text, message):
    if text is None:
        (line / name / file).unlink()
    else:
        (line / name / file).write_text(text)
    assert run(line, [name]) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert f"{line}/{name}" in said
    assert message in said
    assert not (line.parent / "report/manifest.json").exists()


def test_an_optional_run_counts_when_it_is_complete(line, capsys):
    optional = [str(line / "bias"), str(line / "nowhere")]
    marks = (line / "bias/manifest.json").rename(line / "aside.json")
    assert run(line, ["export"], optional_paths=optional) == 0
    assert "of 1 runs" in capsys.readouterr().out
    marks.rename(line / "bias/manifest.json")
    assert run(line, ["export"], optional_paths=optional) == 0
    assert "of 2 runs" in capsys.readouterr().out


def test_a_report_is_written_again_when_a_run_has_changed_and_only_then(line, capsys):
    assert run(line, ["glue"]) == 0
    assert run(line, ["glue"]) == 0
    assert "skipped" in capsys.readouterr().out
    shutil.rmtree(line / "glue")
    write_run(line / "glue", "distill", counts={"steps": 77}, config={"batch_size": 8})
    assert run(line, ["glue"]) == 0
    assert "skipped" not in capsys.readouterr().out
    assert "77" in (line.parent / "report/report.html").read_text()


def test_a_report_stays_when_the_new_runs_cannot_be_read(line, capfd):
    assert run(line, ["export"]) == 0
    before = (line.parent / "report/manifest.json").read_bytes()
    write_run(line / "strange", "bake_bread")
    assert run(line, ["strange"]) == 2
    assert (line.parent / "report/manifest.json").read_bytes() == before


def test_the_folder_of_another_job_is_never_written_to(line, capfd):
    assert run(line, ["student"], f"run_dir={line}/corpus") == 2
    assert "contains a run of build_corpus, not of write_report" in capfd.readouterr().err
    assert not (line / "corpus/report.html").exists()


def test_a_dry_run_lists_runs_and_what_is_missing_and_writes_nothing(line, capsys):
    assert run(line, ["corpus", "student"], "--dry-run") == 0
    said = capsys.readouterr().out
    assert "what distill has done" in said
    assert "evaluate_glue" in said
    assert not (line.parent / "report").exists()


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_names_the_folders_that_the_other_jobs_write(file):
    config = load_recipe(str(file), [], STAGES["write_report"].config_class)
    written = set()
    for recipe in Path("jobs/recipes").glob("*/*.yaml"):
        written |= {text.split()[1] for text in recipe.read_text().splitlines() if text.startswith("run_dir:")}
    assert {*config.run_paths, *config.optional_paths} <= written
