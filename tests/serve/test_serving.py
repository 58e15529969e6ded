"""`jobs.serve_fill_mask` and `jobs.check_service` without a Ray session."""

import contextlib
import json
import os
import re
import signal
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from distilray.config.serving import CheckServiceConfig, ServeFillMaskConfig
from distilray.errors import InputError
from distilray.runtime.run_folder import RunFolder
from jobs.serve_fill_mask import main
from serve import local
from serve.checks import available_port, base_url
from serve.haproxy import Orphan

KEY = "a-key-of-this-test-alone"


@pytest.fixture
def used_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        (["app.model_dir=/nowhere/model"], KEY, "/nowhere/model"),
        (["app.extra_models={other: /nowhere/other}"], KEY, "/nowhere/other"),
        (["app.task=echo"], KEY, "choose one of fill-mask"),
        ([], "short", "DISTILRAY_API_KEYS"),
        (["shed_above=64"], KEY, "add proxy=haproxy"),
        (["port={used_port}"], KEY, "127.0.0.1:{used_port}: Address already in use"),
        (["host=192.0.2.1"], KEY, "192.0.2.1:8000"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_invalid_setting_is_one_line_and_exit_code_2(
    model_dir, used_port, capsys, monkeypatch, arguments, key, message
):
    monkeypatch.setattr(local, "stop_orphans", list)
    monkeypatch.setenv("DISTILRAY_API_KEYS", key)
    arguments = [argument.replace("{used_port}", str(used_port)) for argument in arguments]
    assert main([f"app.model_dir={model_dir}", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message.replace("{used_port}", str(used_port)) in error
    assert "short" not in error


def test_a_port_that_haproxy_of_a_killed_server_uses_is_an_error_with_its_pid(model_dir, used_port, monkeypatch):
    monkeypatch.setattr(local, "stop_orphans", list)
    monkeypatch.setattr(local, "find_orphans", lambda: [Orphan(7, None, False), Orphan(9, None, False)])
    config = ServeFillMaskConfig.model_validate({"app": {"model_dir": model_dir}, "port": used_port})
    with pytest.raises(InputError, match=r"HAProxy without a Ray process.*`kill 7 9`"):
        local.serve_until_stopped(config)


def test_haproxy_cannot_be_chosen_inside_a_cluster(model_dir, monkeypatch):
    monkeypatch.setattr(local, "inside_cluster", lambda: True)
    config = ServeFillMaskConfig.model_validate({"app": {"model_dir": model_dir}, "proxy": "haproxy"})
    with pytest.raises(InputError, match="proxy=haproxy: the nodes of a cluster choose their proxy"):
        local.serve_until_stopped(config)


def test_the_service_runs_with_haproxy_and_the_variables_of_the_user(model_dir, monkeypatch, capsys):
    environment = {}
    monkeypatch.setattr(local, "stop_orphans", lambda: [7])
    monkeypatch.setattr(local, "_serve", lambda config, port, write_json: environment.update(os.environ))
    monkeypatch.setenv("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "mine:middlewares")
    app = {"model_dir": model_dir, "limits": {"body_timeout_s": 7.0}}
    settings = {"app": app, "port": 0, "proxy": "haproxy", "shed_above": 5}
    local.serve_until_stopped(ServeFillMaskConfig.model_validate(settings))
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "mine:middlewares"
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert (environment["DISTILRAY_SHED_ABOVE"], environment["DISTILRAY_BODY_TIMEOUT_S"]) == ("5", "7")
    output = capsys.readouterr().out
    assert "terminated HAProxy process 7 of a killed server" in output
    assert output.endswith("serve_fill_mask: stopped\n")


def test_a_signal_stops_the_service_and_its_handler_is_restored():
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        with local._stop_signals() as stop:
            os.kill(os.getpid(), number)
            assert stop.wait(30)
        assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ([], ["proxy *python", "max_items *32", "model other *.+"]),
        (["proxy=haproxy"], ["proxy *haproxy", "shed_above *off", "open on every interface *two free ports"]),
        (["proxy=haproxy", "shed_above=64"], ["shed_above *64 requests per replica"]),
    ],
    ids=str,
)
def test_a_dry_run_prints_the_plan_and_starts_nothing(model_dir, capsys, monkeypatch, settings, lines):
    monkeypatch.setattr(local, "_serve", None)
    arguments = [f"app.model_dir={model_dir}", f"app.extra_models={{other: {model_dir}}}", "port=0"]
    assert main(["--dry-run", *arguments, *settings]) == 0
    printed = capsys.readouterr().out
    for line in [f"model *{model_dir}", r"address *http://127\.0\.0\.1:\d+", *lines]:
        assert re.search(f"^{line}", printed, re.MULTILINE), line


def test_the_json_of_a_dry_run_is_the_plan(model_dir, capsys):
    assert main(["--dry-run", "--json", f"app.model_dir={model_dir}", "port=0"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["job"], values["plan"]["model"], values["plan"]["proxy"]) == ("serve_fill_mask", model_dir, "python")


@pytest.mark.parametrize("recipe", sorted(Path("jobs/recipes/serve_fill_mask").glob("*.yaml")), ids=str)
def test_every_recipe_of_the_job_is_valid(recipe):
    ServeFillMaskConfig.model_validate(yaml.safe_load(recipe.read_text()))


def test_port_zero_selects_a_free_port_and_an_ipv6_host_has_brackets():
    port = available_port("127.0.0.1", 0)
    assert available_port("127.0.0.1", port) == port > 0
    assert base_url("::1", 80) == "http://[::1]:80"
    assert base_url("127.0.0.1", 80) == "http://127.0.0.1:80"


class Echo(BaseHTTPRequestHandler):
    """Responds with the path and body of the request."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({self.path: body}).encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def echoing(config, *, port):
    with HTTPServer(("127.0.0.1", port), Echo) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_check_service_records_and_shows_every_request_with_its_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("serve.app.serving", echoing)
    monkeypatch.setattr(local, "ray_session", lambda config: contextlib.nullcontext())
    config = CheckServiceConfig(run_dir=str(tmp_path / "run"), model_dir="m", texts=["a [MASK]", "b [MASK]"], top_k=2)
    folder = RunFolder("check_service", config, {})
    outcome = local.check_service(config, folder)
    local.show_answers(folder)
    requests = {
        "/score": {"input_data": ["a [MASK]", "b [MASK]"]},
        "/v1/fill-mask": {"inputs": "a [MASK]", "parameters": {"top_k": 2}},
    }
    recorded = json.loads((tmp_path / "run" / "answers.json").read_text())
    assert recorded == [{"path": path, "request": body, "answer": {path: body}} for path, body in requests.items()]
    assert (outcome.summary, list(outcome.outputs)) == ("2 requests answered", ["answers.json"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"POST /score {json.dumps(requests['/score'])}"
    assert json.loads(lines[1].removeprefix("  -> ")) == {"/score": requests["/score"]}
