"""Command line shared by all jobs, with a small job that counts the words of a file.

More text.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest
from pydantic import Field

from distilray.config.base import Config, InputDir, InputFile, JobConfig, ModelRef, SeededConfig, map_locations
from distilray.errors import DataQualityError, InputError
from distilray.runtime import storage
from distilray.runtime.job import Job, Outcome, Quantity, absolute_location, results_to_open, run_command
from distilray.runtime.run_folder import RunFolder, read_manifest


class CountWords(SeededConfig):
    text: InputFile
    least: int = 1


def plan(config):
    if not storage.exists(config.text):
        raise InputError(f"{config.text}: no such file")
    return {"bytes read": storage.file_size(config.text)}


def count_words(config, folder):
    words = storage.read_bytes(config.text).split()
    storage.write_bytes(folder.path("words.txt"), str(len(words)).encode())
    return Outcome(f"{len(words)} words", {"words": len(words)}, {"words.txt": {"rows": 1}})


def run(*arguments, work=count_words, plan=plan):
    job = Job(name="count_words", config_class=CountWords, plan=plan, run=work)
    return run_command(job.name, lambda: job, lambda: job.config_class, arguments, description=__doc__)


def run_failing(error, *arguments):
    def fail(config, folder):
        raise error

    return run(*arguments, work=fail)


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "text.txt").write_text("one two three")
    file = tmp_path / "recipe.yaml"
    file.write_text(f"run_dir: {tmp_path}/run\ntext: {tmp_path}/text.txt\n")
    return f"--recipe={file}"


def test_a_run_ends_with_zero_a_summary_and_a_manifest_and_is_skipped_afterwards(recipe, tmp_path, capsys):
    assert run(recipe) == 0
    assert capsys.readouterr().out == f"count_words: 3 words in 0 s -> {tmp_path}/run\n"
    content = read_manifest(str(tmp_path / "run"))["content"]
    assert (content["counts"], content["outputs"]) == ({"words": 3}, {"words.txt": {"rows": 1}})
    assert run_failing(AssertionError("it ran again"), recipe) == 0
    assert "count_words: 3 words (complete since" in capsys.readouterr().out


def test_a_failed_run_is_repeated(recipe, tmp_path):
    assert run_failing(RuntimeError("x"), recipe) == 1
    assert not (tmp_path / "run/manifest.json").exists()
    assert run(recipe) == 0


def test_a_dry_run_prints_the_plan_without_running(recipe, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert run_failing(AssertionError("it ran"), "least=2", recipe, "seed=3", "--dry-run", "seed=4") == 0
    assert capsys.readouterr().out == "count_words: plan, nothing started\nbytes read       13\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_the_json_of_a_run_is_its_manifest_and_everything_else_is_on_stderr(recipe, tmp_path, capsys):
    assert run(recipe, "--json") == 0
    output = capsys.readouterr()
    run_dir = f"{tmp_path}/run"
    manifest = read_manifest(run_dir)
    assert json.loads(output.out) == {"job": "count_words", "run_dir": run_dir, "manifest": manifest, "open": {}}
    assert output.err == f"count_words: 3 words in 0 s -> {run_dir}\n"


def test_the_json_of_a_dry_run_is_the_plan_with_its_numbers(recipe, capsys):
    def plan_words(config):
        return {"text": config.text, "time": Quantity("about 2 min", 120.5, "s"), "least": config.least}

    assert run(recipe, "--json", "--dry-run", plan=plan_words) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["job"], values["expected"]) == ("count_words", {"s": 120.5})
    assert (values["plan"]["time"], values["plan"]["least"]) == ("about 2 min", "1")


@pytest.mark.parametrize("options", [["--json"], ["--json", "--dry-run"]])
def test_bad_input_prints_no_json(recipe, options, capsys):
    assert run(recipe, "least=two", *options) == 2
    assert capsys.readouterr().out == ""


def test_a_wrong_recipe_is_reported_without_importing_the_job(recipe, capsys):
    def load():
        raise AssertionError("imported")

    assert run_command("count_words", load, lambda: CountWords, [recipe, "least=two"]) == 2
    assert "least: " in capsys.readouterr().err


def finished(folder, job, *files):
    """Return the folder of a run of a job with some files."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return RunFolder(job, JobConfig(run_dir=str(folder)), {})


