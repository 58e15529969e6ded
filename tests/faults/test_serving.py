"""The service behind HAProxy under constant load, while its model is replaced and its processes are killed."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import time
from urllib.parse import urlsplit

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForMaskedLM

from distilray.config.base import RayConfig
from distilray.config.serving import FillMaskAppConfig
from distilray.inference.model_folder import revision_hash
from distilray.runtime.session import ray_session
from serve.checks import available_port
from serve.haproxy import find_orphans, haproxy_environment
from tests.faults.processes import wait_for_value, wait_until
from tests.serve.server_process import read_until, start_server
from tests.serve.traffic import TEXT, post, steady_traffic, wait_for_answers
from tests.tiny.models import MAX_LENGTH, VOCABULARY, write_tiny_model

pytestmark = pytest.mark.slow
CLIENT_TIMEOUT_S = 3
SHEDDING = {"shed_above": 48, "body_timeout_s": CLIENT_TIMEOUT_S}
LARGE = {"inputs": ["paris is [MASK] of " + "a " * (MAX_LENGTH - 8)] * 32}


def write_model(folder, seed):
    """Write a model that takes some tenths of a second for a large request, and milliseconds for a small one."""
    write_tiny_model(folder, "distilbert")
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=len(VOCABULARY), dim=256, n_layers=8, n_heads=4, hidden_dim=1024, max_position_embeddings=MAX_LENGTH
    )
    DistilBertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two different models, and one with a truncated weights file."""
    root = tmp_path_factory.mktemp("models")
    first, second = (write_model(root / name, seed) for seed, name in enumerate(("first", "second")))
    shutil.copytree(second, root / "broken")
    with (root / "broken" / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    return first, second, str(root / "broken")


# These tests start servers of their own, before the service that the others share.


def test_a_server_can_use_the_port_of_a_killed_one_whose_haproxy_is_still_running(folders):
    port = available_port("127.0.0.1", 0)
    settings = (f"port={port}", "proxy=haproxy", "app.precision=fp32", "ray.num_cpus=1")
    killed, _ = start_server(folders[0], *settings)
    with killed:
        killed.kill()
    with pytest.raises(OSError, match="in use"), socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
    process, url = start_server(folders[0], *settings)
    with process:
        try:
            assert post(url + "/score", {"input_data": [TEXT]})[0] == 200
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert b"stopped" in read_until(process, b"stopped")
            assert process.wait(timeout=30) == 0
            assert time.monotonic() - start < 30
        finally:
            if process.poll() is None:
                process.kill()
    assert available_port("127.0.0.1", port) == port
    assert not [each for each in find_orphans() if each.folder is not None]


class Service:
    """Application in the Ray session of this module."""

    def __init__(self, app, config, url):
        self.app, self.config, self.url = app, config, url

    def deploy(self, **changes):
        """Deploy a changed configuration like `serve deploy`; raise if the deployment fails."""
        self.config = FillMaskAppConfig.model_validate({**self.config.model_dump(), **changes})
        logging_config = {"log_level": "WARNING", "enable_access_log": False}
        self.app.ray_serve.run(
            self.app.build_app(self.config), name=self.app.APPLICATION, route_prefix="/", logging_config=logging_config
        )

    @property
    def status(self):
        return self.app.ray_serve.status().applications[self.app.APPLICATION]

    def runs(self, replicas):
        return self.status.status == "RUNNING" and self.status.deployments["FillMask"].replica_states == {
            "RUNNING": replicas
        }

    def controller(self):
        """Return the process id of the controller, and wait while Ray restarts it."""
        import ray

        return ray.get(self.app.ray_serve.context._get_global_client()._controller.get_pid.remote())

    def replicas(self):
        """Return the process ids of the running replicas according to the controller."""
        details = self.app.ray_serve.context._get_global_client().get_serve_details()
        replicas = details["applications"][self.app.APPLICATION]["deployments"]["FillMask"]["replicas"]
        return sorted(each["pid"] for each in replicas if each["state"] == "RUNNING")

    def ask(self, path, body):
        return post(self.url + path, body)


@pytest.fixture(scope="module")
def service(folders):
    """One replica of the first model, with short health check and shutdown times."""
    first, second, broken = folders
    config = FillMaskAppConfig.model_validate(
        {
            "model_dir": first,
            "precision": "fp32",
            "extra_models": {"second": second, "broken": broken, "third": first},
            "limits": {"max_concurrent_requests": 64},
        }
    )
    with pytest.MonkeyPatch.context() as patch, haproxy_environment(**SHEDDING):
        patch.setenv("RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S", str(CLIENT_TIMEOUT_S))
        import serve.app as app

        for name, value in {"PERIOD": 1, "TIMEOUT": 2, "MARGIN": 1}.items():
            patch.setattr(app, f"_HEALTH_{name}_S", value)
        patch.setattr(app, "_GRACE_S", 4)
        with ray_session(RayConfig(num_cpus=4)), app.serving(config, port=0) as url:
            yield Service(app, config, url)


def test_models_are_loaded_by_name_and_only_requests_for_a_broken_one_get_503(service, folders):
    first, second, _ = folders
    answers = {name: service.ask("/v1/fill-mask", {"inputs": TEXT, "model": name}) for name in ("student", "second")}
    assert {name: headers["x-model-revision"] for name, (_, headers, _) in answers.items()} == {
        "student": revision_hash(first),
        "second": revision_hash(second),
    }
    for _ in range(2):
        status, headers, body = service.ask("/v1/fill-mask", {"inputs": TEXT, "model": "broken"})
        assert (status, body["error_type"]) == (503, "Unavailable")
        assert int(headers["retry-after"]) > 1
        assert "safetensors" not in body["error"]
        for name in ("third", "second", "student"):
            assert service.ask("/v1/fill-mask", {"inputs": TEXT, "model": name})[0] == 200


def test_abandoned_requests_leave_the_queue_and_free_capacity_in_haproxy(service):
    address = urlsplit(service.url)
    duration_s = float(service.ask("/v1/fill-mask", LARGE)[1]["x-inference-time"]) / 1000
    abandoned = []
    for _ in range(64):  # more than the limit of HAProxy, and as many as that of the replica
        connection = http.client.HTTPConnection(address.hostname, address.port)
        connection.request("POST", "/v1/fill-mask", json.dumps(LARGE), {"content-type": "application/json"})
        abandoned.append(connection)
    status, headers, body = service.ask("/v1/fill-mask", {"inputs": TEXT})
    assert (status, body["error_type"]) == (429, "Overloaded")
    assert body["request_id"] == headers["x-request-id"]
    assert int(headers["retry-after"]) >= 1
    assert "server" not in headers  # not sent by a replica
    for each in abandoned:
        each.close()
    wait_until(lambda: service.ask("/v1/fill-mask", {"inputs": TEXT})[0] == 200, limit_s=32 * duration_s)


def test_clients_that_stop_in_the_middle_are_disconnected_and_affect_no_others(service):
    address = urlsplit(service.url)
    head = b"POST /score HTTP/1.1\r\nhost: x\r\n"
    halves = (head, head + b"content-type: application/json\r\ncontent-length: 999\r\n\r\n{")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((address.hostname, address.port))) for _ in range(40)]
        for index, client in enumerate(clients):
            client.sendall(halves[index % 2])
        with steady_traffic(service.url) as traffic:
            wait_for_answers(traffic, 80)
        assert not traffic.failed
        for client in clients:
            client.settimeout(CLIENT_TIMEOUT_S + 5)
            assert client.recv(100).split()[1] in (b"408", b"400")


