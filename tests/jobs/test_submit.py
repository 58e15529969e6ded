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
CORPUS = ["build_corpus", "--recipe", "jobs/recipes/build_corpus/quickstart.yaml", "run_dir=/mnt/corpus"]
NOWHERE = ["--address", "http://127.0.0.1:9"]  # nobody listens there


@pytest.mark.parametrize("name", SENT)
def test_every_job_with_a_run_folder_can_be_submitted(name):
    assert callable(submit.recipe_reader(name))
    assert "run_dir" in STAGES[name].config_class.model_fields


@pytest.mark.parametrize("name", SENT)
def test_every_job_that_can_be_submitted_shows_the_command_of_ray(name):
    text = ast.get_docstring(ast.parse(FILES[name])) or ""
    form = (
        r"ray job submit --address \S+ --working-dir \. --runtime-env jobs/runtime_env\.yaml -- \\?\s+"
        rf"python -m jobs\.{name} --recipe (jobs/recipes/{name}/\S+\.yaml)"
    )
    shown = re.search(form, text)
    assert shown
    assert (submit.ROOT / shown[1]).is_file()


@pytest.mark.parametrize("name", sorted(set(FILES) - {*SENT, "run_pipeline"}))
def test_what_is_no_job_of_a_cluster_is_refused_with_the_way_to_run_it(name, capsys):
    assert submit.main([name, "--recipe", "x.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"submit: {name} cannot be submitted: ")
    assert submit.LOCAL_ONLY.get(name, f"python -m jobs.{name}") in line


def test_what_runs_elsewhere_exists():
    assert set(submit.LOCAL_ONLY) <= set(FILES)


def test_an_unknown_job_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"destill: no such job; the jobs are .*distill"):
        submit.recipe_reader("destill")


PIPELINE = ["run_pipeline", "jobs/pipelines/reproduction.yaml"]


def test_a_pipeline_is_sent_with_its_variables_and_chosen_stages(capsys):
    command = [*PIPELINE, "folder=/mnt/runs", "glue=/mnt/glue", "distill-student.max_steps=3", "--skip", "distill-no*"]
    assert submit.main([*NOWHERE, "--dry-run", *command]) == 0
    sent = "run_pipeline jobs/pipelines/reproduction.yaml folder=/mnt/runs glue=/mnt/glue distill-student.max_steps=3"
    assert f"python -m jobs.{sent} --skip 'distill-no*'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glue=/mnt/glue"], "write_glue_text.run_dir=runs/reproduction/glue-text: relative"),
        (["folder=/mnt/runs"], "write_glue_text.glue_dir=data/glue: relative"),
        (["folder=~/runs", "glue=/mnt/glue"], "the home folder of one machine"),
        (
            ["folder=/mnt/runs", "glue=data", "--only", "evaluate_glue-teacher,search_glue-teacher"],
            "search_glue-teacher.glue_dir=data",
        ),
        (
            ["folder=/mnt/runs", "--only", "evaluate_glue-student", "evaluate_glue-student.model_dir=x"],
            "evaluate_glue-student.model_dir=x: rel",
        ),
        (["floder=/mnt/runs"], "did you mean 'folder'?"),
        (["folder=s3://key:planted@bucket/runs"], "a login in a URI"),
    ],
)
def test_a_pipeline_that_a_cluster_cannot_run_is_one_line_with_the_stage_and_the_key(arguments, message, capsys):
    assert submit.main([*NOWHERE, "--dry-run", *PIPELINE, *arguments]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert message in line
    assert "planted" not in line


def test_a_recipe_of_a_pipeline_that_the_upload_leaves_out_is_refused(checkout, monkeypatch, capsys):
    monkeypatch.setattr(submit, "ROOT", checkout)
    (checkout / "runs").mkdir()
    (checkout / "runs" / "own.yaml").write_text("seed: 1\n")
    (checkout / "jobs" / "p.yaml").write_text(
        "stages: {distill: {recipe: ../runs/own.yaml, values: {run_dir: /r, teacher_dir: /t, shards_dir: /s}}}"
    )
    assert submit.main([*NOWHERE, "--dry-run", "run_pipeline", str(checkout / "jobs" / "p.yaml")]) == 2
    assert "runs/own.yaml: the upload leaves it out" in capsys.readouterr().err


@pytest.mark.parametrize("name", CARDS)
def test_every_recipe_of_the_card_can_be_sent_as_it_is(name, capsys):
    assert submit.main([*NOWHERE, "--dry-run", name, "--recipe", f"jobs/recipes/{name}/card.yaml"]) == 0
    assert f"python -m jobs.{name} --recipe jobs/recipes/{name}/card.yaml" in capsys.readouterr().out


def test_a_dry_run_needs_no_cluster_and_no_order_of_options_and_shows_no_token(capsys, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "geheim" * 8)
    told = []
    for command in ([*NOWHERE, "--dry-run", *CORPUS], [*CORPUS, "--dry-run", *NOWHERE]):
        assert submit.main(command) == 0
        told.append(capsys.readouterr())
    assert told[0] == told[1]
    assert re.search(r"^id +build_corpus-[0-9a-f]{12}$", told[0].out, re.MULTILINE)
    assert re.search(r"^upload +\d+ files, [12]\.\d MB of ", told[0].out, re.MULTILINE)
    assert "geheim" not in str(told)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ([*CORPUS, "filters.min_wrods=3"], "filters.min_wrods: unknown key; did you mean 'min_words'?"),
        ([*CORPUS[:3]], "run_dir=runs/quickstart/corpus: relative"),
        (["build_corpus"], "required: --recipe"),
        ([], "required: JOB"),
        ([*CORPUS, "--address", "ray://head:10001"], "http://HOST:PORT"),
        ([*CORPUS], "http://127.0.0.1:9: no answer"),
        ([*CORPUS, "--env", "HF_TOKEN=hf_1"], "--env HF_TOKEN: looks like a secret"),
        ([*CORPUS, "--secrets", ".env"], "--secrets .env: give the absolute path"),
        ([*CORPUS, "--again"], "--again was removed"),
        ([*CORPUS, "--stop", "distill-1"], "--stop ID: takes no JOB"),
        (["--stop", "distill-1"], "http://127.0.0.1:9: no answer"),
    ],
    ids=[
        "unknown key",
        "relative folder",
        "no recipe",
        "no job",
        "address",
        "no cluster",
        "secret",
        "relative secrets",
        "removed option",
        "stop and submit",
        "stop without a cluster",
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(command, told, capsys):
    assert submit.main([*NOWHERE, *command]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert told in line
    assert printed.out == ""


def test_a_checkout_that_holds_data_is_refused_before_anything_is_sent(checkout, monkeypatch, capsys):
    (checkout / "jobs" / "weights.bin").write_bytes(b"x" * 25_000_000)
    monkeypatch.setattr(submit, "ROOT", checkout)
    recipe = str(checkout / CORPUS[2])
    assert submit.main([*NOWHERE, "build_corpus", "--recipe", recipe, "run_dir=/mnt/corpus"]) == 2
    assert "the largest are jobs/weights.bin (25.0 MB)" in capsys.readouterr().err


def test_every_variable_for_ray_train_is_one_that_ray_reads():
    env_vars, _ = runtime_env(submit.ROOT)
    constants = {value: name for name, value in vars(train_constants).items() if name.endswith("_ENV_VAR")}
    folder = Path(ray.train.v2.__file__).parent
    read = [
        file.read_text() for file in folder.rglob("*.py") if file.name != "constants.py" and "tests" not in file.parts
    ]
    for variable in [name for name in env_vars if name.startswith("RAY_TRAIN_")]:
        assert any(constants[variable] in text for text in read), variable


def test_a_session_without_a_cluster_sets_what_a_submitted_job_gets():
    env_vars, _ = runtime_env(submit.ROOT)
    assert ENVIRONMENT.items() <= env_vars.items()
