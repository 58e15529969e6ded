import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from distilray.errors import InputError
from distilray.operations.access import Token
from distilray.operations.doctor import cluster
from distilray.operations.doctor.cluster import ClusterNode, check_access, cluster_address, read_cluster

OURS = Token("0c" * 32, "RAY_AUTH_TOKEN")
ADDRESS = "http://127.0.0.1:8265"


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
def test_the_command_line_takes_precedence_over_the_environment(address_option, environment, address):
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
        (bytes.fromhex("000000 04 00 00000000"), ""),  # first frame of a gRPC server
    ],
    ids=["HTTP", "closed", "gRPC"],
)
def test_an_address_without_a_scheme_is_a_dashboard_unless_grpc_answers(answer, scheme):
    with server(answer) as address:
        assert cluster_address(address, {}) == f"{scheme}{address}"


def test_a_port_where_nothing_listens_is_that_of_a_dashboard_and_refused_as_a_gcs(free_port):
    address = f"127.0.0.1:{free_port()}"
    assert cluster_address(address, {}) == f"http://{address}"
    with pytest.raises(InputError, match="nothing answers"):
        read_cluster(address, None)


@pytest.mark.parametrize("address", ["ray://h:10001", "http://", "h:99999", "h:port", "http://h:1/#/jobs"])
def test_an_invalid_address_is_refused_with_the_expected_form(address):
    with pytest.raises(InputError, match="http://HOST:PORT"):
        cluster_address(address, {})


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
    assert (state.address, state.version, state.can_grow) == ("http://h:1", "2.60.0", True)
    assert state.nodes == (ClusterNode(0, 0, 5, is_head=True, group="head"), ClusterNode(16, 8, 0, is_head=False))


@pytest.mark.parametrize("answer", [{}, {"ray_version": "2.60.0"}, [], None], ids=str)
def test_the_response_of_another_server_is_an_input_error(monkeypatch, answer):
    monkeypatch.setattr(cluster, "get_json", lambda *_: answer)
    with pytest.raises(InputError, match="cannot list its nodes"):
        read_cluster("http://h:1", None)


def test_the_port_of_the_dashboard_without_http_is_refused():
    with pytest.raises(InputError, match=r"write http://127\.0\.0\.1:8265"):
        read_cluster("127.0.0.1:8265", None)


@pytest.mark.slow
def test_ray_identifies_its_gcs_and_lists_the_nodes(local_ray):
    import ray

    address = ray.get_runtime_context().gcs_address
    assert cluster_address(address, {}) == address
    (node,) = read_cluster("auto", None).nodes
    assert (node.cpus, node.is_head, node.object_store > 0, node.group) == (2, True, True, "")


@pytest.mark.parametrize(
    ("address", "token", "responses", "status", "words", "is_token_sent"),
    [
        (ADDRESS, OURS, (401, 403, 200), "ok", "403 with a wrong one, 200 with ours", True),
        ("https://192.0.2.7:8265", OURS, (401, 403, 200), "ok", "200 with ours", True),
        ("http://192.0.2.7:8265", OURS, (401, 403, 200), "warn", "sent in plain text", True),
        (ADDRESS, OURS, (401, 403, 403), "fail", "403 with the token of RAY_AUTH_TOKEN", True),
        # The token is sent only to a server that rejects requests like Ray.
        (ADDRESS, OURS, (200, 200, 200), "fail", "is open", False),
        (ADDRESS, OURS, (404, 403, 200), "fail", "404 without a token", False),
        (ADDRESS, OURS, (302, 403, 200), "fail", "302 without a token", False),
        (ADDRESS, OURS, (401, 200, 200), "fail", "200 with a wrong token", False),
        (ADDRESS, OURS, (401, 401, 200), "fail", "401 with a wrong token", False),
        (ADDRESS, None, (401, 403, 200), "fail", "no token on this machine", False),
    ],
)
def test_only_an_api_that_requires_our_token_passes(address, token, responses, status, words, is_token_sent):
    """`responses` are those to requests without a token, with a wrong one and with ours."""
    without_token, wrong_token, our_token = responses
    requests = []

    def get(url: str, value: str | None) -> tuple[int, bytes]:
        requests.append((url, value))
        return {None: without_token, OURS.value: our_token}.get(value, wrong_token), b""

    finding = check_access(address, token, get)
    assert (finding.status, bool(finding.fix)) == (status, status != "ok")
    assert words in finding.message
    assert OURS.value not in finding.message + finding.fix
    assert requests[0] == (f"{address}/api/jobs/", None)
    assert (OURS.value in [value for _, value in requests]) is is_token_sent


def test_no_answer_fails_and_names_the_tunnel(free_port):
    finding = check_access(f"http://127.0.0.1:{free_port()}", OURS)
    assert finding.status == "fail"
    assert "ray dashboard" in finding.fix
