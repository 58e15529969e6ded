"""The doctor for this machine and for a recipe; tests/pipeline/test_submit.py runs it with a cluster."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distilray.operations.doctor import check_table, command
from distilray.operations.doctor.check import fail
from jobs import doctor
from tests.tiny.recipes import write_recipe

TOKEN = "d0c702" * 10


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "import_problems", dict)  # takes seconds, and has its own tests
    monkeypatch.setattr(check_table.environment, "listeners", list)  # other tests may run servers
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def recipe(tmp_path: Path, shards_dir: str, teacher_dir: str) -> str:
    return write_recipe(
        tmp_path,
        run_dir=str(tmp_path / "run"),
        shards_dir=shards_dir,
        teacher_dir=teacher_dir,
        scaling={"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
    )


def checks_of(capfd: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(capfd.readouterr().out)["checks"]}


def test_a_recipe_with_its_inputs_passes_and_nothing_is_written(
    recipe: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    doctor.main(["--job", "distill", "--recipe", recipe, "--json"])
    checks = checks_of(capfd)
    for name in ("python", "packages", "expat", "ray", "ports", "workers", "runs", "models", "storage"):
        assert checks[name]["status"] == "ok", checks[name]
    assert sorted(tmp_path.rglob("*")) == before
    assert TOKEN not in str(checks)


def test_an_open_token_and_missing_inputs_of_a_recipe_are_reported_with_a_fix(
    recipe: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "home/.ray/auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)
    token.chmod(0o644)
    lacking = ["scaling.num_workers=999", f"shards_dir={tmp_path}/none", f"run_dir={recipe}/run"]
    assert doctor.main(["--job", "distill", "--recipe", recipe, *lacking]) == 1
    output = capfd.readouterr().out
    assert f"chmod 600 {token}" in output
    assert TOKEN not in output
    lines = output.splitlines()
    failed = {line.split()[1] for line in lines if line.startswith("fail ")}
    assert {"workers", "runs", "storage"} <= failed
    assert all("  -> " in line for line in lines if line.startswith(("fail ", "warn ")))
    assert lines[-1].startswith("doctor: ")


def test_a_package_that_cannot_be_imported_fails_and_checks_that_need_it_are_skipped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch"))  # restored after the test
    monkeypatch.setattr(command, "import_problems", lambda: {"torch": fail("torch: undefined symbol", "reinstall it")})
    assert doctor.main(["--json"]) == 1
    checks = checks_of(capfd)
    assert (checks["imports"]["status"], checks["imports"]["message"]) == ("fail", "torch: undefined symbol")
    assert checks["gpu"]["message"] == "not checked: torch cannot be imported"


def test_a_cluster_file_with_placeholders_fails_with_their_keys(capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--cluster", "cluster.yaml"]) == 1
    assert "REPLACE_CPU_DIGEST in docker.image" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--job distill", "--job and --recipe"),
        ("a.b=1", "an override without a recipe"),
        ("--job destill --recipe x", "--job destill: no job with a run folder; choose one of build_corpus"),
        ("--job ../conftest --recipe x", "no job with a run folder"),
        ("--job distill --recipe none.yaml", "none.yaml: no such recipe file"),
        ("--address http://me:secret@host", "--address: contains a user name or password"),
        ("--address ray://127.0.0.1:10001", "as http://HOST:PORT"),
        ("--no-such-flag", "unrecognized arguments"),
        ("--cluster none.yaml", "--cluster none.yaml: No such file"),
        ("--cluster pyproject.toml", "--cluster pyproject.toml: not YAML"),
        ("--cluster LICENSE", "--cluster LICENSE: "),
        ("--cluster cluster.yaml --storage /tmp", "--cluster: checks only the file"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    arguments: str, message: str, error_line: Callable[[int], str]
) -> None:
    assert message in error_line(doctor.main(arguments.split()))


# Without the packages of the project, as on a machine that is not set up.


def without_packages(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=root, env={**kept, **environment}, capture_output=True, text=True, timeout=60)


def test_without_packages_the_other_checks_run(root: Path, recipe: str, tmp_path: Path) -> None:
    arguments = ["--job", "distill", "--recipe", recipe, "--storage", str(tmp_path)]
    result = without_packages(root, "-m", "jobs.doctor", *arguments, PYTHONPATH="platform")
    assert (result.returncode, result.stderr) == (1, "")
    status = {line.split()[1]: line.split()[0] for line in result.stdout.splitlines()}
    assert (status["python"], status["packages"], status["recipe"]) == ("ok", "fail", "fail")
    assert {"expat", "ports", "memory", "proxies", "gpu"} <= set(status)


def test_without_the_import_path_the_variable_is_named(root: Path) -> None:
    result = without_packages(root, "-m", "jobs.doctor")
    assert result.returncode == 1
    assert result.stderr == "fail  PYTHONPATH      no package distilray  -> export PYTHONPATH=platform\n"


def test_python_3_9_can_load_the_command_and_report_that_it_is_too_old(root: Path) -> None:
    code = "import jobs.doctor, sys; print(*(getattr(each, '__file__', '') for each in sys.modules.values()))"
    loaded = without_packages(root, "-c", code, PYTHONPATH="platform").stdout.split()
    own = [Path(file) for file in loaded if Path(file).is_relative_to(root) and ".venv" not in file]
    assert {"doctor.py", "check.py", "command_line.py"} <= {file.name for file in own}
    for file in own:
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        has_annotations = any(isinstance(node, ast.FunctionDef | ast.AnnAssign) for node in ast.walk(tree))
        assert not has_annotations or "from __future__ import annotations" in file.read_text(), file