def test_a_new_model_takes_over_without_a_failed_request(service, folders):
    revisions = [revision_hash(folder) for folder in folders[:2]]
    with steady_traffic(service.url) as traffic:
        wait_for_answers(traffic, 40)
        service.deploy(model_dir=folders[1])
        wait_for_answers(traffic, 40)
    assert not traffic.failed
    assert traffic.revisions == revisions
    assert service.runs(1)


def test_a_broken_model_leaves_the_old_one_serving_and_the_reason_in_the_status(service, folders):
    with steady_traffic(service.url) as traffic:
        with pytest.raises(RuntimeError):
            service.deploy(model_dir=folders[2])
        wait_for_answers(traffic, 40)
    assert not traffic.failed
    assert traffic.revisions == [revision_hash(folders[1])]
    deployment = service.status.deployments["FillMask"]
    assert (service.status.status, deployment.status) == ("DEPLOY_FAILED", "DEPLOY_FAILED")
    assert f"{folders[2]}/model.safetensors: cannot be loaded" in deployment.message
    assert deployment.replica_states == {"RUNNING": 1}


@pytest.mark.smoke
def test_lost_replicas_are_replaced_while_the_third_answers(service, folders):
    service.deploy(model_dir=folders[1], num_replicas=3)
    with steady_traffic(service.url) as traffic:
        wait_for_answers(traffic, 40)
        killed, blocked, _ = wait_for_value(service.replicas, lambda pids: len(pids) == 3)
        os.kill(killed, signal.SIGKILL)
        os.kill(blocked, signal.SIGSTOP)
        wait_until(lambda: len(now := service.replicas()) == 3 and not {killed, blocked} & set(now))
        wait_for_answers(traffic, 100)  # HAProxy is informed later than the controller
    # Requests of the twelve clients to the two replicas; the stopped one keeps its requests until it is killed.
    assert len(traffic.failed) <= 24
    with steady_traffic(service.url) as traffic:
        wait_for_answers(traffic, 40)
    assert not traffic.failed


def test_requests_succeed_while_the_controller_restarts(service):
    controller = service.controller()
    with steady_traffic(service.url) as traffic:
        wait_for_answers(traffic, 20)
        os.kill(controller, signal.SIGKILL)
        wait_until(lambda: service.controller() != controller)
        wait_for_answers(traffic, 40)
    assert not traffic.failed
    wait_until(lambda: service.runs(3))
