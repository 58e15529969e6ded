"""The command line of every job, tested with a small one.

Counts the words of a file.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from distilray.config.base import Config, InputDir, InputFile, JobConfig, ModelRef, SeededConfig, map_locations
from distilray.errors import DataQualityError, InputError
from distilray.runtime import storage
from distilray.runtime.job import Job, Outcome, absolute_location, run_command
from distilray.runtime.run_folder import RunFolder, read_manifest


class CountWords(SeededConfig):
    text: InputFile
    least: int = 1


def plan(config: CountWords) -> dict[str, object]:
    if not storage.exists(config.text):
        raise InputError(f"{config.text}: no such file")
    return {"bytes read": storage.file_size(config.text)}


def run(config: CountWords, folder: RunFolder) -> Outcome:
    words = storage.read_bytes(config.text).split()
    storage.write_bytes(folder.path("words.txt"), str(len(words)).encode())
    return Outcome(f"{len(words)} words", {"words": len(words)}, {"words.txt": {"rows": 1}})


def job_of(work: Callable[[CountWords, RunFolder], Outcome] = run) -> Callable[[list[str]], int]:
    job = Job(name="count_words", config_class=CountWords, plan=plan, run=work)
    return functools.partial(run_command, job.name, lambda: job, description=__doc__)


def failing(error: BaseException) -> Callable[[list[str]], int]:
    def fail(config: CountWords, folder: RunFolder) -> Outcome:
        raise error

    return job_of(fail)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("one two three")
    file = tmp_path / "recipe.yaml"
    file.write_text(f"run_dir: {tmp_path}/run\ntext: {tmp_path}/text.txt\n")
    return file


Captured = pytest.CaptureFixture[str]


def one_line(captured: Captured) -> str:
    """The only line on stderr."""
    lines = captured.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_ends_with_zero_a_summary_and_a_manifest(recipe: Path, capsys: Captured) -> None:
    assert job_of()(["--recipe", str(recipe)]) == 0
    assert capsys.readouterr().out == f"count_words: 3 words in 0 s -> {recipe.parent}/run\n"
    assert read_manifest(str(recipe.parent / "run"))["content"]["counts"] == {"words": 3}


def test_a_complete_run_is_skipped(recipe: Path, capsys: Captured) -> None:
    job_of()(["--recipe", str(recipe)])
    assert failing(AssertionError("it ran again"))(["--recipe", str(recipe)]) == 0
    assert "complete since" in capsys.readouterr().out


def test_a_failed_run_is_done_again(recipe: Path) -> None:
    assert failing(RuntimeError("x"))(["--recipe", str(recipe)]) == 1
    assert not (recipe.parent / "run" / "manifest.json").exists()
    assert job_of()(["--recipe", str(recipe)]) == 0


def test_a_dry_run_prints_the_plan_and_writes_and_starts_nothing(recipe: Path, capsys: Captured) -> None:
    before = sorted(recipe.parent.rglob("*"))
    assert failing(AssertionError("it ran"))(["--recipe", str(recipe), "--dry-run"]) == 0
    assert capsys.readouterr().out == "count_words: plan, nothing started\nbytes read       13\n"
    assert sorted(recipe.parent.rglob("*")) == before


def test_a_dry_run_finds_bad_input_like_a_run(recipe: Path, capsys: Captured) -> None:
    assert job_of()(["--recipe", str(recipe), "--dry-run", "text=absent.txt"]) == 2
    assert one_line(capsys) == "count_words: absent.txt: no such file"


def test_overrides_and_flags_may_come_in_any_order(recipe: Path) -> None:
    assert job_of()(["least=2", "--recipe", str(recipe), "seed=3", "--dry-run", "seed=4"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --recipe"),
        (["--recipe"], "argument --recipe: expected one argument"),
        (["--recipe", "RECIPE", "--wrong"], "unrecognized arguments: --wrong"),
        (["--recipe", "RECIPE", "--dry"], "unrecognized arguments: --dry"),
        (["--recipe", "absent.yaml"], "absent.yaml: no such recipe file"),
        (["--recipe", "RECIPE", "leest=2"], "leest: unknown key; did you mean 'least'?"),
        (["--recipe", "RECIPE", "least=two"], "least: Input should be a valid integer"),
        (["--recipe", "RECIPE", "seed=-1"], "seed: Input should be greater than or equal to 0 (got -1)"),
        (["--recipe", "RECIPE", "least"], "override 'least': write it as key=value"),
        (["--recipe", "RECIPE", "text=absent.txt"], "absent.txt: no such file or folder"),
        (["--recipe", "RECIPE", "run_dir=ftp://host/x"], "scheme 'ftp' is not one of"),
    ],
)
def test_bad_input_is_reported_in_one_line_and_exit_code_2(
    recipe: Path, capsys: Captured, arguments: list[str], message: str
) -> None:
    assert job_of()([str(recipe) if part == "RECIPE" else part for part in arguments]) == 2
    line = one_line(capsys)
    assert line.startswith("count_words: ")
    assert message in line


def test_a_run_of_another_config_in_the_folder_is_bad_input(recipe: Path, capsys: Captured) -> None:
    job_of()(["--recipe", str(recipe)])
    assert job_of()(["--recipe", str(recipe), "least=2"]) == 2
    assert "contains a run with different least" in one_line(capsys)


def test_bad_input_found_on_a_worker_is_reported_in_one_line_too(recipe: Path, capsys: Captured) -> None:
    class TaskError(Exception):
        cause = InputError("dump.xml: not a dump\n  at row 3")

    assert failing(TaskError("remote traceback"))(["--recipe", str(recipe)]) == 2
    assert one_line(capsys) == "count_words: dump.xml: not a dump at row 3"


def test_an_internal_fault_ends_with_1_and_its_traceback(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert failing(ZeroDivisionError("the fault"))(["--recipe", str(recipe)]) == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_too_much_unusable_input_ends_with_1_and_the_details(recipe: Path, capsys: Captured) -> None:
    error = DataQualityError("more input is unusable than allowed", ["a.bz2 at byte 3", "b.bz2 at byte 7"])
    assert failing(error)(["--recipe", str(recipe)]) == 1
    output = capsys.readouterr().err.splitlines()
    assert output == ["count_words: more input is unusable than allowed", "a.bz2 at byte 3", "b.bz2 at byte 7"]


def test_ctrl_c_ends_with_130_and_one_line(recipe: Path, capsys: Captured) -> None:
    assert failing(KeyboardInterrupt())(["--recipe", str(recipe)]) == 130
    assert one_line(capsys) == "count_words: interrupted; run the same command again to resume"


def test_sigterm_ends_like_ctrl_c_and_its_handler_is_put_back(recipe: Path, capsys: Captured) -> None:
    def wait(config: CountWords, folder: RunFolder) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        raise AssertionError("not ended")

    before = signal.getsignal(signal.SIGTERM)
    assert job_of(wait)(["--recipe", str(recipe)]) == 130
    assert "interrupted" in one_line(capsys)
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_shows_the_command_and_the_exit_codes(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        job_of()(["--help"])
    output = capsys.readouterr().out
    assert ended.value.code == 0
    assert "python -m jobs.count_words" in output
    assert "The command line of every job, tested with a small one." in output
    assert "2 bad input" in output


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

sys.exit(run_command("x", lambda: Job("x", SeededConfig, lambda c: {}, work)))
"""


