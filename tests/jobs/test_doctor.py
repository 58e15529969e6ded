"""The doctor as a command, for this machine and for a recipe; tests/pipeline/test_submit.py runs it on a cluster."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilray.operations.doctor import check_table, command
from distilray.operations.doctor.check import fail
from jobs import doctor
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards

TOKEN = "d0c702" * 10


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with shards, a teacher and a recipe that distills it."""
    folder = tmp_path_factory.mktemp("doctor")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher", tokenizer_dir)
    write_recipe(
        folder,
        run_dir=str(folder / "run"),
        shards_dir=str(folder / "shards"),
        teacher_dir=str(folder / "teacher"),
        scaling={"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
    )
    return folder


@pytest.fixture(autouse=True)
def packages_that_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "import_problems", dict)  # takes seconds, and has tests of its own


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(check_table.environment, "listeners", lambda: [])  # tests beside this one may serve


def found(capfd: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(capfd.readouterr().out)["checks"]}


@pytest.mark.usefixtures("no_cluster")
def test_a_recipe_whose_inputs_are_there_can_run_here(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(work.rglob("*"))
    doctor.main(["--job", "distill", "--recipe", str(work / "recipe.yaml"), "--json"])
    checks = found(capfd)
    for name in ("python", "packages", "expat", "ray", "ports", "workers", "runs", "models", "storage"):
        assert checks[name]["status"] == "ok", checks[name]
    assert sorted(work.rglob("*")) == before
    assert TOKEN not in str(checks)


@pytest.mark.usefixtures("no_cluster")
def test_missing_inputs_of_a_recipe_are_reported_with_a_fix(
    work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lacking = ["scaling.num_workers=999", f"shards_dir={tmp_path}/none", f"run_dir={work}/recipe.yaml/run"]
    assert doctor.main(["--job", "distill", "--recipe", str(work / "recipe.yaml"), *lacking]) == 1
    lines = capfd.readouterr().out.splitlines()
    failed = {line.split()[1] for line in lines if line.startswith("fail ")}
    assert {"workers", "runs", "storage"} <= failed
    assert all("  -> " in line for line in lines if line.startswith(("fail ", "warn ")))
    assert lines[-1].startswith("doctor: ")


@pytest.mark.usefixtures("no_cluster")
def test_a_token_that_others_can_read_makes_the_command_fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(TOKEN)
    (tmp_path / ".ray/auth_token").chmod(0o644)
    assert doctor.main([]) == 1
    out = capfd.readouterr().out
    assert f"chmod 600 {tmp_path}/.ray/auth_token" in out
    assert TOKEN not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--job", "distill"], "--job and --recipe"),
        (["a.b=1"], "an override without a recipe"),
        (["--job", "destill", "--recipe", "x"], "--job destill: no job with a run folder; choose one of build_corpus"),
        (["--job", "../conftest", "--recipe", "x"], "no job with a run folder"),
        (["--job", "distill", "--recipe", "none.yaml"], "none.yaml: no such recipe file"),
        (["--address", "http://me:secret@host"], "--address: contains a user name or password"),
        (["--address", "ray://127.0.0.1:10001"], "as http://HOST:PORT"),
        (["--no-such-flag"], "unrecognized arguments"),
        (["--cluster", "none.yaml"], "--cluster none.yaml: No such file"),
        (["--cluster", "pyproject.toml"], "--cluster pyproject.toml: not YAML"),
        (["--cluster", "LICENSE"], "--cluster LICENSE: "),
        (["--cluster", "cluster.yaml", "--storage", "/tmp"], "--cluster: checks only the file"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line


@pytest.mark.usefixtures("no_cluster")
def test_a_package_that_does_not_load_is_a_line_and_the_checks_that_need_it_fail(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch"))  # put back after the test
    monkeypatch.setattr(command, "import_problems", lambda: {"torch": fail("torch: undefined symbol", "reinstall it")})
    assert doctor.main(["--json"]) == 1
    checks = found(capfd)
    assert (checks["imports"]["status"], checks["imports"]["message"]) == ("fail", "torch: undefined symbol")
    assert checks["gpu"]["message"] == "not checked: torch cannot be imported"


def test_a_cluster_file_with_placeholders_fails_with_their_keys(capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--cluster", "cluster.yaml"]) == 1
    assert "REPLACE_CPU_DIGEST in docker.image" in capfd.readouterr().out


def without_packages(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=root,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_packages_the_command_says_so_and_checks_the_rest(root: Path, work: Path) -> None:
    recipe = ["--job", "distill", "--recipe", str(work / "recipe.yaml"), "--storage", str(work)]
    done = without_packages(root, "-m", "jobs.doctor", *recipe, PYTHONPATH="platform")
    assert (done.returncode, done.stderr) == (1, "")
    status = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert (status["python"], status["packages"], status["recipe"]) == ("ok", "fail", "fail")
    assert {"expat", "ports", "memory", "proxies", "gpu"} <= set(status)


def test_without_the_import_path_the_command_names_the_variable(root: Path) -> None:
    done = without_packages(root, "-m", "jobs.doctor")
    assert done.returncode == 1
    assert done.stderr == "fail  PYTHONPATH      no package distilray  -> export PYTHONPATH=platform\n"


def test_python_3_9_can_load_the_command_and_say_that_it_is_too_old(root: Path) -> None:
    code = (
        "import jobs.doctor, sys; print(*(each.__file__ for each in sys.modules.values() if '__file__' in dir(each)))"
    )
    loaded = without_packages(root, "-c", code, PYTHONPATH="platform").stdout.split()
    own = [Path(file) for file in loaded if Path(file).is_relative_to(root) and ".venv" not in file]
    assert {"doctor.py", "check.py", "command_line.py"} <= {file.name for file in own}
    for file in own:
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        has_annotations = any(isinstance(node, ast.FunctionDef | ast.AnnAssign) for node in ast.walk(tree))
        assert not has_annotations or "from __future__ import annotations" in file.read_text(), file
