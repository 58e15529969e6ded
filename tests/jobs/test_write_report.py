import shutil
from pathlib import Path

import pytest

from distilray.config.recipe import load_recipe
from distilray.stages import STAGES
from tests.jobs.commands import content_of, file_names, run_job
from tests.tiny.runs import write_line, write_run

RECIPES = sorted(Path("jobs/recipes/write_report").glob("*.yaml"))


@pytest.fixture(scope="module")
def complete_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_line(folder)
    return folder


@pytest.fixture
def runs(complete_runs, tmp_path):
    """Folder with the runs of a complete pipeline."""
    return shutil.copytree(complete_runs, tmp_path / "runs")


def run(runs, *names, run_dir=None, **values):
    paths = [str(runs / name) for name in names]
    return run_job("write_report", run_dir or runs.parent / "report", run_paths=paths, **values)


def test_report_and_card_are_written_and_missing_stages_are_named(runs, capsys):
    assert run(runs, "corpus", "shards", "student") == 0
    report = runs.parent / "report"
    assert file_names(report) == {"report.html", "README.md", "manifest.json", "config.yaml"}
    assert set(content_of(report)["outputs"]) == {"report.html", "README.md"}
    assert "missing: evaluate_fill_mask, evaluate_glue" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("student", "manifest.json", None, "/student: no manifest.json, so no complete run"),
        ("fill_mask", "scores.json", '{"teacher": ', "not JSON"),
        ("fill_mask", "scores.json", "[]", "not a JSON object"),
        ("fill_mask", "scores.json", None, "scores.json is missing"),
        ("student", "metrics.jsonl", '{"step": 1}\n{"step"', "line 2 is not a JSON object"),
        ("student", "config.yaml", "- a", "config.yaml: damaged"),
        ("corpus", "corpus_report.json", "{}", "no 'documents' in its files"),
    ],
)
def test_a_missing_or_damaged_file_of_a_run_is_reported_in_one_line(runs, error_line, name, file, text, message):
    if text is None:
        (runs / name / file).unlink()
    else:
        (runs / name / file).write_text(text)
    line = error_line(run(runs, name))
    assert f"{runs}/{name}" in line
    assert message in line
    assert not (runs.parent / "report/manifest.json").exists()


def test_an_optional_run_is_included_when_it_is_complete(runs, capsys):
    optional = [str(runs / "bias"), str(runs / "nowhere")]
    manifest = (runs / "bias/manifest.json").rename(runs / "manifest.json")
    assert run(runs, "export", optional_paths=optional) == 0
    assert "of 1 runs" in capsys.readouterr().out
    manifest.rename(runs / "bias/manifest.json")
    assert run(runs, "export", optional_paths=optional) == 0
    assert "of 2 runs" in capsys.readouterr().out


def test_a_report_is_written_again_only_when_a_run_has_changed(runs, capsys):
    assert run(runs, "glue") == 0
    assert run(runs, "glue") == 0
    assert "skipped" in capsys.readouterr().out
    shutil.rmtree(runs / "glue")
    write_run(runs / "glue", "distill", counts={"steps": 77}, config={"batch_size": 8})
    assert run(runs, "glue") == 0
    assert "skipped" not in capsys.readouterr().out
    assert "77" in (runs.parent / "report/report.html").read_text()


def test_runs_that_a_report_cannot_show_leave_the_earlier_report_unchanged(runs, capfd, error_line):
    assert run(runs, "export") == 0
    capfd.readouterr()
    before = (runs.parent / "report/manifest.json").read_bytes()
    write_run(runs / "strange", "bake_bread")
    assert f"{runs}/strange: a run of 'bake_bread', which a report cannot show" in error_line(run(runs, "strange"))
    assert (runs.parent / "report/manifest.json").read_bytes() == before


def test_the_folder_of_another_job_is_never_overwritten(runs, error_line):
    message = "contains a run of build_corpus, not of write_report"
    assert message in error_line(run(runs, "student", run_dir=runs / "corpus"))
    assert not (runs / "corpus/report.html").exists()


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_shipped_recipe_reads_folders_that_other_recipes_write(file):
    config = load_recipe(str(file), [], STAGES["write_report"].config_class)
    lines = [line for recipe in Path("jobs/recipes").glob("*/*.yaml") for line in recipe.read_text().splitlines()]
    written = {line.split()[1] for line in lines if line.startswith("run_dir:")}
    assert {*config.run_paths, *config.optional_paths} <= written