def as_process(recipe: Path, root: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    recipe.write_text(f"run_dir: {recipe.parent}/run\n")
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--recipe", str(recipe), *arguments],
        env={**os.environ, "PYTHONPATH": str(root / "platform")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_fault_of_a_real_process_shows_its_traceback_on_stderr(recipe: Path, root: Path) -> None:
    process = as_process(recipe, root, "seed=1")
    _, output = process.communicate()
    assert process.returncode == 1
    assert "ZeroDivisionError" in output


def test_a_closed_pipe_ends_a_job_without_a_traceback(recipe: Path, root: Path) -> None:
    process = as_process(recipe, root)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    output = process.stderr.read()
    assert process.wait() == 1
    assert output == ""


def test_relative_folders_are_made_absolute_also_in_sections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Section(Config):
        teacher_run_dir: InputDir

    class Recipe(JobConfig):
        model_dir: ModelRef
        part: Section
        parts: tuple[Section, ...] = ()
        models: Mapping[str, ModelRef] = Field(default={})
        none_dir: InputDir | None = None

    monkeypatch.chdir(tmp_path)
    part = Section(teacher_run_dir="runs/b")
    given = Recipe(run_dir="runs/a", model_dir="hub:x/y", part=part, parts=(part,), models={"m": "runs/c"})
    found = map_locations(given, absolute_location)
    assert (found.run_dir, found.models) == (f"{tmp_path}/runs/a", {"m": f"{tmp_path}/runs/c"})
    assert [each.teacher_run_dir for each in (found.part, *found.parts)] == [f"{tmp_path}/runs/b"] * 2
    assert (found.model_dir, found.none_dir) == ("hub:x/y", None)
    uris = Recipe(run_dir="s3://a/b", model_dir="sample:encoder", part=Section(teacher_run_dir="gs://c"))
    assert map_locations(uris, absolute_location) == uris