def test_the_results_to_open_are_those_of_the_student_not_of_the_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = finished(tmp_path / "runs/teacher", "train_teacher", "model/config.json")
    student = finished(tmp_path / "runs/my student", "distill", "model/config.json")
    report = finished(tmp_path / "runs/report", "write_report", "report.html", "README.md")
    assert results_to_open([teacher, student, report]) == {
        "report": "runs/report/report.html",
        "model_card": "runs/report/README.md",
        "model": "runs/my student/model",
        "serve": "python -m jobs.serve_fill_mask app.model_dir='runs/my student/model'",
    }
    monkeypatch.chdir(tmp_path / "runs/report")
    assert results_to_open([teacher])["model"] == f"{tmp_path}/runs/teacher/model"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: --recipe; see python -m jobs.count_words --help"),
        ("--recipe", "argument --recipe: expected one argument; see python -m jobs.count_words --help"),
        ("RECIPE --wrong", "unrecognized arguments: --wrong"),
        ("RECIPE --dry", "unrecognized arguments: --dry"),
        ("--recipe absent.yaml", "absent.yaml: no such recipe file"),
        ("RECIPE leest=2", "leest: unknown key; did you mean 'least'?"),
        ("RECIPE least=two", "least: Input should be a valid integer"),
        ("RECIPE seed=-1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("RECIPE least", "override 'least': write it as key=value"),
        ("RECIPE text=absent.txt", "absent.txt: no such file or folder"),
        ("RECIPE text=absent.txt --dry-run", "count_words: absent.txt: no such file"),
        ("RECIPE run_dir=ftp://host/x", "scheme 'ftp' is not one of"),
    ],
)
def test_bad_input_is_reported_in_one_line_with_exit_code_2(recipe, capsys, arguments, message):
    assert run(*arguments.replace("RECIPE", recipe).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("count_words: ")
    assert message in line


def test_a_run_with_another_config_in_the_folder_is_bad_input(recipe, capsys):
    run(recipe)
    assert run(recipe, "least=2") == 2
    assert "contains a run with different least" in capsys.readouterr().err


class TaskError(Exception):
    """Error of a Ray worker."""

    cause = InputError("dump.xml: not a dump\n  at row 3")


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (TaskError("traceback"), 2, ["dump.xml: not a dump at row 3"]),
        (PermissionError(13, "denied", "/x"), 2, [f"/x: permission denied; give user {os.getuid()} access to it"]),
        (KeyboardInterrupt(), 130, ["interrupted; run the same command again to resume"]),
        (DataQualityError("unusable", ["a at byte 3", "b"]), 1, ["unusable", "a at byte 3", "b"]),
    ],
    ids=["bad input on a worker", "permission", "interrupt", "data quality"],
)
def test_an_error_determines_exit_code_and_message(recipe, capsys, error, code, lines):
    assert run_failing(error, recipe) == code
    assert capsys.readouterr().err.splitlines() == [f"count_words: {lines[0]}", *lines[1:]]


def test_sigterm_interrupts_a_job_and_its_handler_is_restored(recipe, capsys):
    def wait(config, folder):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        raise AssertionError("not interrupted")

    before = signal.getsignal(signal.SIGTERM)
    assert run(recipe, work=wait) == 130
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_shows_the_command_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--help")
    output = capsys.readouterr().out
    assert ended.value.code == 0
    for text in ("python -m jobs.count_words", "Command line shared by all jobs", "2 bad input"):
        assert text in output
    assert "More text" not in output


SCRIPT = """
import sys
from distilray.config.base import SeededConfig
from distilray.runtime.job import Job, Outcome, run_command

def work(config, folder):
    if config.seed == 1:
        1 / 0
    for _ in range(100_000):
        print("a line")
    return Outcome("done")

sys.exit(run_command("x", lambda: Job("x", SeededConfig, lambda c: {}, work), lambda: SeededConfig))
"""


@pytest.mark.parametrize(("seed", "error"), [(1, "ZeroDivisionError: division by zero\n"), (2, "")])
def test_a_process_shows_the_traceback_of_a_bug_but_not_of_a_closed_pipe(tmp_path, root, seed, error):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"run_dir: {tmp_path}/run\nseed: {seed}\n")
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    popen = functools.partial(subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with popen([sys.executable, "-c", SCRIPT, "--recipe", str(recipe)], env=environment) as process:
        process.stdout.readline()
        process.stdout.close()
        output = process.stderr.read()
    assert process.returncode == 1
    assert output.endswith(error)
    assert bool(output) == bool(error)


class Section(Config):
    teacher_run_dir: InputDir


class Recipe(JobConfig):
    model_dir: ModelRef
    section: Section
    sections: tuple[Section, ...] = ()
    models: Mapping[str, ModelRef] = Field(default={})
    none_dir: InputDir | None = None


def test_relative_folders_become_absolute_also_in_sections(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    section = Section(teacher_run_dir="runs/b")
    recipe = Recipe(run_dir="runs/a", model_dir="hub:x/y", section=section, sections=(section,), models={"m": "runs/c"})
    config = map_locations(recipe, absolute_location)
    assert (config.run_dir, config.models) == (f"{tmp_path}/runs/a", {"m": f"{tmp_path}/runs/c"})
    assert [each.teacher_run_dir for each in (config.section, *config.sections)] == [f"{tmp_path}/runs/b"] * 2
    assert (config.model_dir, config.none_dir) == ("hub:x/y", None)
    uris = Recipe(run_dir="s3://a/b", model_dir="sample:encoder", section=Section(teacher_run_dir="gs://c"))
    assert map_locations(uris, absolute_location) == uris
