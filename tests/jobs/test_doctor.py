"""The doctor as a command: what it says of this machine and of a recipe; of a cluster, tests/line/test_submit.py."""

import json
from pathlib import Path

import pytest

from distilray.operations.doctor import examination
from jobs import doctor
from tests.distilray.tiny_line import write_recipe, write_shards, write_teacher, write_tokenizer

TOKEN = "d0c702" * 10


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a teacher, and a recipe of the job that distils it."""
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


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(examination.sockets, "listeners", lambda: [])  # tests beside this one may serve


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
def test_what_a_recipe_lacks_is_a_line_with_its_fix(
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
    ("arguments", "told"),
    [
        (["--job", "distill"], "--job and --recipe"),
        (["a.b=1"], "a change to no recipe"),
        (["--job", "destill", "--recipe", "x"], "--job destill: no job with a run folder; there are build_corpus"),
        (["--job", "../conftest", "--recipe", "x"], "no job with a run folder"),
        (["--job", "distill", "--recipe", "none.yaml"], "none.yaml: no such recipe file"),
        (["--address", "http://me:secret@host"], "--address: holds a user or password"),
        (["--no-such-flag"], "unrecognized arguments"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
