import re
import socket
import urllib.request
from pathlib import Path

import pytest
import ray
import yaml

from distilray.config.base import RayConfig
from distilray.config.serving import FillMaskAppConfig, ServeFillMaskConfig
from distilray.errors import InputError
from distilray.runtime.session import ray_session
from jobs.serve_fill_mask import main
from serve.app import serving
from tests.serve.traffic import TEXT, post


def is_free(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_the_real_application_answers_who_has_a_key_in_both_forms_and_leaves_its_port_free(
    model_dir, model, monkeypatch
):
    key = "a-key-of-this-test-alone"
    monkeypatch.setenv("DISTILRAY_API_KEYS", key)
    bearer = {"authorization": f"Bearer {key}"}
    config = FillMaskAppConfig(model_dir=model_dir, dtype="float32")
    expected = model.fill([TEXT])[0][0]
    with ray_session(RayConfig(num_cpus=2)):
        with serving(config, port=0) as url:
            status, _, answer = post(f"{url}/score", {"input_data": [TEXT]})
            assert (status, answer["error_type"]) == (401, "Unauthorized")
            status, headers, answer = post(f"{url}/score", {"input_data": [TEXT]}, **bearer)
            assert (status, answer) == (200, [expected[0].token_str])
            assert headers["x-model-revision"] == model.revision
            assert len(headers.get_all("x-request-id")) == 1
            form = f"{url}/v1/fill-mask"
            status, _, answer = post(form, {"inputs": TEXT}, **bearer)
            assert status == 200
            assert [one["token_str"] for one in answer] == [one.token_str for one in expected]
            status, headers, answer = post(form, {"inputs": "none"}, **bearer, **{"x-request-id": "mine-2"})
            assert (status, answer["error_type"]) == (422, "NoMask")
            assert answer["request_id"] == headers["x-request-id"] == "mine-2"
            assert post(form, b" " * 3_000_000, **bearer)[0] == 413
            for path in ("healthz", "readyz", "ui", "docs", "openapi.json"):
                with urllib.request.urlopen(f"{url}/{path}", timeout=30) as response:
                    assert response.status == 200
            with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
                metrics = response.read().decode()
            series = r"""requests_total\{method="POST",model="student",replica="\w+",route="/score",status="200"\} 1"""
            assert re.search(series, metrics)
            assert key not in metrics
        assert is_free(int(url.rpartition(":")[2]))
        assert ray.is_initialized()
        with (
            pytest.raises(InputError, match="no room for 1 replica with 99 CPU"),
            serving(config.model_copy(update={"num_cpus": 99}), port=0),
        ):
            pass


def test_a_missing_model_is_one_line_and_exit_code_2(capsys):
    assert main(["app.model_dir=/nowhere/model"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "/nowhere/model" in error


def test_a_bad_key_is_one_line_without_the_key_and_exit_code_2(model_dir, capsys, monkeypatch):
    monkeypatch.setenv("DISTILRAY_API_KEYS", "short")
    assert main([f"app.model_dir={model_dir}"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "DISTILRAY_API_KEYS" in error
    assert "short" not in error


def test_a_missing_further_model_is_one_line_and_exit_code_2(model_dir, capsys):
    assert main([f"app.model_dir={model_dir}", "app.extra_models={other: /nowhere/other}"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "/nowhere/other" in error


def test_a_taken_port_is_one_line_and_exit_code_2(model_dir, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([f"app.model_dir={model_dir}", f"port={port}"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(port) in error


def test_a_dry_run_prints_the_plan_and_starts_nothing(model_dir, capsys):
    assert main(["--dry-run", f"app.model_dir={model_dir}", "port=0"]) == 0
    assert model_dir in capsys.readouterr().out
    assert not ray.is_initialized()


@pytest.mark.parametrize("recipe", sorted(Path("jobs/recipes/serve_fill_mask").glob("*.yaml")), ids=str)
def test_every_recipe_of_the_job_is_valid(recipe):
    ServeFillMaskConfig.model_validate(yaml.safe_load(recipe.read_text()))
