import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import ray

from distilray.errors import InputError
from distilray.operations.access import Token
from distilray.operations.doctor import cluster
from distilray.operations.doctor.cluster import (
    ClusterNode,
    ClusterState,
    check_access,
    check_nodes,
    check_version,
    cluster_address,
    read_cluster,
)

HEAD = ClusterNode(0, 0, 2e9, is_head=True)
GPU8 = ClusterNode(96, 8, 1e11, is_head=False)


def of(*nodes: ClusterNode) -> ClusterState:
    return ClusterState("auto", "2.60.0", nodes)


@pytest.mark.parametrize(
    ("address_option", "environment", "address"),
    [
        (None, {}, None),
        ("http://h:1", {"RAY_ADDRESS": "a:2"}, "http://h:1"),
        (None, {"RAY_ADDRESS": "a:2", "RAY_API_SERVER_ADDRESS": "http://h:1"}, "a:2"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://h:1"}, "http://h:1"),
        (None, {"RAY_API_SERVER_ADDRESS": "h:1"}, "http://h:1"),
        (None, {"RAY_ADDRESS": "local"}, None),
        ("auto", {}, "auto"),
        ("10.0.0.1:6379", {}, "10.0.0.1:6379"),
    ],
)
def test_the_command_names_the_cluster_before_the_environment(address_option, environment, address):
    assert cluster_address(address_option, environment) == address


@contextlib.contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Yield HOST:PORT of a server that answers one request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "scheme"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "http://"),
        (b"", "http://"),  # a tunnel whose far end refuses
        (bytes.fromhex("000000 04 00 00000000"), ""),  # the frame that a gRPC server begins with
    ],
)
def test_an_address_without_a_scheme_is_a_dashboard_unless_grpc_answers(answer, scheme):
    with server(answer) as address:
        assert cluster_address(address, {}) == f"{scheme}{address}"


def test_an_address_without_a_scheme_where_nothing_listens_is_that_of_a_dashboard(free_port):
    address = f"127.0.0.1:{free_port()}"
    assert cluster_address(address, {}) == f"http://{address}"


@pytest.mark.parametrize("address", ["ray://h:10001", "http://", "h:99999", "h:port", "http://h:1/#/jobs"])
def test_an_invalid_address_is_refused_with_the_expected_form(address):
    with pytest.raises(InputError, match="http://HOST:PORT"):
        cluster_address(address, {})


def test_another_version_of_ray_fails():
    assert check_version(of(HEAD), "2.60.0").status == "ok"
    assert check_version(of(HEAD), "2.59.0").status == "fail"
    assert check_version(of(HEAD), None).status == "fail"


def test_the_nodes_are_summarized():
    finding = check_nodes(of(HEAD, GPU8, GPU8))
    assert finding.status == "ok"
    assert finding.message == "3 nodes: 192 CPU, 16 GPU, object store 202.0 GB"


def test_a_head_that_takes_work_is_a_warning_where_there_are_other_machines():
    head = ClusterNode(4, 0, 1e9, is_head=True)
    assert check_nodes(of(head)).status == "ok"
    assert check_nodes(of(head, GPU8)).status == "warn"
    growing = check_nodes(of(ClusterNode(4, 0, 1e9, is_head=True, group="head")))
    assert (growing.status, "autoscaler" in growing.message) == ("warn", True)


def test_a_cluster_without_a_machine_fails():
    assert check_nodes(of()).status == "fail"


def test_the_dashboard_lists_the_live_nodes(monkeypatch):
    rows = [
        {
            "state": "ALIVE",
            "resources_total": {"CPU": 0.0, "object_store_memory": 5.0, "node:__internal_head__": 1.0},
            "labels": {"ray.io/node-group": "head"},
        },
        {"state": "ALIVE", "resources_total": {"CPU": 16.0, "GPU": 8.0}, "labels": None},
        {"state": "DEAD", "resources_total": {"CPU": 64.0}, "labels": {}},
    ]
    answers = {"/api/version": {"ray_version": "2.60.0"}, "/api/v0/nodes": {"data": {"result": {"result": rows}}}}
    monkeypatch.setattr(cluster, "get_json", lambda address, path, token: answers[path.partition("?")[0]])
    state = read_cluster("http://h:1", None)
    assert state.version == "2.60.0"
    assert state.nodes == (ClusterNode(0, 0, 5, is_head=True, group="head"), ClusterNode(16, 8, 0, is_head=False))
    assert state.can_grow


