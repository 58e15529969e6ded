import ast
import re
from pathlib import Path

import pytest
import ray.train.v2
import ray.train.v2._internal.constants as train_constants

from distilray.errors import InputError
from distilray.operations.submit.request import runtime_env
from distilray.runtime.session import ENVIRONMENT
from distilray.stages import STAGES
from jobs import submit

FILES = {file.stem: file.read_text(encoding="utf-8") for file in sorted((submit.ROOT / "jobs").glob("[!_]*.py"))}
SENT = [name for name in STAGES if name not in submit.LOCAL_ONLY]
CARDS = [name for name in SENT if (submit.ROOT / "jobs" / "recipes" / name / "card.yaml").is_file()]
CORPUS = "build_corpus --recipe jobs/recipes/build_corpus/quickstart.yaml"
PIPELINE = "run_pipeline jobs/pipelines/reproduction.yaml"
NOWHERE = "--address http://127.0.0.1:9"  # nothing listens there


def run(*arguments: str) -> int:
    """Run the command with an address where nothing listens."""
    return submit.main([word for argument in (NOWHERE, *arguments) for word in argument.split()])


@pytest.mark.parametrize("name", SENT)
def test_a_stage_can_be_submitted_and_its_job_shows_the_command(name):
    assert callable(submit.recipe_reader(name))
    assert "run_dir" in STAGES[name].config_class.model_fields
    command = (
        r"ray job submit --address \S+ --working-dir \. --runtime-env jobs/runtime_env\.yaml -- \\?\s+"
        rf"python -m jobs\.{name} --recipe (jobs/recipes/{name}/\S+\.yaml)"
    )
    shown = re.search(command, ast.get_docstring(ast.parse(FILES[name])) or "")
    assert shown
    assert (submit.ROOT / shown[1]).is_file()


@pytest.mark.parametrize("name", sorted(set(FILES) - {*SENT, "run_pipeline"}))
def test_a_job_that_no_cluster_runs_is_rejected_with_its_own_command(name, error_line):
    line = error_line(run(name, "--recipe x.yaml"))
    assert line.startswith(f"submit: {name} cannot be submitted: ")
    assert submit.LOCAL_ONLY.get(name, f"python -m jobs.{name}") in line


def test_an_unknown_job_is_rejected_with_the_existing_ones():
    with pytest.raises(InputError, match=r"destill: no such job; the jobs are .*distill"):
        submit.recipe_reader("destill")
    assert set(submit.LOCAL_ONLY) <= set(FILES)


@pytest.mark.parametrize("name", CARDS)
def test_every_card_recipe_can_be_submitted_unchanged(name, capsys):
    command = f"{name} --recipe jobs/recipes/{name}/card.yaml"
    assert run("--dry-run", command) == 0
    assert f"python -m jobs.{command}" in capsys.readouterr().out


def test_a_pipeline_is_submitted_with_its_variables_and_chosen_stages(capsys):
    command = f"{PIPELINE} folder=/mnt/runs glue=/mnt/glue distill-student.max_steps=3"
    assert run("--dry-run", command, "--skip distill-no*") == 0
    assert f"python -m jobs.{command} --skip 'distill-no*'" in capsys.readouterr().out


def test_options_can_be_in_any_order_and_a_dry_run_prints_no_token(capsys, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim" * 8)
    outputs = []
    for command in ((NOWHERE, "--dry-run", CORPUS), (CORPUS, "--dry-run", NOWHERE)):
        assert submit.main([*" ".join(command).split(), "run_dir=/mnt/corpus"]) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0] == outputs[1]
    assert re.search(r"^id +build_corpus-[0-9a-f]{12}$", outputs[0].out, re.MULTILINE)
    assert re.search(r"^upload +\d+ files, [12]\.\d MB of ", outputs[0].out, re.MULTILINE)
    assert "geheim" not in str(outputs)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{CORPUS} run_dir=/c filters.min_wrods=3", "filters.min_wrods: unknown key; did you mean 'min_words'?"),
        (CORPUS, "run_dir=runs/quickstart/corpus: relative"),
        ("build_corpus", "required: --recipe"),
        ("", "required: JOB"),
        (f"{CORPUS} run_dir=/c --address ray://head:10001", "http://HOST:PORT"),
        (f"{CORPUS} run_dir=/c", "http://127.0.0.1:9: no answer"),
        (f"{CORPUS} run_dir=/c --env HF_TOKEN=hf_1", "--env HF_TOKEN: looks like a secret"),
        (f"{CORPUS} run_dir=/c --secrets .env", "--secrets .env: give the absolute path"),
        (f"{CORPUS} run_dir=/c --again", "--again was removed"),
        (f"{CORPUS} --stop distill-1", "--stop ID: cannot be combined with JOB"),
        ("--stop distill-1", "http://127.0.0.1:9: no answer"),
        (f"{PIPELINE} glue=/mnt/glue", "write_glue_text.run_dir=runs/reproduction/glue-text: relative"),
        (f"{PIPELINE} folder=/mnt/runs", "write_glue_text.glue_dir=data/glue: relative"),
        (f"{PIPELINE} folder=~/runs glue=/mnt/glue", "the home folder of one machine"),
        (
            f"{PIPELINE} folder=/mnt/runs glue=data --only evaluate_glue-teacher,search_glue-teacher",
            "search_glue-teacher.glue_dir=data",
        ),
        (
            f"{PIPELINE} folder=/mnt/runs --only evaluate_glue-student evaluate_glue-student.model_dir=x",
            "evaluate_glue-student.model_dir=x: rel",
        ),
        (f"{PIPELINE} floder=/mnt/runs", "did you mean 'folder'?"),
        (f"{PIPELINE} folder=s3://key:planted@bucket/runs", "the URI contains credentials"),
    ],
)
def test_a_rejected_command_is_reported_in_one_line(command, message, error_line):
    line = error_line(run(command))
    assert message in line
    assert "planted" not in line


def test_a_recipe_that_the_upload_excludes_and_a_checkout_with_data_are_rejected(checkout, monkeypatch, error_line):
    monkeypatch.setattr(submit, "ROOT", checkout)
    (checkout / "runs").mkdir()
    (checkout / "runs" / "own.yaml").write_text("seed: 1\n")
    pipeline = checkout / "jobs" / "p.yaml"
    pipeline.write_text(
        "stages: {distill: {recipe: ../runs/own.yaml, values: {run_dir: /r, teacher_dir: /t, shards_dir: /s}}}"
    )
    assert "runs/own.yaml: excluded from the upload" in error_line(run("--dry-run", f"run_pipeline {pipeline}"))
    (checkout / "jobs" / "weights.bin").write_bytes(b"x" * 25_000_000)
    recipe = checkout / "jobs/recipes/build_corpus/quickstart.yaml"
    line = error_line(run(f"build_corpus --recipe {recipe} run_dir=/mnt/corpus"))
    assert "the largest are jobs/weights.bin (25.0 MB)" in line


def test_every_variable_for_ray_train_is_read_by_ray_and_set_in_local_sessions():
    variables, _ = runtime_env(submit.ROOT)
    constants = {value: name for name, value in vars(train_constants).items() if name.endswith("_ENV_VAR")}
    files = [file for file in Path(ray.train.v2.__file__).parent.rglob("*.py") if "tests" not in file.parts]
    code = [file.read_text() for file in files if file.name != "constants.py"]
    for variable in [name for name in variables if name.startswith("RAY_TRAIN_")]:
        assert any(constants[variable] in text for text in code), variable
    assert ENVIRONMENT.items() <= variables.items()
