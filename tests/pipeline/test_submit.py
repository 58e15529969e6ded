"""`ray job submit`, `jobs.submit` and `jobs.doctor` with a cluster that does not have the project's code."""

import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline.flaky_proxy import flaky_proxy
from tests.pipeline.ray_head import RECIPE, Head, running_head

pytestmark = pytest.mark.slow

CORPUS = ["build_corpus", "--recipe", RECIPE]
# A job that records the environment variables of its driver and worker in its manifest.
PROBE = """
import hashlib
import os

import ray

from distilray.config.base import RayConfig
from distilray.runtime.job import Outcome
from distilray.runtime.session import ray_session
from distilray.stages import command


def plan(config):
    return {}


def variables():
    digest = hashlib.sha256(os.environ["HF_TOKEN"].encode()).hexdigest()
    return {"HF_TOKEN": digest, "WANDB_PROJECT": os.environ["WANDB_PROJECT"]}


def run(config, folder):
    with ray_session(RayConfig()):
        worker = ray.get(ray.remote(variables).remote())
        logs = ray._private.worker._global_node.get_logs_dir_path()
    return Outcome("probed", {"driver": variables(), "worker": worker, "logs": logs})


if __name__ == "__main__":
    raise SystemExit(command("probe", None)())
"""
PROBE_STAGE = """
STAGES["probe"] = Stage("probe", "distilray.config.base:SeededConfig", "jobs.probe:plan", "jobs.probe:run")
"""
WRONG_TOKEN = "d0c702" * 10


@pytest.fixture(scope="module")
def head(free_port: Callable[[], int]) -> Iterator[Head]:
    with running_head(free_port) as head:
        yield head


def test_the_doctor_checks_a_cluster_with_its_token_and_reports_a_wrong_one(
    head: Head, root: Path, tmp_path: Path, shards_dir: str, teacher_dir: str
) -> None:
    def ask(token: str, *arguments: str) -> tuple[int, dict[str, dict[str, str]], str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        secret = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        result = subprocess.run(
            [sys.executable, "-m", "jobs.doctor", "--json", "--address", head.address, *arguments],
            cwd=root,
            env={**kept, "PYTHONPATH": "platform", **secret},
            capture_output=True,
            text=True,
            timeout=120,
        )
        checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
        return result.returncode, checks, result.stdout + result.stderr

    folders = [f"run_dir={tmp_path}/run", f"shards_dir={shards_dir}", f"teacher_dir={teacher_dir}"]
    recipe = ["--job", "distill", "--recipe", "jobs/recipes/distill/quickstart.yaml", *folders, "scaling.num_workers=3"]
    _, checks, output = ask(head.token, *recipe)
    for name in ("token mode", "jobs api", "ray", "cluster", "runs", "models"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "1 node: 2 CPU, 0 GPU, object store 0.2 GB" in checks["cluster"]["message"]
    assert "has room for 2" in checks["workers"]["message"]
    assert head.token not in output
    code, checks, output = ask(WRONG_TOKEN)
    assert (code, checks["jobs api"]["status"], checks["cluster"]["status"]) == (1, "fail", "fail")
    assert "403 with the token of RAY_AUTH_TOKEN" in checks["jobs api"]["message"]
    assert WRONG_TOKEN not in output


@pytest.mark.smoke
def test_a_pipeline_runs_on_a_cluster_without_the_code(head: Head, checkout: Path, tmp_path: Path) -> None:
    pipeline = ["python", "-m", "jobs.run_pipeline", "jobs/pipelines/quickstart.yaml"]
    result = head.submit(checkout, *pipeline, f"folder={tmp_path}", "--only", "build_corpus,encode_corpus")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("corpus", "shards")]
    assert [manifest["content"]["job"] for manifest in manifests] == ["build_corpus", "encode_corpus"]


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)], ids=["no token", "a wrong token"])
def test_the_jobs_api_is_closed_without_the_token(head: Head, token: str | None, status: int) -> None:
    assert head.get("/api/jobs/", token) == status


def test_submitting_twice_runs_one_job_whose_log_is_complete_despite_interruptions(
    head: Head, checkout: Path, tmp_path: Path
) -> None:
    command = [*CORPUS, f"run_dir={tmp_path}/corpus"]
    with flaky_proxy(head.address, life_s=1.0) as proxy:
        processes = [head.wrapper(checkout, *command, address=proxy.address), head.wrapper(checkout, *command)]
        interrupted, direct = [process.result() for process in processes]
    assert (interrupted.code, direct.code) == (0, 0), interrupted.errors + direct.errors
    assert sorted("attaching to it" in result.errors for result in (interrupted, direct)) == [False, True]
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text())["content"]["job"] == "build_corpus"
    assert "reconnecting" in interrupted.errors
    assert (proxy.cuts >= 1, proxy.streams >= 2) == (True, True)  # the log was read from its beginning again
    assert interrupted.log == direct.log
    assert len(re.findall(rf"^build_corpus: .* -> {tmp_path}/corpus$", direct.log, re.MULTILINE)) == 1