@pytest.mark.parametrize("answer", [{}, {"ray_version": "2.60.0"}, [], None])
def test_the_response_of_another_server_is_an_input_error(monkeypatch, answer):
    monkeypatch.setattr(cluster, "get_json", lambda *_: answer)
    with pytest.raises(InputError, match="cannot list its nodes"):
        read_cluster("http://h:1", None)


def test_an_address_where_nothing_listens_is_refused_at_once(free_port):
    with pytest.raises(InputError, match="nothing answers"):
        read_cluster(f"127.0.0.1:{free_port()}", None)


def test_the_port_of_the_dashboard_without_http_is_refused():
    with pytest.raises(InputError, match=r"write http://127\.0\.0\.1:8265"):
        read_cluster("127.0.0.1:8265", None)


@pytest.mark.slow
def test_the_gcs_is_distinguished_from_a_dashboard(local_ray):
    address = ray.get_runtime_context().gcs_address
    assert cluster_address(address, {}) == address


@pytest.mark.slow
def test_inside_a_cluster_ray_lists_the_nodes(local_ray):
    (node,) = read_cluster("auto", None).nodes
    assert (node.cpus, node.is_head, node.object_store > 0, node.group) == (2, True, True, "")
    assert json.dumps(node.gpus)


OURS = Token("0c" * 32, "RAY_AUTH_TOKEN")
ADDRESS = "http://127.0.0.1:8265"


def answers(bare: int, wrong: int, right: int, seen: list[str | None] | None = None) -> Callable:
    def get(url: str, token: str | None) -> tuple[int, bytes]:
        if seen is not None:
            seen.append(token)
        return {None: bare, OURS.value: right}.get(token, wrong), b""

    return get


def test_a_protected_api_that_accepts_our_token_is_ok():
    finding = check_access(ADDRESS, OURS, answers(401, 403, 200))
    assert finding.status == "ok"
    assert OURS.value not in finding.message


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ((200, 200, 200), "is open"),
        ((404, 403, 200), "404 without a token"),
        ((401, 200, 200), "200 with a wrong token"),
        ((401, 403, 403), "403 with the token of RAY_AUTH_TOKEN"),
    ],
)
def test_every_other_answer_fails(statuses, words):
    finding = check_access(ADDRESS, OURS, answers(*statuses))
    assert (finding.status, words in finding.message) == ("fail", True)
    assert finding.fix
    assert OURS.value not in finding.message + finding.fix


@pytest.mark.parametrize("statuses", [(200, 200, 200), (302, 403, 200), (401, 401, 200)])
def test_our_token_is_sent_only_to_a_server_that_rejects_requests_like_ray(statuses):
    seen: list[str | None] = []
    check_access(ADDRESS, OURS, answers(*statuses, seen))
    assert seen
    assert OURS.value not in seen


def test_a_missing_token_fails():
    assert check_access(ADDRESS, None, answers(401, 403, 200)).status == "fail"


def test_a_token_in_plain_text_over_a_network_is_a_warning():
    assert check_access("http://192.0.2.7:8265", OURS, answers(401, 403, 200)).status == "warn"
    assert check_access("https://192.0.2.7:8265", OURS, answers(401, 403, 200)).status == "ok"


def test_no_answer_fails_and_names_the_tunnel(free_port):
    finding = check_access(f"http://127.0.0.1:{free_port()}", OURS)
    assert (finding.status, "ray dashboard" in finding.fix) == ("fail", True)
