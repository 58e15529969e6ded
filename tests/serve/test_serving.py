import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import ray
import yaml

from distilray.config.base import RayConfig
from distilray.config.serving import FillMaskAppConfig, ServeFillMaskConfig
from distilray.errors import InputError
from distilray.runtime.session import ray_session
from serve.app import serving
from serve.local.address import claim_port

TEXT = "paris is [MASK] of france"
JOB = [sys.executable, "-m", "jobs.serve_fill_mask"]


def post(url, body, **headers):
    """Status, headers and decoded body of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def is_free(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_the_real_application_answers_both_forms_over_http_and_leaves_its_port_free(model_dir, model):
    config = FillMaskAppConfig(model_dir=model_dir, dtype="float32")
    expected = model.fill([TEXT])[0][0]
    with ray_session(RayConfig(num_cpus=2)):
        with serving(config, port=0) as url:
            status, headers, answer = post(f"{url}/score", {"input_data": [TEXT]})
            assert (status, answer) == (200, [expected[0].token_str])
            assert headers["x-model-revision"] == model.revision
            assert len(headers.get_all("x-request-id")) == 1
            status, _, answer = post(f"{url}/v1/fill-mask", {"inputs": TEXT}, **{"x-request-id": "mine-1"})
            assert status == 200
            assert [one["token_str"] for one in answer] == [one.token_str for one in expected]
            status, headers, answer = post(f"{url}/v1/fill-mask", {"inputs": "none"}, **{"x-request-id": "mine-2"})
            assert (status, answer["error_type"]) == (422, "NoMask")
            assert answer["request_id"] == headers["x-request-id"] == "mine-2"
            assert post(f"{url}/v1/fill-mask", b" " * 3_000_000)[0] == 413
            for path in ("healthz", "readyz", "info"):
                with urllib.request.urlopen(f"{url}/{path}", timeout=30) as response:
                    assert response.status == 200
        assert is_free(int(url.rpartition(":")[2]))
        assert ray.is_initialized()
        with pytest.raises(InputError, match="CPUs"), serving(config.model_copy(update={"num_cpus": 99}), port=0):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_job_serves_until_a_signal_and_then_ends_in_order(model_dir, tmp_path, stop):
    port = claim_port("127.0.0.1", 0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"app": {"model_dir": model_dir}, "port": port, "ray": {"num_cpus": 1}}))
    with subprocess.Popen(
        [*JOB, "--recipe", str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
    ) as job:
        try:
            first = first_line(job, seconds=120)
            assert f"http://127.0.0.1:{port}" in first
            assert post(f"http://127.0.0.1:{port}/score", {"input_data": [TEXT]})[0] == 200
            started = time.monotonic()
            job.send_signal(stop)
            assert job.wait(timeout=30) == 0
            assert time.monotonic() - started < 30
        finally:
            if job.poll() is None:
                job.kill()
        assert b"Traceback" not in job.stdout.read()
    assert is_free(port)


def first_line(job, seconds):
    end = time.monotonic() + seconds
    text = b""
    while b"Ctrl-C" not in text:
        ready, _, _ = select.select([job.stdout], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(job.stdout.fileno(), 65536) if ready else b""
        assert chunk, text
        text += chunk
    return text.decode()


def environment():
    return {**os.environ, "PYTHONPATH": "platform"}


def run_job(*arguments):
    return subprocess.run([*JOB, *arguments], capture_output=True, text=True, timeout=120, env=environment())


@pytest.mark.slow
def test_a_missing_model_is_one_line_and_exit_code_2():
    done = run_job("app.model_dir=/nowhere/model")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "/nowhere/model" in done.stderr


@pytest.mark.slow
def test_a_taken_port_is_one_line_and_exit_code_2(model_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_job(f"app.model_dir={model_dir}", f"port={port}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(port) in done.stderr


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_starts_nothing(model_dir):
    done = run_job("--dry-run", f"app.model_dir={model_dir}", "port=0")
    assert done.returncode == 0, done.stderr
    assert model_dir in done.stdout


@pytest.mark.parametrize("recipe", sorted(Path("jobs/recipes/serve_fill_mask").glob("*.yaml")), ids=str)
def test_every_recipe_of_the_job_is_valid(recipe):
    ServeFillMaskConfig.model_validate(yaml.safe_load(recipe.read_text()))