def test_bad_input_fails_the_job_with_one_line_and_the_exit_code_is_passed_on(
    head: Head, checkout: Path, tmp_path: Path
) -> None:
    command = [*CORPUS, f"run_dir={tmp_path}/corpus", f"sources=[{{path: {tmp_path}/no-such-dump.xml}}]"]
    result = head.wrapper(checkout, *command).result()
    assert result.code == 2, result
    assert len(re.findall(r"^build_corpus: .*no-such-dump.xml", result.log, re.MULTILINE)) == 1
    assert "Traceback" not in result.log + result.errors
    first = re.search(r"submit: (build_corpus-\w+) FAILED: .*exit code 2", result.errors)
    assert first

    detached = head.wrapper(checkout, "--detach", *command).result()
    assert (detached.code, detached.log) == (0, f"{first[1]}-2\n")
    assert f"attempt 2 (the previous one, {first[1]}, is FAILED)" in detached.errors


def test_secrets_reach_driver_and_workers_and_are_shown_nowhere(head: Head, checkout: Path, tmp_path: Path) -> None:
    secret = f"planted-{secrets.token_hex(16)}"
    file = tmp_path / "secrets"
    file.write_text(f"HF_TOKEN={secret}\nMLFLOW_TRACKING_URI=https://me:{secret}@mlflow.example.com\n")
    file.chmod(0o600)
    (checkout / "jobs" / "probe.py").write_text(PROBE)
    with (checkout / "platform" / "distilray" / "stages.py").open("a") as stages:
        stages.write(PROBE_STAGE)
    (checkout / "jobs" / "recipes" / "probe.yaml").write_text("seed: 1\n")
    command = ["probe", "--recipe", "jobs/recipes/probe.yaml", f"run_dir={tmp_path}/run"]
    result = head.wrapper(checkout, "--secrets", str(file), "--env", "WANDB_PROJECT=probes", *command).result()
    assert result.code == 0, result

    counts = json.loads((tmp_path / "run" / "manifest.json").read_text())["content"]["counts"]
    expected = hashlib.sha256(secret.encode()).hexdigest()
    assert counts["driver"] == counts["worker"] == {"HF_TOKEN": expected, "WANDB_PROJECT": "probes"}
    pages = ("/api/jobs/", "/api/v0/actors?detail=true", "/api/v0/workers?detail=true")
    listed = "".join(head.read(page) for page in pages)
    assert str(file) in listed
    folders = (tmp_path / "run", Path(counts["logs"]))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {"config.yaml", "manifest.json"} <= {path.name for path in files}
    assert any(path.name.startswith("job-driver-probe") for path in files)
    shown = (result.log + result.errors + listed).encode() + b"".join(path.read_bytes() for path in files)
    assert secret.encode() not in shown


def test_a_job_that_waits_for_a_gpu_is_named_to_the_same_command_without_it_and_can_be_stopped(
    head: Head, checkout: Path, tmp_path: Path
) -> None:
    command = [*CORPUS, f"run_dir={tmp_path}/corpus"]
    waiting = head.wrapper(checkout, "--detach", "--entrypoint-num-gpus", "1", *command).result()
    assert waiting.code == 0, waiting
    job = waiting.log.strip()

    rejected = head.wrapper(checkout, *command).result()
    assert rejected.code == 2
    assert f"in use by job {job}, which is PENDING (its driver waits for 1 GPU)" in rejected.errors
    (stop,) = re.findall(r"`python -m jobs\.submit (.*)`", rejected.errors)

    stopped = head.wrapper(checkout, *stop.split()).result()
    assert stopped.code == 0, stopped
    assert f"{job} is stopped (FAILED)" in stopped.errors


def test_a_closed_cluster_is_one_line_with_the_fix(head: Head, checkout: Path, tmp_path: Path) -> None:
    tokens = {"401": "", "403": "0" * 64}
    command = [*CORPUS, f"run_dir={tmp_path}/corpus"]
    processes = {status: head.wrapper(checkout, *command, token=token) for status, token in tokens.items()}
    for status, process in processes.items():
        result = process.result()
        assert (result.code, result.log) == (2, "")
        (line,) = result.errors.splitlines()
        assert f": {status}, " in line
        assert ".ray/auth_token" in line
        assert not tokens[status] or tokens[status] not in result.errors
