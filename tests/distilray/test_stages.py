import subprocess
import sys
from pathlib import Path

import pytest

import distilray as dr
from distilray import stages
from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.runtime.job import Job
from distilray.stages import STAGES, Run, import_object, run_stage
from jobs import job_names


@pytest.mark.parametrize("name", STAGES)
def test_every_import_string_of_a_stage_can_be_imported(name: str) -> None:
    stage = STAGES[name]
    functions = [stage.plan, stage.run, stage.show, stage.validate, stage.recipes]
    assert all(callable(import_object(function)) for function in functions if function is not None)
    assert issubclass(stage.config_class, JobConfig)


@pytest.mark.parametrize("kind", sorted({*stages._PIN, *stages._FILES}))
def test_every_import_string_of_a_kind_of_input_can_be_imported(kind: str) -> None:
    assert all(callable(import_object(table[kind])) for table in (stages._PIN, stages._FILES) if kind in table)


SCRIPT = """
import contextlib, importlib, sys
from distilray.stages import STAGES
from jobs import job_names
for name in job_names():
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"jobs.{name}").main(["--help"])
for name in STAGES:
    code = importlib.import_module(f"jobs.{name}").main(["--recipe", sys.argv[1], "--dry-run"])
    assert code == 2, name
print(sorted({"torch", "ray", "transformers", "pandas", "matplotlib"} & sys.modules.keys()), file=sys.stderr)
"""


def test_help_and_a_wrong_recipe_of_all_jobs_import_no_slow_package(root: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("no_such_key: 1\n")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("usage:")) == (0, len(job_names())), done.stderr
    assert done.stderr.count("recipe.yaml: ") == len(STAGES)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The configs of the runs that are started, none of which does anything."""
    found: list[object] = []

    def complete(self: Job, given):
        found.append(given)
        return type("Folder", (), {"uri": given.run_dir})

    monkeypatch.setattr(Job, "complete", complete)
    return found


def test_a_stage_takes_runs_and_keys_without_their_endings(configs: list) -> None:
    shards = dr.encode(corpus=Run("c"), tokenizer="hub:a/b", run_dir="s")
    run = dr.distill(teacher="hub:a/b", shards=shards, run_dir="d", max_steps=3)
    assert (configs[0].corpus_dir, configs[0].tokenizer_dir) == ("c", "hub:a/b")
    assert (configs[1].teacher_dir, configs[1].shards_dir, configs[1].max_steps) == ("hub:a/b", "s", 3)
    assert run == Run("d")


def test_runs_in_lists_and_mappings_are_their_folders(configs: list) -> None:
    dr.write_report(run_paths=[Run("a"), "b"], run_dir="r")
    dr.evaluate_bias(models={"teacher": Run("t")}, run_dir="r")
    assert (configs[0].run_paths, configs[1].models) == (["a", "b"], {"teacher": "t"})


def test_an_unknown_argument_is_an_error_that_names_the_stage_and_the_key() -> None:
    with pytest.raises(InputError, match=r"^distill: techer: unknown key; did you mean"):
        run_stage("distill", run_dir="r", techer="t", shards="s", teacher="t")


def test_an_unknown_stage_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"destill.*distill"):
        dr.destill  # noqa: B018


def test_scores_are_those_of_the_file_or_the_last_ones_of_a_training_run(tmp_path: Path) -> None:
    (tmp_path / "heldout.jsonl").write_text('{"step": 0, "loss": 2.0}\n{"step": 4, "loss": 1.0}\n')
    assert Run(str(tmp_path)).scores == {"step": 4, "loss": 1.0}
    (tmp_path / "scores.json").write_text('{"macro": 0.5}')
    assert Run(str(tmp_path)).scores == {"macro": 0.5}


def test_completion_and_help_in_a_notebook_show_the_stages_and_their_keys() -> None:
    assert {"encode", *STAGES} <= set(dir(dr))
    assert dr.distill.__name__ == "distill"
    assert "max_steps" in (dr.distill.__doc__ or "")
